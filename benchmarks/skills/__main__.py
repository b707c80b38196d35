"""``python -m benchmarks.skills STUDY …``: one file of this folder a study, each with a ``main``."""

import pkgutil
import sys
from importlib import import_module
from pathlib import Path

STUDIES = sorted(
    each.name for each in pkgutil.iter_modules([str(Path(__file__).parent)]) if each.name[0] != "_"
)


def main() -> None:
    """Run the study that the first argument names; the others are its own."""
    if len(sys.argv) < 2 or sys.argv[1] not in STUDIES:
        sys.exit(f"usage: python -m benchmarks.skills STUDY …\nstudies: {', '.join(STUDIES)}")
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m benchmarks.skills {name}"
    import_module(f"benchmarks.skills.{name}").main()


if __name__ == "__main__":
    main()
