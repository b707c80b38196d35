"""Users' programs under the engine: other losses, enumeration, subsampling, and what falls back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference import elbo, svi
from ppl_vae.inference.fitting import state as fitting_state
from ppl_vae.inference.fitting.steps import engine_of_fit
from ppl_vae.program.pair import Pair

DOUBLE = {"dtype": torch.float64}
Program = Callable[..., Any]


def _run(
    engine: str, model: Program, guide: Program, *data: Any, **options: Any
) -> tuple[svi.Fit, dict[str, Tensor]]:
    pyro.clear_param_store()
    pair = Pair(model, guide)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting_state, "engine_of_fit", lambda *_: engine)
        settings = {"num_steps": 23, "lr": 0.02, "seed": 2, "progress": False} | options
        fit = svi.fit(pair, *data, **settings)
    return fit, pair.state_dict()


def _same(one: tuple[svi.Fit, dict[str, Tensor]], two: tuple[svi.Fit, dict[str, Tensor]]) -> None:
    np.testing.assert_allclose(one[0].elbo, two[0].elbo, rtol=1e-9)
    assert one[1].keys() == two[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(value, two[1][name], rtol=1e-8, atol=1e-10, msg=name)


def _traced_as_stock(model: Program, guide: Program, *data: Any, **options: Any) -> None:
    """The graph runs (a fallback would be an error here) and gives stock Pyro's numbers."""
    traced = _run("traced", model, guide, *data, **options)
    assert traced[0].engine == "traced"
    _same(traced, _run("pyro", model, guide, *data, **options))


def _stock_with_a_warning(words: str, model: Program, guide: Program, *data: Any, **options: Any) -> None:
    """Stock Pyro's own numbers, said once, to the last digit."""
    stock = _run("pyro", model, guide, *data, **options)
    with pytest.warns(
        RuntimeWarning, match=f"this fit runs through stock Pyro, uncompiled: .*{words}"
    ) as said:
        found = _run("traced", model, guide, *data, **options)
    assert len(said) == 1
    assert found[0].engine == "pyro"
    np.testing.assert_array_equal(found[0].elbo, stock[0].elbo)
    assert all(torch.equal(value, stock[1][name]) for name, value in found[1].items())
    again = _run("traced", model, guide, *data, **options)
    np.testing.assert_array_equal(again[0].elbo, stock[0].elbo)


@pytest.fixture
def points() -> Tensor:
    generator = np.random.default_rng(0)
    return torch.as_tensor(np.concatenate([generator.normal(-2, 1, 10), generator.normal(3, 1, 14)]))


# Pyro's other losses -------------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"kl_warmup": 9}], ids=str)
def test_trace_mean_field_elbo_is_traced(
    particles: int, options: dict[str, Any], conjugate: Any, x: Tensor
) -> None:
    loss = TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    _traced_as_stock(conjugate.model, conjugate.guide, x, loss=loss, **options)


def _mixture(x: Tensor) -> None:
    """Two normals with weights and means to be learnt."""
    weight = pyro.param(
        "weight", lambda: torch.tensor([0.4, 0.6], **DOUBLE), constraint=dist.constraints.simplex
    )
    centre = pyro.param("centre", lambda: torch.tensor([-1.0, 1.0], **DOUBLE))
    with pyro.plate("data", len(x)) as i:
        k = pyro.sample("k", dist.Categorical(weight), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(centre[k], 1.0), obs=x[i])


@config_enumerate
def _responsibilities(x: Tensor) -> None:
    logits = pyro.param("logits", lambda: torch.zeros(len(x), 2, **DOUBLE))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("k", dist.Categorical(logits=logits[i]))


def _nothing(x: Tensor) -> None:
    """The guide of a model whose latents are all summed out."""


@pytest.mark.parametrize("options", [{}, {"batch_size": 7}], ids=str)
def test_trace_enum_elbo_of_an_enumerated_guide_is_traced(options: dict[str, Any], points: Tensor) -> None:
    _traced_as_stock(_mixture, _responsibilities, points, loss=TraceEnum_ELBO(max_plate_nesting=1), **options)


def test_trace_enum_elbo_of_an_enumerated_guide_is_the_exact_sum(points: Tensor) -> None:
    """With responsibilities of one half: Σ_n Σ_k ½ [ln w_k + ln N(x_n; c_k, 1) − ln ½], without noise."""
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    fit, _ = _run("pyro", _mixture, _responsibilities, points, loss=loss)
    assert fit.elbo[0] == pytest.approx((_log_joint(points) - np.log(0.5)).mean(1).sum().item(), rel=1e-12)


def _log_joint(points: Tensor) -> Tensor:
    """ln p(x_n, k) at the mixture's first values."""
    centre = torch.tensor([-1.0, 1.0], **DOUBLE)
    return torch.tensor([0.4, 0.6], **DOUBLE).log() + dist.Normal(centre, 1.0).log_prob(points[:, None])


