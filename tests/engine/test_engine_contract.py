"""Numbers never change silently: every model, guide and method through a graph and through stock Pyro.

The graphs here run uncompiled, with the same random numbers; `test_compiled.py` compiles a few.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from torch import Tensor

from ppl_vae import models
from ppl_vae.base.seeds import seeded
from ppl_vae.engine.density import density
from ppl_vae.engine.gradients import gradient
from ppl_vae.guides import Prior
from ppl_vae.inference import importance, svi
from ppl_vae.inference.evidence import weights as weights_module
from ppl_vae.inference.evidence.unit_noise import UnitNoise
from ppl_vae.inference.evidence.weights import LogWeights
from ppl_vae.inference.fitting import state as fitting_state
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import layout, terms

FAMILIES = {cls.__name__: cls for cls in models.SUITE}
PAIRS = [(name, guide_name) for name, family in FAMILIES.items() for guide_name in family.guides]
every_model = pytest.mark.parametrize("name", FAMILIES)
every_pair = pytest.mark.parametrize(("name", "guide_name"), PAIRS)


def _contract() -> ModuleType:
    """The tiny models of the contract tests."""
    path = Path(__file__).parents[1] / "tiny.py"
    spec = importlib.util.spec_from_file_location("contract", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    return _contract()


def _continuous(contract: ModuleType, name: str) -> tuple[Pair, tuple[Tensor, ...]]:
    """As `_double`, of a model that has continuous latents."""
    pair, data = _double(contract, name)
    if not layout(pair, *data).latents:
        pytest.skip("all its latents are summed out")
    return pair, data


def _double(
    contract: ModuleType, name: str, guide_name: str | None = None
) -> tuple[Pair, tuple[Tensor, ...]]:
    """A tiny pair in float64, its parameters moved off their initial symmetry."""
    tiny = contract.make(name, guide_name)
    data = tuple(t.double() if t.is_floating_point() else t for t in tiny.data)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        tiny.model.double()
        guide = tiny.model.guides[tiny.guide_name](tiny.model, *data)
        pair = Pair(tiny.model, guide.double()).initialise(*data)
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for leaf in pair.parameters().values():
            leaf.add_(0.1 * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype))
    return pair, data


# SVI ---------------------------------------------------------------------------------------------

STEPS = 23


def _both(contract: ModuleType, name: str, guide_name: str | None, **options: Any) -> None:
    """Fits through stock Pyro and through the graph end at the same parameters by the same steps."""
    fits, states = [], []
    for engine in ("pyro", "traced"):
        pair, data = _double(contract, name, guide_name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting_state, "engine_of_fit", lambda *_, engine=engine: engine)
            settings = {"num_steps": STEPS, "lr": 0.01, "seed": 4} | options
            if "refresh" in settings:
                settings["refresh"] = lambda epoch, data=data: _other_order(data, epoch)
            fits.append(svi.fit(pair, *data, progress=False, **settings))
        states.append(pair.state_dict())
    assert [fit.engine for fit in fits] == ["pyro", "traced"]
    # Rounding, which Adam's division by the gradients' scale carries along.
    np.testing.assert_allclose(fits[1].elbo, fits[0].elbo, rtol=1e-9)
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-8, atol=1e-10, msg=key)
    assert fits[1].final.value == pytest.approx(fits[0].final.value, rel=1e-9)


def _other_order(data: tuple[Tensor, ...], epoch: int) -> tuple[Tensor, ...]:
    """Another order of the data in every epoch."""
    return tuple(t.roll(epoch, 0) for t in data)


@every_pair
def test_fits_are_those_of_stock_pyro(name: str, guide_name: str, contract: ModuleType) -> None:
    _both(contract, name, guide_name)


OPTIONS: dict[str, dict[str, Any]] = {
    "minibatches, particles and warm-up": {"batch_size": 3, "num_particles": 2, "kl_warmup": 9},
    "data anew, clipping and averaging": {"refresh": True, "clip_norm": 1.0, "average": 0.6, "lr_end": 0.3},
    "guide alone": {"train": "guide"},
}
ALONE: dict[str, dict[str, Any]] = {
    "particles": {"num_particles": 3},
    "minibatches": {"batch_size": 3},
    "warm-up": {"kl_warmup": 15},
    "clipping": {"clip_norm": 0.5},
    "averaging": {"average": 0.6, "lr_end": 1.0},
    "data anew in minibatches": {"refresh": True, "batch_size": 5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@every_model
def test_options_mean_the_same(name: str, options: dict[str, Any], contract: ModuleType) -> None:
    pair, data = _double(contract, name)
    if "batch_size" in options:
        assert layout(pair, *data).batch_plate is not None
    if options.get("train") == "guide" and not pair.parameters("guide"):
        pytest.skip("its guide has no parameters")
    _both(contract, name, None, **options)


@pytest.mark.parametrize("options", ALONE.values(), ids=ALONE)
def test_every_option_means_the_same(options: dict[str, Any], contract: ModuleType) -> None:
    _both(contract, "PPCA", None, **options)


# Log densities -----------------------------------------------------------------------------------


@every_model
def test_log_densities_and_gradients_are_those_of_pyros_potential(name: str, contract: ModuleType) -> None:
    pair, data = _continuous(contract, name)
    held = pair.cast_model(torch.float64, Prior).initialise(*data)
    with pyro.validation_enabled(False):
        target = density(held, *data)
        traced = gradient(target, "traced")
        eager = gradient(target, "pyro")
        with held.scope():
            _, potential, transforms, _ = initialize_model(held.model, model_args=data)
            assert (traced.engine, eager.engine) == ("traced", "pyro")
            positions = torch.randn(3, target.dim, dtype=torch.float64)
            for position in positions:
                at = {name: value.clone() for name, value in target.unflatten(position).items()}
                slope, energy = potential_grad(potential, at)
                expected = torch.cat([-slope[name].reshape(-1) for name in target.names])
                for run in (traced, eager):
                    value, found = run(position)
                    torch.testing.assert_close(value, -energy, rtol=1e-11, atol=1e-11)
                    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        # The way back: `flatten` undoes `constrain`, whose values are Pyro's.
        drawn = target.constrain(positions)
        for site, transform in transforms.items():
            torch.testing.assert_close(drawn[site][1], transform.inv(target.unflatten(positions[1])[site]))
        again = target.flatten({site: value[2] for site, value in drawn.items()})
        torch.testing.assert_close(again, positions[2], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_many_chains_have_the_gradients_of_single_ones(name: str, contract: ModuleType) -> None:
    pair, data = _continuous(contract, name)
    with pyro.validation_enabled(False):
        target = density(pair.cast_model(torch.float64, Prior).initialise(*data), *data)
        eager, many = gradient(target, "pyro"), gradient(target, "traced", chains=3)
        assert many.engine == "traced"
        positions = torch.randn(3, target.dim, dtype=torch.float64)
        values, slopes = many(positions)
        for k, position in enumerate(positions):
            value, slope = eager(position)
            torch.testing.assert_close(values[k], value, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(slopes[k], slope, rtol=1e-10, atol=1e-10)


@every_pair
def test_no_tensor_is_given_to_a_graph_twice(name: str, guide_name: str, contract: ModuleType) -> None:
    """What would be compiled as one input could not be compiled at all."""
    pair, data = _double(contract, name, guide_name)
    with torch.no_grad():
        given = [LogWeights(Problem.of(pair, *data), 2, "pyro")._inputs()]
    if layout(pair, *data).latents:
        given.append(density(pair.cast_model(torch.float64, Prior).initialise(*data), *data).tensors)
    for tensors in given:
        assert len({id(tensor) for tensor in tensors}) == len(tensors)


# Log weights -------------------------------------------------------------------------------------


def _evidence(pair: Pair, data: tuple[Tensor, ...], *, traced: bool, **options: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_module, "compile_graph", lambda graph, *inputs: graph)
        return importance.log_evidence(pair, *data, compile=traced, progress=False, **options)


def _same_evidence(pair: Pair, data: tuple[Tensor, ...], **options: Any) -> None:
    stock = _evidence(pair, data, traced=False, **options)
    _assert_same(_evidence(pair, data, traced=True, **options), stock)


def _assert_same(graph: Any, stock: Any) -> None:
    for column in ("log_evidence", "elbo", "std_error", "ess"):
        np.testing.assert_allclose(getattr(graph, column), getattr(stock, column), rtol=1e-9, err_msg=column)
    np.testing.assert_allclose(graph.pareto_k, stock.pareto_k, atol=1e-6)


def _same_defensive(pair: Pair, data: tuple[Tensor, ...], **options: Any) -> None:
    """Of a prior that draws by rejection, which is no function of noise: Pyro's own answer, and said."""
    if not layout(pair, *data).latents or not _draws_by_rejection(pair, data):
        _same_evidence(pair, data, defensive=0.3, **options)
        return
    stock = _evidence(pair, data, traced=False, defensive=0.3, **options)
    with pytest.warns(RuntimeWarning, match="stock Pyro, uncompiled: .* draws numbers that depend on"):
        found = _evidence(pair, data, traced=True, defensive=0.3, **options)
    np.testing.assert_array_equal(found.log_evidence, stock.log_evidence)


