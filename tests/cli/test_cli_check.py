"""`ppl-vae check` as it is typed: a run, a fit to be made, a user's own file."""

import json
from types import SimpleNamespace

import pytest

PROGRAM = """
import pyro, pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal

def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

def raises(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    raise KeyError("[/oops]")

def leaves(y):
    raise SystemExit(3)

def blind(y):
    pass

def prior_only(y):
    pyro.sample("mu", dist.Normal(0.0, 3.0))

guide = AutoNormal(model)

from ppl_vae.views import Intervals

def views(context):
    means = {name: float(draws["mu"].mean()) for name, draws in context.draws.items()}
    ends = {name: [[mean - 1, mean, mean + 1]] for name, mean in means.items()}
    said = f"{len(context.data[0])} data, {len(context.data)} argument, {', '.join(means)}."
    return [Intervals(caption=said, names=["mu"], answers=ends, label="mean ± 1")]

model.views = views
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my.py").write_text(PROGRAM)
    (tmp_path / "x.csv").write_text("y\n1.2\n0.4\n1.9\n1.1\n")
    return tmp_path


@pytest.fixture
def check(folder, run, monkeypatch):
    """Call `ppl-vae check` in that folder, in this process."""
    monkeypatch.chdir(folder)

    def call(*arguments):
        code, out, err = run("check", *arguments)
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return call


def test_own_programs_are_fitted_and_judged(folder, check):
    done = check("my.py:model", "my.py:guide", "--data", "x.csv", "--no-calibrate", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "trust"
    assert {finding["name"] for finding in result["findings"]} >= {"convergence", "weights", "reference"}
    page = (folder / "check" / "report.html").read_text(encoding="utf-8")
    assert page.index("Trust") < page.index("<img")
    assert "<figcaption>4 data, 1 argument, svi, reweighted, nuts.</figcaption>" in page
    again = check("my.py:model", "mean-field", "--data", "x.csv", "--no-calibrate", "--budget", "1m")
    assert again.returncode == 0, again.stderr
    assert "Verdict: trust" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("my.py:model", "my.py:blind", "--data", "x.csv"), "misses the model's latent sites mu"),
        (("my.py:prior_only", "my.py:guide", "--data", "x.csv"), "observes nothing"),
        (("my.py:raises", "mean-field", "--data", "x.csv"), "my.py, line 12: KeyError: '[/oops]'"),
        (("my.py:leaves", "mean-field", "--data", "x.csv"), "my.py, line 15: it ends Python itself"),
        (("my.py:model", "my.py:guide", "--data", "x.csv", "--budget", "10ms"), "is no time"),
        (("my.py:model", "my.py:guide", "--data", "x.csv", "--budget", "0.01s"), "too short for any check"),
        (("my.py:model",), "needs a guide and --data"),
        (("my.py:model", "my.py:guide", "--data", "absent.csv"), "no file absent.csv"),
        (("nowhere",), "nowhere does not exist"),
        (("nowhere", "--data", "x.csv"), "belong to models of your own"),
    ],
)
def test_bad_use_gets_a_sentence(check, arguments, message):
    done = check(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("undrawn")
def test_models_of_the_suite_are_fitted_first(folder, check):
    done = check("ppca", "iris", "--out", "iris", "--no-calibrate", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "trust"
    assert result["measures"]["reference"] == "exact"
    assert result["rows"] == list(range(8))
    twice = check("ppca", "iris", "--out", "iris")
    assert twice.returncode == 2
    assert "ppl-vae check iris" in twice.stderr
    again = check("iris", "--rows", "10:13", "--no-calibrate", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["rows"] == [10, 11, 12]
    page = (folder / "iris" / "report.html").read_text(encoding="utf-8")
    assert page.index("Trust") < page.index("<img")


@pytest.mark.usefixtures("undrawn")
def test_own_functions_are_what_is_compared(folder, check):
    (folder / "my.py").write_text(
        PROGRAM + "\ndef twice(draws):\n    return (2 * draws[['mu']]).rename(mu='doubled')\n"
    )
    done = check(
        "my.py:model", "my.py:guide", "--data", "x.csv", "--identifiable", "my.py:twice",
        "--no-calibrate", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = json.loads((folder / "check" / "check-comparison.json").read_text())["table"]
    assert set(table["name"]) == {"doubled"}


def test_other_files_are_not_touched(folder, check):
    (folder / "check").mkdir()
    (folder / "check" / "letter.txt").write_text("dear")
    done = check("my.py:model", "my.py:guide", "--data", "x.csv")
    assert done.returncode == 2
    assert "holds no check" in done.stderr
