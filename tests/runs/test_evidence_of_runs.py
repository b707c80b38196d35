"""log p(x) of several runs side by side: the numbers, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ppl_vae
from ppl_vae import InputError
from ppl_vae.inference import exact
from ppl_vae.runs.evidence_jobs import EvidenceOptions
from ppl_vae.runs.evidence_of_runs import evidence_of_runs
from ppl_vae.runs.fitted import FittedRun

EXACT = EvidenceOptions(methods=("exact",))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[FittedRun]:
    """PPCA of irises with one and two latents, and a mixture of them."""
    folder = tmp_path_factory.mktemp("runs")
    common: dict[str, Any] = {"method": "em", "progress": False}
    return [
        ppl_vae.fit("ppca", "iris", latent_dim=1, out=folder / "one" / "ppca", **common),
        ppl_vae.fit("ppca", "iris", latent_dim=2, out=folder / "two" / "ppca", **common),
        ppl_vae.fit("gaussian-mixture", "iris", num_components=1, num_starts=1, out=folder / "mix", **common),
    ]


def test_probabilities_are_those_of_the_exact_values(runs: list[FittedRun]) -> None:
    found = evidence_of_runs([each.run for each in runs], EXACT, progress=False)
    totals = np.array([exact.log_evidence(each.model, *each.tensors()).total for each in runs])
    shares = np.exp(totals - totals.max())
    assert [name.rpartition("/")[0] for name in found.table.index][:2] == ["one", "two"]
    np.testing.assert_allclose(found.table["log_evidence"], totals)
    np.testing.assert_allclose(found.table["probability"], shares / shares.sum(), atol=1e-12)
    assert (found.table["method"] == "exact").all()
    (note,) = found.notes
    assert "is at parameters that were learnt from these rows" in note
    assert (
        json.loads(json.dumps(found.result))["runs"][1]["probability"] == found.table["probability"].iloc[1]
    )


def test_the_shell_prints_and_saves_them(runs: list[FittedRun], run: Any) -> None:
    code, out, _ = run("evidence", runs[0].folder, runs[1].folder, "--method", "exact", "--rows", "0:20")
    assert code == 0
    assert "log p(x) of the train rows (20), in nats in all" in out
    assert "one/ppca" in out
    assert "probability" in out
    assert "Note: " in out
    kept = [each.evidence["exact"].total for each in runs[:2]]
    code, out, _ = run(
        "evidence", runs[0].folder, runs[1].folder, "--method", "exact", "--rows", "0:20", "--json"
    )
    assert [each["log_evidence"] for each in json.loads(out)["runs"]] == kept


def test_runs_that_cannot_be_compared_are_refused(runs: list[FittedRun], tmp_path: Path, run: Any) -> None:
    x = np.random.default_rng(0).normal(size=(150, 4))
    first = runs[0].run

    def other(data: Any, name: str, model: str = "ppca", **options: Any) -> Any:
        short = {"num_steps": 1, "stop": False, "progress": False, "out": tmp_path / name}
        return ppl_vae.fit(model, data, **short, **options).run

    for against, said in (
        (other(x, "x"), r"their values differ \(another data set, split or seed\)"),
        (other("iris", "raw", standardize=False), "standardize is True and False"),
        (other(x[:, :3], "narrow"), r"their shapes are \(150, 4\) and \(150, 3\)"),
    ):
        with pytest.raises(InputError, match=f"are not of the same data: {said}"):
            evidence_of_runs([first, against], EXACT, progress=False)
    binary = (x > 0).astype(float)
    vaes = [
        other(binary, name, "vae", likelihood=name, hidden=(), split=(1.0, 0.0, 0.0))
        for name in ("bernoulli", "gaussian")
    ]
    with pytest.raises(InputError, match="densities of real numbers, the other probabilities"):
        evidence_of_runs(vaes, EXACT, progress=False)
    with pytest.raises(InputError, match="a run is given twice"):
        evidence_of_runs([first, first], EXACT, progress=False)
    with pytest.raises(InputError, match="--method iwae bounds log p"):
        evidence_of_runs([first, runs[1].run], EvidenceOptions(methods=("iwae",)), progress=False)
    code, _, err = run("evidence", runs[0].folder, runs[1].folder, "--worst", 3)
    assert code == 2
    assert "--worst belongs to a single run" in err
