from .abilities import (
    ExactEvidence as ExactEvidence,
)
from .abilities import (
    ExactPosterior as ExactPosterior,
)
from .abilities import (
    HasIdentifiable as HasIdentifiable,
)
from .abilities import (
    HasStatistics as HasStatistics,
)
from .abilities import (
    Labelled as Labelled,
)
from .abilities import (
    OwnStatistics as OwnStatistics,
)
from .factors import (
    LinearFactors as LinearFactors,
)
from .factors import (
    PairwiseFactors as PairwiseFactors,
)
from .pair import (
    Pair as Pair,
)
from .pair import (
    Program as Program,
)
from .shown import (
    HasViews as HasViews,
)
from .shown import (
    ViewContext as ViewContext,
)
