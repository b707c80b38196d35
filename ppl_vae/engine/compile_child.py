"""The process at the other end of `compile_apart`: it compiles one graph, runs it once, and ends.

Run by its path, ``python -P compile_child.py FOLDER``. The folder holds ``graph.json``; what comes of it is
``graph.so``, or ``error.txt`` with one line. ``made`` stands there once the library does: what ends the
process from then on is the library.
"""

import json
import math
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

# Numbers that a graph may take for being run.
MOST_RUN = 1_000_000


def main(folder: Path) -> None:
    """Compile the folder's graph for inputs of its shapes."""
    import torch

    from ppl_vae.engine.torch_internals import compile_ahead, load_ahead, make_fx

    warnings.simplefilter("ignore")
    sent = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    torch.set_num_threads(sent["threads"])
    inputs = [torch.zeros(size, dtype=getattr(torch, name)) for size, name in sent["inputs"]]
    # The names that the code of a graph may use (`compile_apart.NAMES`).
    place: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
    place["NoneType"] = type(None)
    exec(sent["code"], place)
    fake = make_fx(lambda *given: tuple(place["forward"](None, *given)), tracing_mode="fake")(*inputs)
    library = compile_ahead(fake, inputs, folder / "graph.so")
    (folder / "made").touch()
    run = load_ahead(library)
    # Large ones would take memory that the caller wants. Zeros may be no values for it, which it says.
    if sum(tensor.numel() for tensor in inputs) <= MOST_RUN:
        with suppress(RuntimeError):
            run(inputs)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    try:
        main(place)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        (place / "error.txt").write_text(first[:200], encoding="utf-8")
        sys.exit(1)