def _draws_by_rejection(pair: Pair, data: tuple[Tensor, ...]) -> bool:
    """Whether a latent's prior is of those that PyTorch draws by rejection."""
    with pair.scope(), torch.no_grad():
        sites = poutine.trace(pair.model).get_trace(*data).nodes.values()
    latents = [site["fn"] for site in sites if site["type"] == "sample" and not site["is_observed"]]
    while inside := [fn for fn in latents if hasattr(fn, "base_dist")]:
        latents = [fn for fn in latents if fn not in inside] + [fn.base_dist for fn in inside]
    return any(isinstance(fn, dist.Gamma | dist.Beta | dist.Dirichlet | dist.StudentT) for fn in latents)


@every_pair
def test_log_weights_are_those_of_stock_pyro(name: str, guide_name: str, contract: ModuleType) -> None:
    pair, data = _double(contract, name, guide_name)
    _same_evidence(pair, data, num_samples=40)


@every_pair
def test_log_weights_of_a_defensive_mixture_are_too(name: str, guide_name: str, contract: ModuleType) -> None:
    pair, data = _double(contract, name, guide_name)
    _same_defensive(pair, data, num_samples=40)


@every_model
def test_chunks_of_units_are_filled_up_and_the_surplus_dropped(
    name: str, contract: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen units in chunks of five, the last of one; twenty samples in chunks of seven."""
    pair, data = _double(contract, name)
    shape = layout(pair, *data)
    if not shape.can_index:
        pytest.skip("the unit is the data set")
    units = torch.arange(16).flip(0)
    monkeypatch.setattr(Problem, "chunks", lambda self, *_: [self.rows(part) for part in units.split(5)])
    monkeypatch.setattr(Layout, "particles_per_chunk", lambda self, units, budget=0: 7)
    _same_evidence(pair, data, num_samples=20)
    _same_defensive(pair, data, num_samples=20)


@every_model
def test_one_graph_serves_any_chunk_of_units(name: str, contract: ModuleType) -> None:
    pair, data = _double(contract, name)
    shape = layout(pair, *data)
    if not shape.can_index:
        pytest.skip("the unit is the data set")
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(weights_module, "compile_graph", lambda graph, *inputs: graph)
        problem = Problem(pair, data, shape, torch.arange(5))
        graph = LogWeights(problem, 3, "compiled")
    stock = LogWeights(problem, 3, "pyro")
    assert (graph.engine, stock.engine) == ("compiled", "pyro")
    for index in (torch.tensor([3, 1, 4, 1, 5]), torch.tensor([15, 2]), torch.tensor([9])):
        full = torch.cat([index, index[:1].expand(5 - len(index))])
        with seeded(6), UnitNoise(shape, 8, 0, 3, full), torch.no_grad():
            expected = terms(pair, *data, layout=shape, num_particles=3, index=full).log_weights
        for weights in (graph, stock):
            with seeded(6):
                found = weights(index, seed=8)
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, expected[:, : len(index)], rtol=1e-11, atol=1e-11)
