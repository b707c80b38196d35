from . import (
    em as em,
)
from . import (
    ep as ep,
)
from . import (
    fixed_noise as fixed_noise,
)
from . import (
    linear_response as linear_response,
)
from . import (
    natural as natural,
)
from . import (
    restarts as restarts,
)
from . import (
    svi as svi,
)
