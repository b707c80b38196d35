from .sbc import (
    Calibration as Calibration,
)
from .sbc import (
    sbc as sbc,
)
