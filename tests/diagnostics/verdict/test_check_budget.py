"""Time budgets: every loop looks at the clock, what fits is done, and what was cut is said."""

import time
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal

from ppl_vae import PPCA, InputError, Pair, Posterior, nuts
from ppl_vae.base import clock
from ppl_vae.base.clock import Clock, OutOfTime, check_time, deadline
from ppl_vae.diagnostics import Check, check, check_pair
from ppl_vae.diagnostics.latents.funnels import Funnel
from ppl_vae.diagnostics.verdict import reference as references
from ppl_vae.diagnostics.verdict.case import NO_TIME, Case, Listed, examine
from ppl_vae.diagnostics.verdict.checks import calibration as calibrating
from ppl_vae.diagnostics.verdict.checks import draws as drawing
from ppl_vae.diagnostics.verdict.checks import prediction as predicting
from ppl_vae.diagnostics.verdict.checks import reference as beside
from ppl_vae.diagnostics.verdict.checks import reweighted as reweighting
from ppl_vae.diagnostics.verdict.checks import weights as weighing
from ppl_vae.diagnostics.verdict.options import CheckOptions
from ppl_vae.diagnostics.verdict.reference import Sampled
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures
from ppl_vae.guides import LinearNormal
from ppl_vae.inference import guide as guides
from ppl_vae.program import simulate as simulation
from ppl_vae.program.problem import Problem
from tests.timed_programs import X, of_rows, regression, without_plate


def test_a_slow_first_call_refuses_nothing():
    calls = []

    def guide(x):
        if not calls:
            time.sleep(0.6)  # a hundred times that would be more than the budget
        calls.append(1)
        pyro.sample("slope", dist.Normal(x.new_tensor(1.0), 0.1))

    found = check_pair(
        Pair(regression, guide),
        X,
        reference=_posterior_of_slope(),
        budget=40.0,
        calibrate=False,
        progress=False,
    )
    assert found.verdict
    assert not found.cut


def _posterior_of_slope():
    precision = 1 + float(X.square().sum())
    mean = 2 * float(X.square().sum()) / precision

    def exact(x):
        pyro.sample("slope", dist.Normal(x.new_tensor(mean), precision**-0.5))

    return guides.draws(Pair(regression, exact), X, num_draws=4000, seed=1)


@pytest.mark.parametrize(
    ("cost", "slower", "begun", "ok"),
    [
        (1.0, 1.0, 3, True),
        (5.8, 1.0, 3, True),
        (8.0, 1.0, 2, False),
        (40.0, 1.0, 1, False),
        (5.8, 1.5, 3, False),
    ],
    ids=["all", "just", "not the third", "only the first", "given up"],
)
def test_nuts_begins_what_fits_and_keeps_what_was_finished(monkeypatch, cost, slower, begun, ok):
    """A sampler that passes only in its third round, within 100 s."""
    now, tried, finished = [0.0], [], []
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    drawn = _posterior_of_slope()

    def sample(pair, x, **options):
        size = options["num_draws"]
        tried.append(size)
        seconds = cost * {250: 1, 800: 3, 2500: 12.5}[size]
        now[0] += seconds * (slower if size == 2500 else 1.0)
        check_time()
        finished.append(size)
        return Posterior(drawn.draws, "nuts", "independent", stats=drawn.stats, seconds=seconds)

    monkeypatch.setattr(references.nuts, "sample", sample)
    monkeypatch.setattr(references, "judge_reference", lambda *_: (len(finished) == 3, ("short",)))
    found = references.nuts_within_budget(
        100.0, Pair(regression, AutoNormal(regression)), X, local=False, coords={}, identifiable=None, seed=0,
        progress=False,
    )  # fmt: skip
    assert tried == [250, 800, 2500][:begun]
    assert found.posterior is not None
    assert found.ok == ok
    assert found.cut == (not ok)
    assert ("longer run" in found.reasons[-1]) == (not ok)


@pytest.mark.parametrize(("apart", "begun"), [(0.0, 3), (0.5, 3), (5.0, 2)], ids=["mix", "slow", "stuck"])
def test_chains_that_stick_are_not_run_longer(monkeypatch, apart, begun):
    """Eight chains whose means are ``apart`` sds from end to end: a last attempt needs draws that count."""
    tried = []
    rng = np.random.default_rng(0)

    def sample(pair, x, **options):
        tried.append(options["num_draws"])
        values = rng.normal(apart * np.arange(8)[:, None] / 8, 1, (8, options["num_draws"]))
        draws = xr.Dataset({"slope": (("chain", "draw"), values)})
        none = xr.Dataset({"diverging": (("chain", "draw"), np.ones(values.shape, bool))})
        return Posterior(draws, "nuts", "chains", stats=none, seconds=0.01)

    monkeypatch.setattr(references.nuts, "sample", sample)
    found = references.nuts_within_budget(
        1e6, Pair(regression, AutoNormal(regression)), X, local=False, coords={}, identifiable=None, seed=0,
        progress=False,
    )  # fmt: skip
    assert tried == [250, 800, 2500][:begun]
    assert not found.ok
    assert not found.cut
    assert ("longer run is unlikely to pass" in found.reasons[-1]) == (begun == 2)


