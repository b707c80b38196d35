"""The process at the other end of `compile_apart`: it compiles one graph, and ends.

Run by its path, ``python -P compile_child.py FOLDER``. The folder holds ``graph.pickle``; what comes of it is
``graph.so``, or ``error.txt`` with one line.
"""

import pickle
import sys
import types
import warnings
from pathlib import Path


def main(folder: Path) -> None:
    """Compile the folder's graph for inputs of its shapes."""
    import torch

    # The package's face imports every method; all that is needed here is one file beside this one.
    package = types.ModuleType("ppl_vae.inference")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules["ppl_vae.inference"] = package
    from ppl_vae.inference.torch_internals import compile_ahead, make_fx

    warnings.simplefilter("ignore")
    with (folder / "graph.pickle").open("rb") as file:
        module, threads, shapes = pickle.load(file)
    torch.set_num_threads(threads)
    inputs = [torch.zeros(shape, dtype=dtype) for shape, dtype in shapes]
    fake = make_fx(lambda *given: tuple(module(*given)), tracing_mode="fake")(*inputs)
    compile_ahead(fake, inputs, folder / "graph.so")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    try:
        main(place)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        (place / "error.txt").write_text(first[:200], encoding="utf-8")
        sys.exit(1)
