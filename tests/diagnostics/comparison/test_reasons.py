"""Reasons are values: they survive JSON, and their sentences are made of them alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ppl_vae import Posterior
from ppl_vae.diagnostics.comparison.compare import Comparison, compare
from ppl_vae.diagnostics.comparison.quantities import Quantities
from ppl_vae.diagnostics.comparison.reasons import Reason, reasons_in
from ppl_vae.diagnostics.verdict.check import check_pair
from ppl_vae.diagnostics.verdict.checks.draws import draws
from ppl_vae.diagnostics.verdict.checks.reference import reference
from ppl_vae.diagnostics.verdict.listed import CHECKS
from ppl_vae.inference.samplers import nuts
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.jobs import compare_run
from ppl_vae.runs.run import Run, settings_for


def _posterior(values: np.ndarray, method: str, dependence: str = "independent") -> Posterior:
    draws = xr.Dataset({"theta": (("chain", "draw", "item"), values)}, coords={"item": ["a", "b"]})
    return Posterior(draws, method, dependence)  # type: ignore[arg-type]


RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=(4, 1000, 2))
CASES = {
    "mean": (RNG.normal(1.0, 1.0, (1, 4000, 2)), TRUTH),
    "sd": (RNG.normal(0.0, 0.4, (1, 4000, 2)), TRUTH),
    "open": (RNG.normal(0.3, 1.0, (1, 100, 2)), TRUTH),
    "few": (RNG.normal(0.0, 1.0, (1, 30, 2)), TRUTH),
    "agrees": (RNG.normal(size=(1, 8000, 2)), RNG.normal(size=(4, 2000, 2))),
    "correlation": (RNG.normal(size=(1, 4000, 2)), np.stack([TRUTH[..., 0]] * 2, -1) + 0.3 * TRUTH),
    "r_hat": (RNG.normal(size=(1, 4000, 2)), TRUTH + np.arange(4)[:, None, None]),
    "ess": (RNG.normal(size=(1, 4000, 2)), TRUTH[:, :80]),
}


@pytest.mark.parametrize("criterion", CASES)
def test_a_reason_names_its_criterion_and_survives_json(criterion: str, tmp_path: Path) -> None:
    answer, truth = CASES[criterion]
    found = compare({"svi": _posterior(answer, "guide")}, reference=_posterior(truth, "nuts", "chains"))
    assert criterion in [reason.criterion for reason in found.why]
    found.save(tmp_path / "comparison.json")
    again = Comparison.load(tmp_path / "comparison.json")
    assert [reason.to_json() for reason in again.why] == [reason.to_json() for reason in found.why]
    assert again.reasons == found.reasons
    assert [reason.answer for reason in found.why] == [("svi" if found.reference_ok else "")] * len(found.why)


def test_the_numbers_of_a_reason_are_those_of_the_table() -> None:
    answer, truth = CASES["mean"]
    found = compare({"svi": _posterior(answer, "guide")}, reference=_posterior(truth, "nuts", "chains"))
    (mean,) = [reason for reason in found.why if reason.criterion == "mean"]
    table = found.table.set_index("name")["mean_error_in_sd"]
    assert mean.quantity == table.idxmax()
    assert mean.size == table.max()
    assert (mean.count, mean.total, mean.limits) == (2, 2, (0.2,))


def test_what_is_infinite_survives_json() -> None:
    reason = Reason(criterion="shape", quantity="a", size=np.inf, count=1, total=2)
    assert Reason.from_json(json.loads(json.dumps(reason.to_json(), allow_nan=False))).size == np.inf


def test_sentences_of_an_earlier_version_are_told_apart_by_their_answers() -> None:
    kept = {
        "verdicts": {"svi": "differs", "flow": "agrees"},
        "reasons": ["svi: off", "flow: fine", "odd: one"],
    }
    found = reasons_in(kept)
    assert [(reason.answer, reason.sentence) for reason in found] == [
        ("svi", "off"), ("flow", "fine"), ("", "odd: one"),
    ]  # fmt: skip
    assert [str(reason) for reason in found] == kept["reasons"]


# Compare and check -------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_compare_and_check_say_the_same_of_the_same_chains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart: float
) -> None:
    """Chains that agree in all differences of skills, and lie apart in their mean, which check judges too."""
    fit_run(settings_for("trueskill", "al-east-1987", {"steps": 30}, {}), tmp_path, progress=False)
    run = Run.open(tmp_path)
    generator = np.random.default_rng(1)
    values = generator.normal(size=(8, 400, len(run.model.players))) + apart * np.arange(8)[:, None, None]
    skills = xr.Dataset(
        {"skill": (("chain", "draw", "player"), values)}, coords={"player": list(run.model.players)}
    )
    chains = Posterior(skills, "nuts", "chains", seconds=0.1)
    monkeypatch.setattr(nuts, "sample", lambda *_, **__: chains)
    by_compare, _ = compare_run(run, guides=() if apart else ("laplace",), progress=False)
    # Linear response comes by itself beside other guides, where the run's own is mean-field.
    others = () if apart else ("laplace", "linear-response")
    assert tuple(by_compare.verdicts) == ("svi", "reweighted", *others)
    checks = tuple(each for each in CHECKS if each.run in (draws, reference))
    by_check = check_pair(run.pair, *run.tensors(), checks=checks, budget=600.0, progress=False)
    assert by_check.comparison is not None
    assert by_compare.reference_ok == by_check.measures.reference_ok == (apart == 0)
    assert by_compare.limits == by_check.comparison.limits
    if apart:
        (finding,) = [each for each in by_check.findings if each.name == "reference"]
        assert finding.sentence.startswith(by_compare.reasons[0])
        assert "skill" in by_compare.reasons[0]
    named = Quantities(run.model, None, local=False).names(chains)
    assert named == ("relative_skill", "difference", "skill")