def test_trace_enum_elbo_sums_out_the_models_own_latents(points: Tensor) -> None:
    fit, _ = _run("pyro", _mixture, _nothing, points, loss=TraceEnum_ELBO(max_plate_nesting=1))
    assert fit.elbo[0] == pytest.approx(_log_joint(points).logsumexp(1).sum().item(), rel=1e-12)


# Plates --------------------------------------------------------------------------------------------


def _global(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x), subsample_size=5) as i:
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])


def _global_guide(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.tensor(0.1, **DOUBLE))
    scale = pyro.param("scale", lambda: torch.tensor(0.5, **DOUBLE), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(loc, scale))


def test_a_programs_own_subsample_is_drawn_anew_at_every_step(points: Tensor) -> None:
    _traced_as_stock(_global, _global_guide, points)
    # Twenty-three steps on one frozen subsample would share its mean.
    fit, _ = _run("traced", _global, _global_guide, points, lr=1e-12)
    assert fit.elbo.std() > 10


def _nested(x: Tensor) -> None:
    columns = pyro.plate("columns", x.shape[1], dim=-1)
    with columns:
        centre = pyro.sample("centre", dist.Normal(torch.zeros((), dtype=x.dtype), 2.0))
    with pyro.plate("rows", len(x), dim=-2) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with columns:
            pyro.sample("x", dist.Normal(centre + z, 1.0), obs=x[i])


def _nested_guide(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(x.shape[1], **DOUBLE))
    slope = pyro.param("slope", lambda: torch.tensor(0.2, **DOUBLE))
    with pyro.plate("columns", x.shape[1], dim=-1):
        pyro.sample("centre", dist.Normal(loc, 0.3))
    with pyro.plate("rows", len(x), dim=-2) as i:
        pyro.sample("z", dist.Normal(slope * x[i].mean(1, keepdim=True), 0.5))


@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "num_particles": 3}], ids=str)
def test_nested_plates_with_global_and_local_latents(options: dict[str, Any]) -> None:
    _traced_as_stock(_nested, _nested_guide, torch.randn(11, 3, **DOUBLE), **options)


# What falls back -----------------------------------------------------------------------------------


def _branching(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0 if z > 0 else 2.0), obs=x)


def _rejecting(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.tensor(0.1, **DOUBLE))
    pyro.sample("z", dist.Normal(loc, 1.0).has_rsample_(False))


def test_control_flow_and_score_functions_run_through_stock_pyro(points: Tensor) -> None:
    _stock_with_a_warning("control flow", _branching, _global_guide, points)
    _stock_with_a_warning("site z of the guide cannot be reparameterised", _global, _rejecting, points)


def test_a_program_that_counts_its_calls_is_found_out(points: Tensor) -> None:
    calls = [0]

    def model(x: Tensor) -> None:
        calls[0] += 1
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0 + 0.01 * calls[0]), obs=x)

    with pytest.warns(RuntimeWarning, match="its control flow depends on them"):
        fit, _ = _run("traced", model, _global_guide, points)
    assert fit.engine == "pyro"


def test_a_program_that_fails_at_a_random_point_is_compared_where_it_runs(points: Tensor) -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        covariance = pyro.param("covariance", lambda: torch.tensor([[1.0, 0.98], [0.98, 1.0]], **DOUBLE))
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(2, dtype=x.dtype), covariance))

    _traced_as_stock(model, guide, points, lr=1e-4)


def test_shapes_that_change_with_the_minibatch_run_through_stock_pyro(points: Tensor) -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)) as i:
            batch = x[i]
            pyro.sample("x", dist.Normal(z, 1.0), obs=batch)
            positive = batch[batch > 0]
            pyro.factor("positive", dist.Normal(z, 2.0).log_prob(positive).sum() / len(i))

    _stock_with_a_warning("", model, _global_guide, points, batch_size=7)


# Data ----------------------------------------------------------------------------------------------


def _scaled(x: Tensor, scale: Any) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def _scaled_guide(x: Tensor, scale: Any) -> None:
    _global_guide(x)


def test_data_drawn_anew_reach_the_steps(points: Tensor) -> None:
    def scale(epoch: int) -> Tensor:
        return torch.tensor(1.0 + epoch, **DOUBLE)

    _traced_as_stock(_scaled, _scaled_guide, points, scale(0), refresh=lambda epoch: (points, scale(epoch)))


def test_numbers_drawn_anew_run_through_stock_pyro(points: Tensor) -> None:
    _stock_with_a_warning(
        "data that are drawn anew are no tensors", _scaled, _scaled_guide, points, 1.0,
        refresh=lambda epoch: (points, 1.0 + epoch),
    )  # fmt: skip


