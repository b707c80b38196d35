from .rule import (
    Finding as Finding,
)
from .rule import (
    Measures as Measures,
)
from .rule import (
    Rule as Rule,
)
from .rule import (
    decide as decide,
)
