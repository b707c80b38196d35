from . import (
    exact as exact,
)
from . import (
    guide as guide,
)
from . import (
    laplace as laplace,
)
from . import (
    nuts as nuts,
)
from . import (
    pathfinder as pathfinder,
)
