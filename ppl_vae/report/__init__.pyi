from .page import (
    Banner as Banner,
)
from .page import (
    Part as Part,
)
from .page import (
    Picture as Picture,
)
from .page import (
    Section as Section,
)
from .page import (
    Table as Table,
)
from .page import (
    Tone as Tone,
)
from .page import (
    write_page as write_page,
)
from .parts.check import (
    check_section as check_section,
)
from .parts.check import (
    write_check as write_check,
)
