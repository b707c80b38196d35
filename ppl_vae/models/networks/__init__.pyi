from .conv import (
    conv_decoder as conv_decoder,
)
from .conv import (
    conv_encoder as conv_encoder,
)
from .dense import (
    ACTIVATIONS as ACTIVATIONS,
)
from .dense import (
    mlp as mlp,
)
from .named import (
    NETWORKS as NETWORKS,
)
from .named import (
    Architecture as Architecture,
)
from .norms import (
    NORMS as NORMS,
)
from .norms import (
    BatchNorm as BatchNorm,
)
from .norms import (
    GroupNorm as GroupNorm,
)
from .recurrent import GRUCell as GRUCell
from .residual import (
    resnet_decoder as resnet_decoder,
)
from .residual import (
    resnet_encoder as resnet_encoder,
)
from .sets import SetEncoder as SetEncoder
from .shapes import OneHot as OneHot
