from .calibration.sbc import (
    Calibration as Calibration,
)
from .calibration.sbc import (
    sbc as sbc,
)
from .comparison.agreement import (
    Agreement as Agreement,
)
from .comparison.agreement import (
    Sandwich as Sandwich,
)
from .comparison.agreement import (
    agreement as agreement,
)
from .comparison.agreement import (
    sandwich as sandwich,
)
from .comparison.alternatives import alternatives as alternatives
from .comparison.compare import (
    Comparison as Comparison,
)
from .comparison.compare import (
    compare as compare,
)
from .comparison.compare import (
    judge_reference as judge_reference,
)
from .comparison.models import (
    model_probabilities as model_probabilities,
)
from .forecasting.forecasts import (
    Forecasts as Forecasts,
)
from .forecasting.scoring import (
    ForecastScores as ForecastScores,
)
from .forecasting.scoring import (
    score_forecasts as score_forecasts,
)
from .latents.collapse import (
    Collapse as Collapse,
)
from .latents.collapse import (
    collapse as collapse,
)
from .latents.gaps import (
    Gap as Gap,
)
from .latents.gaps import (
    Gaps as Gaps,
)
from .latents.gaps import (
    gaps as gaps,
)
from .prediction.predictive import (
    Predictive as Predictive,
)
from .prediction.predictive import (
    predictive_check as predictive_check,
)
from .verdict.check import (
    Check as Check,
)
from .verdict.check import (
    check as check,
)
from .verdict.check import (
    check_pair as check_pair,
)
from .verdict.rule import (
    Finding as Finding,
)
from .verdict.rule import (
    Measures as Measures,
)
from .verdict.rule import (
    Rule as Rule,
)
from .verdict.rule import (
    decide as decide,
)
