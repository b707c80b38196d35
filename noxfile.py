"""The versions that are supported, each in a fresh environment: the demo, then the suite.

``nox`` runs all of them, ``nox -s "suite(newest, 3.13)"`` one. ``lowest`` installs the lowest version that
pyproject allows of everything it names, ``newest`` what the package index gives today. A Python that is not
installed is skipped. Behind ``--`` stand other arguments for pytest.
"""

import nox

nox.options.sessions = ["suite"]
nox.options.download_python = "never"

# There are no wheels of the lowest versions for newer Pythons than the lowest.
MATRIX = [
    nox.param("3.11", "lowest-direct", id="lowest, 3.11"),
    nox.param("3.11", "highest", id="newest, 3.11"),
    nox.param("3.13", "highest", id="newest, 3.13"),
]
VERSIONS = """
import sys, importlib.metadata as metadata
print(sys.version, *sorted(f"{d.name}=={d.version}" for d in metadata.distributions()), sep="\\n")
"""
SUITE = ("-n", "2", "--dist", "worksteal", "-m", "not slow")


@nox.session(venv_backend="uv", reuse_venv=False)
@nox.parametrize(("python", "resolution"), MATRIX)
def suite(session: nox.Session, resolution: str) -> None:
    """Install as a user does, make the demo, run the tests; nothing compiled before is used."""
    session.install("--resolution", resolution, "-e", ".[test]")
    session.run("python", "-c", VERSIONS)
    room = session.create_tmp()
    session.env["PPL_VAE_CACHE"] = f"{room}/compiled"
    session.run("ppl-vae", "demo", "--quick", "--out", f"{room}/demo")
    session.run("python", "-m", "pytest", *(session.posargs or SUITE))
