from . import inputs as inputs
from .accept import as_dataset as as_dataset
from .dataset import (
    Dataset as Dataset,
)
from .dataset import (
    Variable as Variable,
)
from .game_tables import read_games as read_games
from .games import Games as Games
from .named import (
    DatasetInfo as DatasetInfo,
)
from .named import (
    load as load,
)
from .named import (
    load_dataset as load_dataset,
)
from .named import (
    names as names,
)
from .prepare import (
    Prepared as Prepared,
)
from .prepare import (
    prepare as prepare,
)
from .preprocess import (
    assign_split as assign_split,
)
from .preprocess import (
    binarise as binarise,
)
from .preprocess import (
    dequantise as dequantise,
)
from .preprocess import (
    dynamic_binarise as dynamic_binarise,
)
from .preprocess import (
    grid_step as grid_step,
)
from .preprocess import (
    split as split,
)
from .preprocess import (
    standardise as standardise,
)
from .readers import SUFFIXES as SUFFIXES
from .rows import IncompleteRows as IncompleteRows
from .rows import Rows as Rows
