"""Modules of 0.1.0 at the places they have left, in a process whose modules nobody else sees."""

import subprocess
import sys

CODE = r"""
import importlib, re, warnings
import ppl_vae
from ppl_vae.moved import GONE, MOVED, RENAMED

for old, new in MOVED.items():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module = importlib.import_module(old)
    (one,) = [each for each in said if each.category is DeprecationWarning and old in str(each.message)]
    assert f"{old} has moved to {new};" in str(one.message), one.message
    assert one.filename.endswith("importlib/__init__.py") or "importlib" in one.filename, one.filename
    there = importlib.import_module(new)
    for name in there.__all__:
        assert getattr(module, name) is getattr(there, name), (old, name)
for old, new in RENAMED.items():
    places = [place.rpartition(".") for place in (old, new)]
    one, other = (getattr(importlib.import_module(module), name) for module, _, name in places)
    assert one is other, old
for old, what in GONE.items():
    module, _, name = old.rpartition(".")
    for line in (f"from {module} import {name}", f"import {old}"):
        try:
            exec(line)
        except ImportError as error:
            assert f"{old} is gone; in its place: {what}" in str(error), error
        else:
            raise AssertionError(line)
    for place in re.findall(r"ppl_vae(?:\.\w+)+", what):
        module, _, name = place.rpartition(".")
        assert hasattr(importlib.import_module(module), name), place
# Where a face has a function of a module's old name, both go on working.
import ppl_vae.diagnostics.compare, ppl_vae.inference.elbo
from ppl_vae.diagnostics.compare import compare
assert compare is ppl_vae.compare
for face, name in ((ppl_vae.diagnostics, "compare"), (ppl_vae.inference, "elbo")):
    try:
        getattr(face, name)()
    except TypeError as error:
        assert f"{name}() missing" in str(error), error
    else:
        raise AssertionError(name)
try:
    import ppl_vae.inference.nowhere
except ModuleNotFoundError:
    print(len(MOVED))
"""


def test_deep_imports_of_the_first_version_work_and_name_the_new_place() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_the_warning_points_at_who_imports(tmp_path) -> None:
    script = tmp_path / "old.py"
    script.write_text("import ppl_vae\nfrom ppl_vae.errors import InputError\n")
    done = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", check=True)
    assert f"{script}:2: DeprecationWarning: ppl_vae.errors has moved to ppl_vae.base.errors" in done.stderr
