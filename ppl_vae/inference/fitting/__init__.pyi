from . import (
    natural as natural,
)
from . import (
    restarts as restarts,
)
from . import (
    svi as svi,
)
