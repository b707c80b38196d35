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
    image_grid as image_grid,
)
from .common import (
    latent_plane as latent_plane,
)
from .common import (
    leaderboard as leaderboard,
)
from .common import (
    win_matrix as win_matrix,
)
from .common import (
    write_figure as write_figure,
)
