"""Run the study that is named: a module of this folder with a ``main`` that takes its arguments."""

import sys
from importlib import import_module
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in NAMES:
        raise SystemExit(f"python -m benchmarks.lectures NAME; the names are {', '.join(NAMES)}")
    import_module(f"benchmarks.lectures.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
