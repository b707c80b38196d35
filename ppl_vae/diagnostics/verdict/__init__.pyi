from .case import (
    Case as Case,
)
from .case import (
    Found as Found,
)
from .case import (
    Listed as Listed,
)
from .listed import CHECKS as CHECKS
from .rule import (
    Decision as Decision,
)
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
    Status as Status,
)
from .rule import (
    Verdict as Verdict,
)
from .rule import (
    decide as decide,
)
