"""Deadlines: every loop and every run of a program looks at the clock, and what was cut is left whole."""

import time
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal

from ppl_vae import InputError, Pair, importance, nuts, svi
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base import clock
from ppl_vae.base.clock import Clock, OutOfTime, check_time, deadline, time_left
from ppl_vae.base.fallback import Untraceable
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.watch import watched
from ppl_vae.diagnostics import check, collapse, compare, predictive_check
from ppl_vae.diagnostics.comparison.distances import Sample
from ppl_vae.diagnostics.comparison.tables import joint_row, quantities_table
from ppl_vae.diagnostics.latents.funnels import funnel
from ppl_vae.diagnostics.verdict import fitting
from ppl_vae.diagnostics.verdict.checks import reference as beside
from ppl_vae.diagnostics.verdict.scored import scored
from ppl_vae.engine import graph as tracing
from ppl_vae.engine.density import density
from ppl_vae.engine.gradients import gradient
from ppl_vae.inference import elbo
from ppl_vae.inference import guide as guides
from ppl_vae.inference.fitting import parts
from ppl_vae.inference.fitting import state as fitting_state
from ppl_vae.inference.fitting.fixed_data import FixedData
from ppl_vae.inference.fitting.options import FitOptions
from ppl_vae.program import terms
from ppl_vae.program.point_mass import point_masses
from ppl_vae.program.problem import Problem
from ppl_vae.runs.check_jobs import fit_for_check
from ppl_vae.runs.run import only_begun
from tests.timed_programs import PROGRAMS, X, of_rows, regression


def test_deadlines_nest_and_end_with_their_block():
    assert time_left() == float("inf")
    with deadline(0.0), deadline(100.0), pytest.raises(OutOfTime):
        check_time()
    with deadline(100.0):
        check_time()
    assert time_left() == float("inf")


def test_bars_look_at_the_clock_also_where_they_are_not_shown():
    with progress_bar("work", 3, show=False) as advance, deadline(0.0), pytest.raises(OutOfTime):
        advance(1, "")


def _ticking(monkeypatch, tick=1e-3):
    """A clock that moves on at every look."""
    now = [0.0]

    def look():
        now[0] += tick
        return now[0]

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=look))


@pytest.mark.parametrize("model", PROGRAMS)
def test_a_fit_that_may_stop_ends_at_the_deadline_with_what_it_has(monkeypatch, model):
    pair = Pair(model, AutoNormal(model))
    pair.initialise(X)
    _ticking(monkeypatch)
    with deadline(0.06):
        found = svi.fit(pair, X, num_steps=20_000, lr=1e-7, stop=True, compile=False, progress=False)
    assert 0 < found.steps < 20_000
    assert not found.converged
    assert "the time ran out" in found.reason


@pytest.mark.parametrize(("share", "method", "cut"), [(0.5, "natural gradients", False), (0.0, "SVI", True)])
def test_svi_has_the_time_that_another_method_leaves(monkeypatch, share, method, cut):
    """A fit that ends by itself does not hang on the clock, unless another was given up for it."""
    monkeypatch.setattr(fitting, "OTHER_SHARE", share)
    problem = Problem.of(Pair(regression, AutoNormal(regression)), X)
    options = FitOptions(method="auto", num_steps=50)
    found, hangs = fitting.fit_within(problem, options, None, 600.0, 0, False)
    assert found is not None
    assert (found.method, hangs) == (method, cut)
    assert found.choice is not None
    assert ("did not arrive" in found.choice.reason) == cut


@pytest.mark.parametrize(
    "work",
    [
        lambda pair: svi.fit(pair, X, num_steps=20_000, compile=False, progress=False),
        lambda pair: importance.log_evidence(pair, X, num_samples=10**8, progress=False),
        lambda pair: nuts.sample(pair, X, num_draws=10**7, sampler="pyro", compile=False, progress=False),
    ],
    ids=["SVI", "importance", "Pyro's NUTS"],
)
def test_other_work_is_given_up_at_the_deadline(work):
    pair = Pair(regression, AutoNormal(regression))
    begun = time.process_time()
    with deadline(0.2), pytest.raises(OutOfTime):
        work(pair)
    assert time.process_time() - begun < 20


