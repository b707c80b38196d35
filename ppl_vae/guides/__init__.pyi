from .amortised import (
    AmortisedNormal as AmortisedNormal,
)
from .amortised import (
    LinearNormal as LinearNormal,
)
from .amortised_flow import AmortisedFlow as AmortisedFlow
from .chain_normal import ChainNormal as ChainNormal
from .joint_normal import JointNormal as JointNormal
from .layered import BottomUp as BottomUp
from .layered import Ladder as Ladder
from .local import (
    LocalSite as LocalSite,
)
from .local import (
    LocalVector as LocalVector,
)
from .mixture import MixtureNormal as MixtureNormal
from .named import BlockNormal as BlockNormal
from .named import named_guide as named_guide
from .normal import num_raw as num_raw
from .patterns import PatternNormal as PatternNormal
from .per_datum import (
    PerDatum as PerDatum,
)
from .per_datum import (
    PerDatumNormal as PerDatumNormal,
)
from .per_datum_flow import PerDatumFlow as PerDatumFlow
from .prior import Prior as Prior
from .semi_amortised import SemiAmortised as SemiAmortised
from .sparse import SparseNormal as SparseNormal
from .spline_flow import SplineFlow as SplineFlow
