from . import (
    annealing as annealing,
)
from . import (
    bounds as bounds,
)
from . import (
    bridge as bridge,
)
from . import (
    importance as importance,
)