def test_a_part_that_is_one_long_run_ends_at_its_time():
    """A differential equation in a loop of Python's took a predictive check 12 % beyond the budget."""

    def one_run(case):
        state = torch.zeros(())
        for _ in range(10**6):
            state = state + 1.0

    pair = Pair(regression, AutoNormal(regression))
    case = Case(pair, (X,), Clock(0.2), CheckOptions())
    assert examine(case, Listed("prediction", one_run))
    (said,) = case.findings
    assert (said.name, said.status, said.sentence, said.cut) == ("prediction", "skipped", NO_TIME, True)


def test_simulating_data_ends_within_a_run_of_the_program():
    turns = []

    def slow(x):
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            for turn in range(100):
                turns.append(turn)
                time.sleep(0.01)
                z = z * 1.0
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    pair = Pair(slow, AutoNormal(slow))
    problem = Problem.of(pair, X)
    turns.clear()
    with deadline(0.1), pytest.raises(OutOfTime):
        simulation.simulate(problem)
    assert len(turns) < 99


def test_nuts_that_never_finishes_is_said_to_be_cut(monkeypatch):
    def sample(pair, x, **options):
        while True:
            time.sleep(0.01)
            check_time()

    monkeypatch.setattr(references.nuts, "sample", sample)
    found = references.nuts_within_budget(
        0.1, Pair(regression, AutoNormal(regression)), X, local=False, coords={}, identifiable=None, seed=0,
        progress=False,
    )  # fmt: skip
    assert found.posterior is None
    assert found.cut
    assert "shortest run" in found.reasons[0]


def _ppca():
    with torch.no_grad():
        torch.manual_seed(0)
        x = torch.randn(30, 4, dtype=torch.float64)
        model = PPCA(4, 2).set_maximum_likelihood(x)
    guide = LinearNormal(4, 2, dtype=torch.float64)
    return Pair(model, guide), x


def test_same_seed_same_numbers():
    pair, x = _ppca()
    one = check_pair(pair, x, budget=600.0, calibrate=False, progress=False, seed=3)
    again = check_pair(pair, x, budget=600.0, calibrate=False, progress=False, seed=3)
    assert not one.cut
    assert not again.cut
    assert one.measures.to_json() == again.measures.to_json()
    assert [(f.name, f.sentence) for f in one.findings] == [(f.name, f.sentence) for f in again.findings]


def test_the_verdict_is_told_before_data_are_simulated():
    pair, x = _ppca()
    told = []
    found = check_pair(pair, x, budget=600.0, calibrate=False, callback=told.append, progress=False)
    (stands,) = told
    names = [finding.name for finding in stands.findings]
    assert "reference" in names
    assert "prediction" not in names
    assert stands.verdict == found.verdict
    assert "prediction" in [finding.name for finding in found.findings]


def two_coefficients(x):
    offset, slope = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("offset", "slope"))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("y", dist.Normal(offset + slope * x[i], 1.0), obs=2 * x[i])


@pytest.mark.parametrize("model", [regression, of_rows, two_coefficients])
def test_no_data_are_simulated_before_the_verdict_is_told(monkeypatch, model):
    events = []

    class Simulated(Exception):
        pass

    def simulate(*_, **__):
        events.append("data simulated")
        raise Simulated

    monkeypatch.setattr(beside, "nuts_within_budget", lambda *_, **__: Sampled(None, False, ("left out",)))
    monkeypatch.setattr(predicting, "predictive_check", simulate)
    monkeypatch.setattr(calibrating, "sbc", simulate)
    with pytest.raises(Simulated):
        check_pair(
            Pair(model, AutoNormal(model)), X, budget=600.0, progress=False,
            callback=lambda stands: events.append(stands.verdict),
        )  # fmt: skip
    assert len(events) == 2
    assert events[0] in ("trust", "reweight", "do not trust", "cannot tell")
    assert events[1] == "data simulated"


