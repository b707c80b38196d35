"""Guides of the family of skills, fitted: against exact answers, against NUTS, and in a run's folder."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import ppl_vae
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import compare
from ppl_vae.diagnostics.comparison.alternatives import alternatives
from ppl_vae.inference import exact, guide, natural, nuts
from ppl_vae.models import Skills
from ppl_vae.program.pair import Pair
from tests.models.skills.seasons import season


def fitted(name: str, model: Any, data: Any, **options: Any) -> tuple[Pair, Any]:
    pair = Pair(model, model.guides[name](model, *data))
    return pair, natural.fit(pair, *data, progress=False, **options)


def test_of_scores_the_joint_guide_is_the_posterior_and_its_bound_the_evidence() -> None:
    games = season(40, 5, size=2, dates=6, scores="real")
    options = {"outcome": "score", "drift": "1", "home": True, "skill_sd": 1.0, "drift_sd": 0.4}
    model = Skills.from_data(games, **options)
    data = games.tensors(torch.float64, "score")
    pair, fit = fitted("sparse-precision", model, data, train="both")
    assert fit.final.value == pytest.approx(exact.log_evidence(model, *data).total, abs=1e-6)
    truth, found = model.exact_posterior(*data)["skill"], pair.guide.posterior(*data)[1]
    torch.testing.assert_close(found.mean, truth.mean, atol=1e-6, rtol=0.0)
    torch.testing.assert_close(found.variance, truth.variance, rtol=1e-6, atol=0.0)
    # The performances' sd was learnt: log p(x) is as large there as it gets.
    leaf = model.log_performance_sd
    values = []
    for step in (-1e-3, 0.0, 1e-3):
        with torch.no_grad():
            leaf.add_(step)
            values.append(float(model.exact_log_evidence(*data)))
            leaf.sub_(step)
    slope = (values[2] - values[0]) / 2e-3
    bend = (values[0] + values[2] - 2 * values[1]) / 1e-6
    assert bend < 0
    assert abs(slope) < 0.05 * abs(bend)


def test_a_model_s_own_guides_are_set_beside_each_other(oracles: ModuleType) -> None:
    """Of normal scores all answers are normal: the joint guide's is the posterior, the chains' too sure."""
    games = season(30, 4, dates=3, scores="real")
    held = {"skill_sd": 1.0, "drift_sd": 0.4, "performance_sd": 1.0}
    model = Skills.from_data(games, outcome="score", drift="1", **held)
    data = games.tensors(torch.float64, "score")
    found = alternatives(model, *data, guides=("sparse-precision", "markov"), num_draws=4000, progress=False)
    truth = model.exact_posterior(*data)["skill"]
    sds = {name: answer.draws["skill"].std(("chain", "draw")).to_numpy() for name, answer in found.items()}
    ratio = sds["sparse-precision"] / truth.stddev.numpy()
    low, high = oracles.spread_limits(3999, len(ratio))
    assert (ratio**2 > low).all()
    assert (ratio**2 < high).all()
    assert (sds["markov"] < truth.stddev.numpy()).mean() > 0.9
    with pytest.raises(InputError, match="sparse-precision"):
        alternatives(model, *data, guides=("joint",), progress=False)


def test_nuts_agrees_with_the_joint_guide_and_chains_apart_are_too_sure(oracles: ModuleType) -> None:
    """What players share is not in guides that take them for independent: single skills are too narrow."""
    games = season(40, 4, dates=3, seed=5)
    model = Skills.from_data(
        games, draws=True, drift="1", skill_sd=1.5, drift_sd=0.3, margin=0.5, performance_sd=0.7
    )
    data = games.tensors(torch.float64)
    truth = nuts.sample(model, *data, num_draws=150, warmup=100, chains=2, seed=1, progress=False)
    answers = {
        name: guide.draws(fitted(name, model, data)[0], *data, num_draws=4000, seed=2)
        for name in ("markov", "sparse-precision")
    }
    table = compare(answers, reference=truth, identifiable=model.reported).table.set_index("answer")
    limit = oracles.z_limit(2 * len(table))
    joint, apart = table.loc["sparse-precision"], table.loc["markov"]
    # A normal is not the posterior of wins and draws: a tenth of an sd is what that costs at most here.
    assert (joint["mean_error_in_sd"].abs() < 0.1 + limit * joint["mean_error_mcse"]).all()
    assert ((joint["sd_ratio"] - 1).abs() < 0.1 + limit * joint["sd_ratio_mcse"]).all()
    single = apart[apart["name"].str.startswith("player_skill")]
    assert (single["sd_ratio"] + limit * single["sd_ratio_mcse"] < 1).any()
    sds = {name: model.reported(answer.draws)["player_skill"].std() for name, answer in answers.items()}
    assert float(sds["markov"] / sds["sparse-precision"]) < 0.95


def test_a_season_becomes_a_run_with_its_numbers_learnt(tmp_path: Path) -> None:
    games = season(40, 5, dates=300)
    run = ppl_vae.fit(
        "skills",
        games.dataset,
        draws=True,
        drift="1y",
        home=True,
        method="natural",
        out=tmp_path / "run",
        progress=False,
    )
    assert run.fit.method == "natural gradients"
    assert run.fit.converged
    again = ppl_vae.load(tmp_path / "run")
    assert again.model.numbers == run.model.numbers
    assert {*run.model.numbers} == {"skill_sd", "performance_sd", "drift_sd", "margin"}
    assert run.model.numbers["margin"] != pytest.approx(
        Skills.from_data(games, draws=True, drift="1y").numbers["margin"]
    )
    simulated = again.export("samples")["outcome"].to_numpy()
    assert {*np.unique(simulated)} <= {0.0, 1.0}


def test_the_shell_fits_a_season_from_scores_and_dates(run: Any, tmp_path: Path) -> None:
    games = season(40, 5, dates=9, scores="whole")
    assert games.score is not None
    assert games.time is not None
    names = [games.players[k] for k in games.player]
    lines = ["date,home,away,home_score,away_score"]
    for g, day in enumerate(games.time.astype(int)):
        scores = games.score[2 * g : 2 * g + 2].astype(int)
        lines.append(f"2024-03-0{day + 1},{names[2 * g]},{names[2 * g + 1]},{scores[0]},{scores[1]}")
    (tmp_path / "games.csv").write_text("\n".join(lines))
    asked = ("--draws", "--drift", "1y", "--home", "--guide", "markov", "--method", "natural")
    code, out, error = run(
        "fit", "skills", tmp_path / "games.csv", *asked, "--out", tmp_path / "run", "--json"
    )
    assert code == 0, error
    assert json.loads(out)["converged"]
    assert ppl_vae.load(tmp_path / "run").model.lineup.effects.sides == ("home",)
    code, _, error = run("fit", "skills", tmp_path / "games.csv", "--out", tmp_path / "other")
    assert code == 2
    assert "is a draw, and the model has none" in error


def test_a_club_s_page_speaks_of_games_and_says_what_a_colour_is_worth(run: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    table = tmp_path / "club.csv"
    pairs = [generator.permutation(["Ann", "Bo", "Cy", "Di"])[:2] for _ in range(30)]
    results = generator.choice(["1-0", "0-1", "1/2-1/2"], 30)
    lines = [f"{a},{b},{result}" for (a, b), result in zip(pairs, results, strict=True)]
    table.write_text("\n".join(["white,black,result", *lines]))
    code, _, err = run("fit", "skills", table, "--draws", "--home", "--out", tmp_path / "run")
    assert code == 2
    assert "it has white; covariates=white (--covariates white) takes that" in err
    options = ("--draws", "--covariates", "white", "--method", "natural", "--guide", "sparse-precision")
    code, out, err = run("fit", "skills", table, *options, "--out", tmp_path / "run", "--quiet")
    assert code == 0, err
    assert "nats in all" in out
    assert run("report", tmp_path / "run")[0] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "30 games of 2 sides" in page
    for stranger in ("feature", "batch size", "learning rate", "nats a unit", "DuelSkills"):
        assert stranger not in page, stranger
    again = ppl_vae.load(tmp_path / "run")
    _, posterior = again.pair.guide.posterior(*again.tensors())
    (row,) = again.model.lineup.rows
    said = re.search(r"effect of white</t.>\s*<td[^>]*>(\S+) ± (\S+)</td>", page)
    assert said is not None
    mean, sd = (float(each.replace("−", "-")) for each in said.groups())
    # Of at least 500 draws, and in three digits and two.
    truth = float(posterior.variance[row].detach() ** 0.5)
    assert mean == pytest.approx(float(posterior.mean[row].detach()), abs=5 * truth / 500**0.5 + 0.005)
    assert sd == pytest.approx(truth, rel=5 / 1000**0.5 + 0.05)