# What single runs of a program cost --------------------------------------------------------------


def long_loop(x):
    state = pyro.sample("s", dist.Normal(0.0, 1.0))
    while True:  # until the time is over
        state = torch.tanh(state)


def with_vmap(x):
    state = pyro.sample("s", dist.Normal(0.0, 1.0))
    while True:
        state = torch.vmap(torch.sin)(state.expand(3)).sum()


def with_modules(x):
    layer = torch.nn.Linear(1, 1)
    state = pyro.sample("s", dist.Normal(0.0, 1.0)).reshape(1)
    while True:
        state = layer(state)


def with_plates(x):
    state = pyro.sample("s", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        while True:
            state = (x[i] * state).mean()


@pytest.mark.parametrize("program", [long_loop, with_vmap, with_modules, with_plates])
def test_one_run_of_a_program_that_takes_too_long_is_refused(program):
    def guide(x):
        pyro.sample("s", dist.Normal(0.0, 1.0))

    begun = time.process_time()
    with pytest.raises(InputError, match="were over before the first could begin"):
        check(program, guide, X, budget=0.5, progress=False)
    assert time.process_time() - begun < 20
    assert time_left() == float("inf")
    _runs_as_before()


def _runs_as_before():
    """Nothing of what was interrupted is left in Pyro or PyTorch."""
    assert torch.is_grad_enabled()
    trace = pyro.poutine.trace(regression).get_trace(X)
    assert set(trace.nodes) >= {"slope", "y"}
    graph = tracing.trace(lambda x: (2 * x,), X)
    assert torch.equal(graph(X)[0], 2 * X)


PARTS = {
    "tracing": lambda pair, x: tracing.trace(lambda x: (x.sin().sum(),), x),
    "checking a graph": lambda pair, x: tracing.check_graph(
        tracing.trace(lambda x: (2 * x,), x), lambda x: _late(2 * x), x, vary=[]
    ),
    "a density": lambda pair, x: gradient(density(pair, x), "traced"),
    "the layout": lambda pair, x: terms.layout(pair, x),
    "points": lambda pair, x: point_masses(Problem.of(pair, x)),
    "draws": lambda pair, x: guides.draws(pair, x, num_draws=10),
    "the ELBO": lambda pair, x: elbo(pair, x),
    "prediction": lambda pair, x: predictive_check(pair, x),
    "collapse": lambda pair, x: collapse(pair, x),
    "a fixed ELBO": lambda pair, x: FixedData(Problem.of(pair, x), 0, None).log_weights(),
    "NUTS one by one": lambda pair, x: nuts.sample(pair, x, num_draws=10**6, compile=False, progress=False),
}


def _late(value):
    check_time()
    return (value,)


@pytest.mark.parametrize("name", PARTS)
def test_every_part_ends_at_a_deadline_and_leaves_nothing_half_done(name):
    pair = Pair(of_rows, AutoNormal(of_rows))
    if name != "the layout":
        terms.layout(pair, X)
    with deadline(-1.0), pytest.raises(OutOfTime), watched():
        PARTS[name](pair, X)
    assert elbo(pair, X, num_particles=2).num_units == len(X)
    _runs_as_before()


@pytest.mark.parametrize("compile", [True, False], ids=["a graph", "stock Pyro"])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_fit_keeps_the_steps_that_it_made_before_the_deadline(monkeypatch, compile, particles):
    pair = Pair(regression, AutoNormal(regression))
    now = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    pair.initialise(X)
    steps = fitting_state.stepper

    def slow(*arguments, **options):
        found = steps(*arguments, **{**options, "engine": "traced" if compile else "pyro"})
        run = found.run

        def tick(*given):
            now[0] += 1.0
            return run(*given)

        found.run = tick
        return found

    monkeypatch.setattr(fitting_state, "stepper", slow)
    with deadline(3.5):
        # Rows held out are judged at the end, though the time is over.
        found = svi.fit(
            pair, X, num_steps=1000, num_particles=particles, stop=True, held_out=(X,), progress=False
        )
    assert 0 < found.steps < 1000
    assert found.held_out[-1, 0] == found.steps
    assert np.isfinite(found.held_out).all()
    assert len(found.elbo) == found.steps
    assert np.isfinite(found.elbo).all()


@pytest.mark.parametrize("part", ["elbo", "GainRule.finish", "held_out_mean"])
def test_a_fit_whose_time_ends_while_it_is_finished_is_kept(monkeypatch, part):
    pair = Pair(regression, AutoNormal(regression))
    now = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    places = {"GainRule.finish": parts.GainRule, "held_out_mean": parts, "elbo": svi}
    place, name = places[part], part.removeprefix("GainRule.")
    plain = getattr(place, name)

    def slow(*given, **options):
        now[0] += 10.0
        return plain(*given, **options)

    monkeypatch.setattr(place, name, slow)
    with deadline(5.0):
        found = svi.fit(pair, X, num_steps=300, stop=True, held_out=(X,), check_every=1000, progress=False)
    assert found.steps == 300
    assert np.isfinite(found.final.mean)


@pytest.mark.parametrize("model", ["ppca", "bayesian-ppca", "trueskill"])
def test_a_budget_that_imports_have_spent_is_refused_and_its_folder_taken_again(tmp_path, model):
    data = "al-east-1987" if model == "trueskill" else "iris"
    for _ in range(2):
        spent = Clock(1.0, start=time.perf_counter() - 5.0)
        with pytest.raises(InputError, match="too short for any check: 5"):
            fit_for_check(
                model, data, tmp_path / "run", steps=50, lr=None, budget=spent, seed=0, progress=False
            )
    assert only_begun(tmp_path / "run")


@pytest.mark.parametrize(
    "error", [TypeError("no float64"), Untraceable("a loop"), InputError("no"), OutOfTime()]
)
def test_what_cannot_be_begun_ahead_is_left_for_later(monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(nuts, "begin_compiling", fails)
    pair = Pair(regression, AutoNormal(regression))
    beside.begin_reference(Problem.of(pair, X), None, Clock(60.0))


def _normals(num_draws=200):
    """Two answers of forty numbers, of eight chains."""
    generator = np.random.default_rng(0)
    values = (generator.normal(size=(8, num_draws, 40)) for _ in range(2))
    own, truth = (xr.Dataset({"z": (("chain", "draw", "place"), each)}) for each in values)
    return Posterior(own, "guide", "independent"), Posterior(truth, "nuts", "chains")


def test_comparing_many_numbers_looks_at_the_clock():
    own, truth = _normals()
    for work in (truth.summary, lambda: compare(own, reference=truth), lambda: funnel(truth)):
        with deadline(0.0), pytest.raises(OutOfTime):
            work()
    # Once it has begun: the parts behind the summaries look as well.
    sample = [Sample.of(each, [*each.scalars()]) for each in (own, truth)]
    frames = [each.summary() for each in (own, truth)]
    table = quantities_table(*sample, *frames)
    for work in (
        lambda: quantities_table(*sample, *frames),
        lambda: joint_row(*sample, table, np.random.default_rng(0)),
    ):
        with deadline(0.0), pytest.raises(OutOfTime):
            work()


def test_nuts_leaves_time_for_the_comparison():
    assert beside.seconds_for_nuts(120.0, calibrate=False) == 110.0
    assert beside.seconds_for_nuts(20.0, calibrate=False) == pytest.approx(18.0)
    assert beside.seconds_for_nuts(1000.0, calibrate=False) == pytest.approx(950.0)
    assert beside.seconds_for_nuts(100.0, calibrate=True) == 75.0


def test_a_comparison_that_was_made_already_scores_the_same():
    own, truth = _normals()
    other = own.map(1.5 * own.draws)
    case = SimpleNamespace(
        layout=SimpleNamespace(unit_plate=None), quantities=SimpleNamespace(functions=None)
    )
    whole = compare({"svi": own, "reweighted": other}, reference=truth)
    for name, answer in (("svi", own), ("reweighted", other)):
        assert scored(case, name, answer, truth, whole) == scored(case, name, answer, truth)
