"""Modules of 0.1.0 at the places they have left, in a process whose modules nobody else sees."""

import subprocess
import sys

CODE = """
import importlib, warnings
import ppl_vae
from ppl_vae.moved import MOVED

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
