from .common import (
    COLOURS as COLOURS,
)
from .common import (
    WIDTH as WIDTH,
)
from .common import (
    densities as densities,
)
from .common import (
    evidence_gap as evidence_gap,
)
from .common import (
    forest as forest,
)
from .common import (
    write_figure as write_figure,
)
from .views import (
    draw as draw,
)