def test_data_drawn_anew_may_lie_anyhow_in_memory(points: Tensor) -> None:
    wide = torch.stack([points, 2 * points, -points], 1)
    _traced_as_stock(_global, _global_guide, wide[:, 0], refresh=lambda epoch: (wide[:, epoch % 3],))


def test_data_drawn_anew_in_another_shape_or_type_are_refused(points: Tensor) -> None:
    for other in (points[:-1], torch.cat([points, points]), points.float()):
        with pytest.raises(InputError, match="shape"):
            _run("traced", _global, _global_guide, points, refresh=lambda epoch, o=other: (o,))


@pytest.mark.parametrize(
    ("drawn", "words"),
    [((), "gave 0 data arguments; the programs take 1"), ((3.0,), "as float, not a tensor")],
    ids=["none", "number"],
)
def test_what_is_drawn_anew_must_be_data(drawn: tuple[Any, ...], words: str, points: Tensor) -> None:
    for engine in ("pyro", "traced"):
        with pytest.raises(InputError, match=words):
            _run(engine, _global, _global_guide, points, refresh=lambda epoch: drawn)


def test_the_default_dtype_does_not_matter(conjugate: Any, x: Tensor) -> None:
    usual = _run("traced", conjugate.model, conjugate.guide, x)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        double = _run("traced", conjugate.model, conjugate.guide, x)
    finally:
        torch.set_default_dtype(before)
    assert double[0].engine == "traced"
    _same(double, usual)


# Which engine ----------------------------------------------------------------------------------------


def test_which_engine_runs_is_a_fixed_function_of_the_number_of_steps(conjugate: Any, x: Tensor) -> None:
    assert [engine_of_fit("auto", steps) for steps in (1, 99, 100, 29_999, 30_000)] == [
        "pyro", "pyro", "traced", "traced", "compiled",
    ]  # fmt: skip
    assert {engine_of_fit(True, steps) for steps in (1, 10**6)} == {"compiled"}
    assert {engine_of_fit(False, steps) for steps in (1, 10**6)} == {"pyro"}
    for steps, engine in ((99, "pyro"), (100, "traced")):
        fit = svi.fit(Pair(conjugate.model, conjugate.guide), x, num_steps=steps, progress=False)
        assert (fit.engine, fit.compile_seconds) == (engine, 0.0)
    with pytest.raises(InputError, match="it is 'auto', 'on' or 'off'"):
        svi.fit(Pair(conjugate.model, conjugate.guide), x, compile="always", progress=False)


# Precision and averaging -------------------------------------------------------------------------------


def test_averaged_iterates_are_nearer_the_optimum(conjugate: Any, x: Tensor) -> None:
    """At a constant learning rate single iterates wander around the optimum; their mean does not."""

    def distance(average: float, seed: int) -> float:
        pair = Pair(conjugate.model, conjugate.guide)
        svi.fit(pair, x, num_steps=600, lr=0.1, lr_end=1.0, average=average, seed=seed, progress=False)
        with pair.scope():
            slope, scale = pyro.param("slope").item(), pyro.param("scale").item()
        return float(np.hypot(slope - 0.8, np.log(scale / np.sqrt(0.2))))

    pairs = [(distance(0.0, seed), distance(0.5, seed)) for seed in range(5)]
    last, averaged = np.array(pairs).T
    assert np.sqrt((averaged**2).mean()) < 0.5 * np.sqrt((last**2).mean())


def test_bfloat16_is_near_float32(conjugate: Any) -> None:
    from ppl_vae.data import Rows
    from ppl_vae.models import VAE

    generator = np.random.default_rng(1)
    rows = Rows("tiny", (generator.random((32, 12)) < 0.4).astype(float), tuple("abcdefghijkl"), "binary")
    (x,) = rows.tensors(torch.float32)
    ends, fits = [], []
    for precision in (None, "bfloat16"):
        torch.manual_seed(0)
        model = VAE.from_data(rows)
        pair = Pair(model, next(iter(VAE.guides.values()))(model, x))
        fits.append(svi.fit(pair, x, num_steps=150, lr=0.003, precision=precision, progress=False))
        ends.append(elbo(pair, x, num_particles=64, seed=1))
    assert [fit.engine for fit in fits] == ["traced", "traced"]
    exact, rough = (fit.elbo for fit in fits)
    assert not np.array_equal(exact, rough)
    # Eight bits of mantissa, in each of two layers there and back.
    assert np.abs(rough / exact - 1).max() < 2**-3
    assert ends[1].mean == pytest.approx(ends[0].mean, abs=0.05)
    # Parameters stay in float32.
    assert {leaf.dtype for leaf in pair.parameters().values()} == {torch.float32}
    with pytest.raises(InputError, match="precision='float16' is not known"):
        svi.fit(pair, x, precision="float16", progress=False)
