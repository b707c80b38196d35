"""Names of other packages that are not public stand in a few files, each with a way without them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ppl_vae"
# The files that may know them.
INTERNALS = {
    "engine/recorder.py",
    "engine/shared_interface.py",
    "engine/torch_internals.py",
    "inference/samplers/nutpie_densities.py",
    "program/pyro_internals.py",
    "program/tensor_versions.py",
}
# Documented under a name that looks private: handlers of effects define and call them.
DOCUMENTED = {"_pyro_sample", "_pyro_post_sample", "_pyro_param", "_process_message", "_postprocess_message",
              "_replace", "_asdict", "_fields"}  # fmt: skip
# Not promised, though their names look public.
UNDOCUMENTED = {"CompiledPyMCModel", "compile_pymc", "proxy_tensor"}
BY_NAME = ("getattr", "hasattr", "delattr", "setattr")


def _is_private(name: object) -> bool:
    if not isinstance(name, str) or not name.isidentifier():
        return False
    return name in UNDOCUMENTED or (name.startswith("_") and not name.startswith("__"))


def _own(trees: list[ast.Module]) -> set[str]:
    """Every private name that the package itself defines."""
    found: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "__setattr__":
            found.update(
                str(ast.literal_eval(arg)) for arg in node.args[1:2] if isinstance(arg, ast.Constant)
            )
    return found


def _foreign(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Private names of others that a file asks for: attributes, imports, and names given as text."""
    for node in ast.walk(tree):
        names: list[object] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("ppl_vae"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "delattr",
            "setattr",
        ):
            names = [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
        for name in names:
            if _is_private(name) and name not in own and name not in DOCUMENTED:
                yield f"line {node.lineno}: {name}"


def test_private_names_of_other_packages_stand_in_their_own_files() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    own = _own(list(trees.values()))
    found = {
        str(path.relative_to(PACKAGE)): names
        for path, tree in trees.items()
        if (names := list(_foreign(tree, own)))
    }
    assert found.keys() <= INTERNALS, found
    assert found, "the law sees nothing"


@pytest.mark.parametrize(
    "line",
    [
        "import torch._inductor",
        "from pyro.poutine.subsample_messenger import _Subsample",
        "from torch._C import _aoti",
        "loss._get_traces(model)",
        "hasattr(torch, '_fused_adam_')",
        "torch._foreach_add_([], [])",
        "from nutpie.compile_pymc import CompiledPyMCModel",
    ],
)
def test_the_law_sees_a_private_name(line: str) -> None:
    assert list(_foreign(ast.parse(line), {"_own"}))


@pytest.mark.parametrize("line", ["p._own", "import torch.optim", "messenger._pyro_sample(m)", "x.__len__()"])
def test_the_law_lets_the_others_be(line: str) -> None:
    assert not list(_foreign(ast.parse(line), {"_own"}))
