from .evidence import (
    annealing as annealing,
)
from .evidence import (
    bounds as bounds,
)
from .evidence import (
    bridge as bridge,
)
from .evidence import (
    importance as importance,
)
from .evidence.elbo import (
    ELBO as ELBO,
)
from .evidence.elbo import (
    elbo as elbo,
)
from .fitting import (
    em as em,
)
from .fitting import (
    ep as ep,
)
from .fitting import (
    fixed_noise as fixed_noise,
)
from .fitting import (
    linear_response as linear_response,
)
from .fitting import (
    natural as natural,
)
from .fitting import (
    restarts as restarts,
)
from .fitting import (
    svi as svi,
)
from .fitting.choice import (
    Choice as Choice,
)
from .fitting.choice import (
    fit as fit,
)
from .samplers import (
    exact as exact,
)
from .samplers import (
    guide as guide,
)
from .samplers import (
    laplace as laplace,
)
from .samplers import (
    nuts as nuts,
)
from .samplers import (
    pathfinder as pathfinder,
)
