"""Expectation propagation as a method of fits: what guides hold, runs keep, and what it does not take."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule

import ppl_vae
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import read_json
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.evidence import importance
from ppl_vae.inference.fitting import ep, natural
from ppl_vae.inference.fitting.choice import fit
from ppl_vae.inference.fitting.fit_result import Choice, EvidenceEstimate
from ppl_vae.inference.fitting.propagation.factors import factors_of
from ppl_vae.program.pair import Pair
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.run import settings_for
from ppl_vae.runs.summary import say_fit
from tests.inference.fitting.contests import (
    HISTORY,
    HISTORY_SDS,
    MARGIN,
    OF_TTT,
    Closed,
    Contests,
    history,
    season,
    solved,
    static,
)  # fmt: skip


def test_the_guide_holds_the_answer_and_is_judged_by_importance_sampling():
    pairs, outcome = season(5, 8, 60)
    model = Closed(static(8, 0.5, 2.0), pairs, None, margin=0.5)
    pair, data = Pair(model, AutoNormal(model)), torch.tensor(outcome).double()
    fitted = ep.fit(pair, data, progress=False)
    mean, sd, _ = solved(model, outcome)
    assert fitted.converged, fitted.reason
    assert fitted.method == "expectation propagation"
    assert fitted.estimate is not None
    assert "no bound" in repr(fitted)
    loc, scale = (part.skill.detach() for part in (pair.guide.locs, pair.guide.scales))
    torch.testing.assert_close(loc, (mean - 0.5) / 2, rtol=0, atol=1e-7)
    torch.testing.assert_close(scale, sd / 2, rtol=0, atol=1e-7)
    judged = importance.log_evidence(pair, data, num_samples=20_000, compile=False, seed=1)
    error = 4 * (judged.total_std_error + fitted.final.std_error)
    assert fitted.final.value < judged.total + error
    # Not a theorem, but what EP is used for: its estimate is nearer to log p(x) than its guide's bound.
    assert abs(fitted.estimate.log_evidence - judged.total) < abs(fitted.final.value - judged.total)


def test_it_is_a_method_of_fits():
    pairs, outcome = season(6, 5, 20)
    model = Closed(static(5), pairs, None, margin=0.5)
    data = torch.tensor(outcome).double()
    found = fit(Pair(model, AutoNormal(model)), data, method="ep", held_out=(data,), progress=False)
    assert found.choice == Choice("ep", "it was asked for", ("svi", "natural", "deterministic"))
    assert found.held_out.shape == (1, 2)
    assert found.estimate is not None
    assert EvidenceEstimate.from_json(found.estimate.to_json()) == found.estimate
    with pytest.raises(InputError, match="and this is Closed with AutoLowRankMultivariateNormal"):
        fit(Pair(model, AutoLowRankMultivariateNormal(model)), data, method="ep", progress=False)
    with pytest.raises(InputError, match="tolerance belongs to other methods; method='ep' does not know it"):
        fit(Pair(model, AutoNormal(model)), data, method="ep", tolerance=0.1)


def test_a_run_keeps_the_estimate_and_says_that_it_is_no_bound(tmp_path: Path) -> None:
    run = ppl_vae.fit("trueskill", "al-east-1987", method="ep", out=tmp_path / "run", progress=False)
    again = ppl_vae.load(tmp_path / "run").fit
    assert again.estimate == run.fit.estimate
    assert again.estimate is not None
    assert again.final.value < again.estimate.log_evidence
    said = say_fit(read_json(tmp_path / "run" / "fit.json"))
    assert f"estimates log p(x) as {again.estimate.log_evidence:.2f} nats" in said
    assert "no bound" in said
    with pytest.raises(InputError, match=r"expectation propagation keeps no checkpoint .* with --overwrite$"):
        fit_run(
            settings_for("trueskill", "al-east-1987", {"method": "ep"}, {}), tmp_path / "run", resume=True
        )


def test_a_guide_of_chains_holds_the_answer():
    chains, states, outcome, where = history()
    model = Closed(chains, states, None, math.sqrt(2.0), MARGIN)
    pair, data = Pair(model, ChainNormal(model)), torch.tensor(outcome).double()
    fitted = ep.fit(pair, data, progress=False)
    _, answer = pair.guide.posterior()
    for player, expected in HISTORY_SDS.items():
        at = [row for (p, _), row in sorted(where.items()) if p == player]
        np.testing.assert_allclose(answer.mean[at].detach(), HISTORY[player], rtol=0, atol=OF_TTT)
        np.testing.assert_allclose(answer.variance.detach().sqrt()[at], expected, rtol=0, atol=OF_TTT)
    best = natural.fit(Pair(model, ChainNormal(model)), data, progress=False)
    assert fitted.final.value < best.final.value < fitted.estimate.log_evidence


def test_what_it_does_not_take():
    chains, states, outcome, _ = history()
    data = torch.tensor(outcome).double()
    model = Contests(chains, states, None, 1.0, 0.5)
    for guide, message in (
        (AutoNormal(model), "the model's are chains"),
        (AutoLowRankMultivariateNormal(model), "and the guide is a AutoLowRankMultivariateNormal"),
    ):
        with pytest.raises(InputError, match=message):
            ep.fit(Pair(model, guide), data, progress=False)
    with pytest.raises(InputError, match="no linear factors"):
        ep.fit(Pair(PyroModule(), AutoNormal(model)), data, progress=False)
    with pytest.raises(InputError, match="row 0 of the design matrix reads no state"):
        factors_of(Contests(static(2), [[0, 0]]), data[:1], num_nodes=8)
    with pytest.raises(InputError, match="two are of the same chain"):
        factors_of(Contests(chains, [[0, chains.num_chains]]), data[:1], num_nodes=8)
    with pytest.raises(InputError, match="damping"):
        ep.fit(Pair(model, AutoNormal(model)), data, damping=1.0, progress=False)
