"""The next step as a command: what the page says can be typed."""

import shlex
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_vae
from ppl_vae.base.options import changed
from ppl_vae.diagnostics.verdict.advice import Facts, advise
from ppl_vae.diagnostics.verdict.check import Check
from ppl_vae.diagnostics.verdict.rule import Decision, Measures, QuantityNames
from ppl_vae.inference.fitting.choice import settled
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.next_command import next_command
from ppl_vae.runs.run import Run, settings_for
from tests.models.skills.seasons import season

FOUND = Check(Decision("do not trust", (), "so"), "do so", (), Measures("nuts", True), budget=30.0)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("a run's folder") / "wine & more"
    given = {"steps": 2, "seed": 3, "stop": False, "standardize": True, "lr": 0.02, "split": (0.8, 0.1, 0.1)}
    fit_run(settings_for("bayesian-ppca", "wine", given, {"latent_dim": 3}), folder, progress=False)
    return Run.open(folder)


@pytest.mark.parametrize(
    ("advice", "guide", "steps"), [("more steps", "mean-field", 20), ("richer guide", "full-rank", 2)]
)
def test_another_fit_is_the_same_but_for_what_is_advised(run, fitted, advice, guide, steps):
    words = shlex.split(next_command(fitted, replace(FOUND, advice=advice)))
    assert words[:2] == ["ppl-vae", "fit"]
    code, _, err = run(*words[1:], "--quiet")
    assert code == 0, err
    again = Run.open(type(fitted.folder)(f"{fitted.folder}-again")).settings
    fit = replace(fitted.settings.fit, num_steps=steps)
    assert again == replace(fitted.settings, guide=guide, fit=fit)
    assert changed(again.options) == {"latent_dim": 3}
    shutil.rmtree(f"{fitted.folder}-again")


@pytest.mark.parametrize(
    ("options", "fit"),
    [({"draws": True}, {"steps": 2, "stop": False, "lr": 0.02}), ({"drift": "1"}, {"method": "ep"})],
)
def test_skills_are_fitted_again_with_the_guide_that_the_advice_names(run, tmp_path, options, fit):
    """Sentence, command and fit agree; the method is one that takes the guide, whatever the first one was."""
    table = tmp_path / "games.csv"
    season(12, 4, dates=4).to_csv(table)
    own = settings_for("skills", str(table), fit, {"draws": True, "skill_sd": 1.0, **options})
    folder = tmp_path / "club"
    fit_run(own, folder, progress=False)
    first = Run.open(folder)
    facts = Facts(identified_right=True, mean_field=True, guides=tuple(first.model.guides))
    names = QuantityNames(wrong="player_skill", right="difference")
    for other in (facts, replace(facts, identified_right=False)):
        advice = advise(FOUND.decision, Measures("nuts", other.identified_right), other, names)
        assert advice.guide == "sparse-precision"
        assert f"--guide {advice.guide}" in advice.sentence
    advised = advise(FOUND.decision, FOUND.measures, facts, names)
    words = shlex.split(next_command(first, replace(FOUND, advice=advised.key, guide=advised.guide)))
    code, _, err = run(*words[1:], "--quiet")
    assert code == 0, err
    again = Run.open(tmp_path / "club-again").settings
    assert (again.guide, again.options) == ("sparse-precision", own.options)
    assert (again.fit.method, again.seed) == ("auto", own.seed)


def test_training_better_asks_for_another_method_and_for_no_option_of_svi(fitted):
    words = shlex.split(next_command(fitted, replace(FOUND, advice="train better")))
    assert words[words.index("--method") + 1] == "auto"
    given = [word[2:].replace("-", "_") for word in words if word.startswith("--")]
    assert not {"steps", "lr", "no_stop"} & set(given)
    assert settled("natural", given) == "natural"
    assert {"seed", "latent_dim", "split"} <= set(given)


def test_data_given_in_python_are_fitted_again_from_the_run_s_folder(run, tmp_path):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), columns=list("abc"))
    ppl_vae.fit("ppca", table, out=tmp_path / "run", num_steps=2, stop=False, progress=False)
    words = shlex.split(next_command(Run.open(tmp_path / "run"), replace(FOUND, advice="more steps")))
    code, _, err = run(*words[1:], "--quiet")
    assert code == 0, err
    ours, again = (Run.open(tmp_path / name).tensors()[0] for name in ("run", "run-again"))
    assert torch.equal(ours, again)


@pytest.mark.parametrize("only_python", [{"batch_size": None}, {"columns": {"x": "ash"}}])
def test_what_only_python_can_ask_for_is_no_command(fitted, only_python):
    part = "fit" if "batch_size" in only_python else "preparation"
    own = settings_for("vae", "digits", {"batch_size": 64}, {"hidden": (50, 20)})
    words = next_command(replace(fitted, settings=own), replace(FOUND, advice="more steps"))
    assert words.endswith("--guide amortised --steps 200000 --hidden 50,20 --batch-size 64")
    asked = replace(own, **{part: replace(getattr(own, part), **only_python)})
    assert next_command(replace(fitted, settings=asked), replace(FOUND, advice="more steps")) == ""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (replace(FOUND, advice="use"), ["export", "--what", "draws", "--out", "draws.csv"]),
        (replace(FOUND, advice="use", index=(0, 1)), ["export", "--what", "codes", "--out", "codes.csv"]),
        (replace(FOUND, advice="larger budget"), ["check", "--budget", "120s"]),
        (replace(FOUND, advice="larger budget", budget=100.0), ["check", "--budget", "400s"]),
    ],
)
def test_other_steps_are_commands_about_the_run(fitted, found, expected):
    words = shlex.split(next_command(fitted, found))
    assert words == ["ppl-vae", expected[0], str(fitted.folder), *expected[1:]]


def test_draws_are_shown_by_python(run, fitted):
    for advice, name in (
        ("reweight", "reweighted"),
        ("use the reference", "nuts"),
        ("linear response", "linear-response"),
    ):
        python, option, code = shlex.split(next_command(fitted, replace(FOUND, advice=advice)))
        assert (python, option) == ("python", "-c")
        compile(code, "typed", "exec")
        assert f"answers['{name}']" in code


@pytest.mark.parametrize("advice", ["", "reparametrise", "restart", "spread"])
def test_where_the_model_itself_must_change_there_is_no_command(fitted, advice):
    assert next_command(fitted, replace(FOUND, advice=advice)) == ""