def test_the_budget_that_was_given_is_the_one_that_is_named():
    pair, x = _ppca()
    found = check_pair(pair, x, budget=600.0, calibrate=False, progress=False)
    assert "of a budget of 600 s" in str(found)


def test_stages_are_said_through_a_pipe(capsys):
    pair, x = _ppca()
    check_pair(pair, x, budget=600.0, calibrate=False, progress=True)
    said = capsys.readouterr().err.splitlines()
    assert "check: importance weights" in said
    assert any(line.startswith("check: the verdict stands after") for line in said)
    check_pair(pair, x, budget=600.0, calibrate=False, progress=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("budget", [1e-6, 1e-3])
def test_a_budget_that_is_over_at_once_says_how_much_was(budget):
    pair, x = _ppca()
    with pytest.raises(InputError, match="were over before the first could begin; give it"):
        check(pair.model, pair.guide, x, budget=budget, progress=False)


# The same seed -----------------------------------------------------------------------------------


def funnelled(x):
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        theta = pyro.sample("theta", dist.Normal(0.0, tau))
        pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


@pytest.mark.parametrize("model", [without_plate, of_rows])
def test_same_seed_same_numbers_also_of_fits_and_chains(monkeypatch, model):
    monkeypatch.setattr(nuts, "engine_of_chains", lambda *_: "traced")
    monkeypatch.setattr(references, "ROUNDS", (references._Round(60, 150, 0.8, 8, 20.0),))
    monkeypatch.setattr(weighing, "SAMPLES", (500, 200, 100))
    monkeypatch.setattr(drawing, "DRAWS", (600, 500, 400))
    monkeypatch.setattr(
        import_module("ppl_vae.diagnostics.verdict.check"), "begin_reference", lambda *_: None
    )
    found = []
    for _ in range(2):
        pyro.clear_param_store()
        torch.manual_seed(5)
        guide = AutoNormal(model)
        found.append(
            check(model, guide, X[:4], num_steps=100, budget=3600.0, calibrate=False, progress=False, seed=3)
        )
    one, two = found
    assert not one.cut
    assert not two.cut
    assert one.measures.to_json() == two.measures.to_json()
    assert [(f.name, f.sentence) for f in one.findings] == [(f.name, f.sentence) for f in two.findings]
    assert "nuts" in one.answers


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        ((), ()),
        (("reference",), ("reference",)),
        (("prediction", "calibration"), ("prediction", "calibration")),
        (("convergence",), ("convergence", "weights", "reference", "prediction", "calibration")),
    ],
)
def test_a_fit_that_the_time_ended_makes_every_number_depend_on_it(cut, told):
    names = ("convergence", "weights", "reference", "prediction", "calibration")
    findings = tuple(Finding(name, "pass", "", cut=name in cut) for name in names)
    found = Check(Decision("trust", (), ""), "", findings, Measures(), seconds=1.0, budget=2.0)
    assert found.cut == told
    assert ("every number with it" in found.spent()) == ("convergence" in cut)
    assert ("depends on the time" in found.spent()) == bool(cut)


# A larger budget ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    ["no time", "no passing", "chains elsewhere", "no run"],
    ids=lambda name: name.replace(" ", "-"),
)
def test_a_funnel_that_was_found_stays_whatever_becomes_of_the_reference(monkeypatch, outcome):
    seen = Funnel("tau", ("theta",), 0.5)
    for place in (reweighting, beside):
        monkeypatch.setattr(place, "funnel", lambda posterior: seen if posterior.method != "nuts" else None)
    drawn = {
        "no time": Sampled(None, False, ("late",), cut=True),
        "no run": Sampled(None, False, ("NUTS does not run on this model",)),
    }.get(outcome)

    def within(seconds, pair, x, **options):
        if drawn is not None:
            return drawn
        far = 50.0 if outcome == "chains elsewhere" else 0.0
        own = guides.draws(pair, x, num_draws=400)
        moved = own.draws.assign(theta=own.draws["theta"] + far)
        return Sampled(Posterior(moved, "nuts", "independent"), False, ("R-hat",))

    monkeypatch.setattr(beside, "nuts_within_budget", within)

    def guide(x):
        pyro.sample("tau", dist.LogNormal(-3.0, 0.05))
        with pyro.plate("data", len(x)):
            pyro.sample("theta", dist.Normal(0.0, 0.02))

    found = check_pair(Pair(funnelled, guide), 3 * X, budget=600.0, calibrate=False, progress=False)
    assert found.verdict == "do not trust"
    assert "funnel" in found.reason
    assert found.next_step == "write the model in a non-centred form, and fit again"
