from . import (
    data as data,
)
from . import (
    diagnostics as diagnostics,
)
from . import (
    guides as guides,
)
from . import (
    inference as inference,
)
from . import (
    models as models,
)
from .answers.evidence import Evidence as Evidence
from .answers.foreign import foreign_draws as foreign_draws
from .answers.posterior import Posterior as Posterior
from .base.errors import InputError as InputError
from .diagnostics.calibration.sbc import (
    Calibration as Calibration,
)
from .diagnostics.calibration.sbc import (
    sbc as sbc,
)
from .diagnostics.comparison.agreement import (
    Agreement as Agreement,
)
from .diagnostics.comparison.agreement import (
    agreement as agreement,
)
from .diagnostics.comparison.agreement import (
    sandwich as sandwich,
)
from .diagnostics.comparison.alternatives import alternatives as alternatives
from .diagnostics.comparison.compare import (
    Comparison as Comparison,
)
from .diagnostics.comparison.compare import (
    compare as compare,
)
from .diagnostics.latents.gaps import (
    Gaps as Gaps,
)
from .diagnostics.latents.gaps import (
    gaps as gaps,
)
from .diagnostics.prediction.predictive import predictive_check as predictive_check
from .diagnostics.verdict.check import (
    Check as Check,
)
from .diagnostics.verdict.check import (
    check as check,
)
from .inference.evidence import (
    annealing as annealing,
)
from .inference.evidence import (
    bounds as bounds,
)
from .inference.evidence import (
    bridge as bridge,
)
from .inference.evidence import (
    importance as importance,
)
from .inference.fitting import (
    natural as natural,
)
from .inference.fitting import (
    svi as svi,
)
from .inference.samplers import (
    exact as exact,
)
from .inference.samplers import (
    guide as guide,
)
from .inference.samplers import (
    nuts as nuts,
)
from .inference.samplers import (
    pathfinder as pathfinder,
)
from .models import (
    PPCA as PPCA,
)
from .models import (
    VAE as VAE,
)
from .models import (
    BayesianPPCA as BayesianPPCA,
)
from .models import (
    ConditionalVAE as ConditionalVAE,
)
from .models import (
    HierarchicalVAE as HierarchicalVAE,
)
from .models import (
    Skills as Skills,
)
from .models import (
    TrueSkill as TrueSkill,
)
from .program.pair import Pair as Pair
from .runs.fitted import (
    FittedRun as FittedRun,
)
from .runs.fitted import (
    fit as fit,
)
from .runs.fitted import (
    load as load,
)

__version__: str
