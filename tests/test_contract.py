"""One contract that every model with every one of its guides keeps, and every method on every model.

A newcomer's model is picked up from ``ppl_vae.models.SUITE``.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference import elbo, exact, guide, importance, nuts, svi
from ppl_vae.program.abilities import ExactEvidence, ExactPosterior
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import layout
from tests.tiny import PAIRS, Tiny, draws_nothing, every_model, every_pair, make, short_chains


def _unconstrained(pair: Pair) -> dict[str, Tensor]:
    return {name: leaf.detach().clone() for name, leaf in pair.parameters().items()}


@every_pair
def test_model_and_guide_share_their_latent_sites_and_shapes(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair
    shape = layout(pair, *tiny.data)
    with pair.scope():
        guide_trace = poutine.trace(pair.guide).get_trace(*tiny.data)
        model_trace = poutine.trace(pair.model).get_trace(*tiny.data)
    assert shape.latents or shape.summed
    for site in shape.latents:
        own, other = model_trace.nodes[site], guide_trace.nodes[site]
        assert own["fn"].shape() == other["fn"].shape() == own["value"].shape
        assert own["value"].dtype == other["value"].dtype
    latent = {
        site
        for site, node in model_trace.nodes.items()
        if node["type"] == "sample"
        and not node["is_observed"]
        and "Subsample" not in type(node["fn"]).__name__
    }
    assert {*shape.latents, *shape.summed} == latent


@every_pair
def test_both_programs_run_under_a_plate_of_particles(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    assert layout(tiny.pair, *tiny.data).vectorized


def _stock(tiny: Tiny) -> type[ELBO]:
    """Pyro's own objective of a model."""
    return TraceEnum_ELBO if layout(tiny.pair, *tiny.data).summed else Trace_ELBO


@every_pair
def test_gradients_reach_every_parameter(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair
    shape = layout(pair, *tiny.data)
    parameters = pair.parameters()
    # Not at the start itself, where what multiplies a correction may be zero.
    with torch.no_grad():
        for leaf in parameters.values():
            leaf.add_(1e-3 * torch.randn_like(leaf))
    objective = _stock(tiny)(4, max_plate_nesting=shape.nesting, vectorize_particles=True)
    with pair.scope():
        loss = objective.differentiable_loss(pair.model, pair.guide, *tiny.data)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    assert len(parameters) > 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert gradient is not None, f"{parameter} is not used"
        assert gradient.isfinite().all(), parameter
        assert (gradient != 0).any(), f"{parameter} has no gradient"


@every_pair
def test_five_stock_pyro_steps_move_every_parameter(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    program, approximation = tiny.model, tiny.model.guides[guide_name](tiny.model, *tiny.data)
    objective = _stock(tiny)(max_plate_nesting=layout(tiny.pair, *tiny.data).nesting)
    stock = SVI(program, approximation, pyro.optim.Adam({"lr": 0.01}), objective)
    stock.loss(program, approximation, *tiny.data)
    parameters = dict(approximation.named_parameters("guide")) | dict(program.named_parameters("model"))
    before = {parameter: leaf.detach().clone() for parameter, leaf in parameters.items()}
    assert before
    for _ in range(5):
        stock.step(*tiny.data)
    still = [parameter for parameter, leaf in parameters.items() if torch.equal(leaf, before[parameter])]
    assert not still


@every_pair
def test_state_dict_round_trips_and_another_pairs_is_refused(name: str, guide_name: str) -> None:
    tiny, other = make(name, guide_name), make(name, guide_name, seed=1)
    pair, target = tiny.pair.initialise(*tiny.data), other.pair.initialise(*other.data, seed=1)
    with torch.no_grad():
        for leaf in pair.parameters().values():
            leaf.add_(torch.rand_like(leaf))
    state = pair.state_dict()
    assert any(not torch.equal(state[key], value) for key, value in target.state_dict().items())
    target.load_state_dict(state)
    loaded = target.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert elbo(pair, *tiny.data).value == elbo(target, *other.data).value

    key = next(iter(pair.parameters()))
    with pytest.raises(InputError, match="differ"):
        target.load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(InputError, match="differ"):
        target.load_state_dict(state | {"nobodys": torch.zeros(1)})
    with pytest.raises(InputError, match="has shape"):
        target.load_state_dict(state | {key: torch.zeros(3, 1, 4, 1)})
    assert all(torch.equal(value, state[k]) for k, value in target.state_dict().items())


@every_pair
def test_state_dict_is_a_copy_that_training_leaves_alone(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair.initialise(*tiny.data)
    state = pair.state_dict()
    kept = {key: value.clone() for key, value in state.items()}
    svi.fit(pair, *tiny.data, num_steps=2, progress=False)
    assert all(torch.equal(state[key], kept[key]) for key in kept)
    assert any(not torch.equal(kept[key], value) for key, value in pair.state_dict().items())


@every_pair
def test_elbo_does_not_exceed_the_evidence(name: str, guide_name: str, oracles: ModuleType) -> None:
    """Exact evidence where the model knows it, else importance sampling with its own noise."""
    tiny = make(name, guide_name)
    pair = tiny.pair
    svi.fit(pair, *tiny.data, num_steps=60, lr=0.02, progress=False)
    bound = elbo(pair, *tiny.data, num_particles=200, seed=1)
    if isinstance(tiny.model, ExactEvidence):
        evidence = exact.log_evidence(tiny.model, *tiny.data)
        assert evidence.kind == "exact"
    else:
        # An estimate is itself a lower bound in expectation, hence only a weaker statement.
        evidence = importance.log_evidence(pair, *tiny.data, num_samples=4000, seed=2, progress=False)
    limit = oracles.z_limit(len(PAIRS))
    assert evidence.num_units == bound.num_units
    error, rounding = np.hypot(bound.std_error, evidence.total_std_error), 1e-12 * abs(bound.value)
    assert bound.value - evidence.total <= limit * error + rounding


def _numbers(name: str, guide_name: str, seed: int) -> dict[str, Any]:
    """What every method says with one seed, each within guarded globals by the caller."""
    tiny = make(name, guide_name)
    pair = tiny.pair
    fit = svi.fit(pair, *tiny.data, num_steps=6, num_particles=2, seed=seed, progress=False)
    evidence = importance.log_evidence(pair, *tiny.data, num_samples=50, seed=seed, progress=False)
    found = {
        "steps": fit.elbo,
        "final": np.array([fit.final.value, fit.final.std_error]),
        "parameters": torch.cat([leaf.ravel().double() for leaf in pair.state_dict().values()]).numpy(),
        "evidence": evidence.log_evidence,
    }
    if not draws_nothing(tiny):
        drawn = guide.draws(pair, *tiny.data, num_draws=5, seed=seed)
        found["draws"] = np.concatenate([v.to_numpy().ravel() for v in drawn.draws.data_vars.values()])
    return found


@every_pair
def test_one_seed_gives_one_set_of_numbers_and_nothing_global_changes(
    name: str, guide_name: str, oracles: ModuleType
) -> None:
    with oracles.nothing_global_changes():
        # `make` seeds the generator as a user would; the library must not move it afterwards.
        torch.manual_seed(0)
        tiny = make(name, guide_name)
        state = torch.get_rng_state()
        pair = Pair(tiny.model, tiny.pair.guide)
        torch.set_rng_state(state)
        svi.fit(pair, *tiny.data, num_steps=3, progress=False)
        if layout(pair, *tiny.data).latents:
            guide.draws(pair, *tiny.data, num_draws=3)
        elbo(pair, *tiny.data)
        importance.log_evidence(pair, *tiny.data, num_samples=20, progress=False)
        importance.log_evidence(pair, *tiny.data, num_samples=20, defensive=0.2, progress=False)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(0)

    first = _numbers(name, guide_name, seed=5)
    torch.manual_seed(1234)
    torch.rand(7)
    second, third = _numbers(name, guide_name, seed=5), _numbers(name, guide_name, seed=6)
    for key, values in first.items():
        np.testing.assert_array_equal(values, second[key], err_msg=key)
        # Sums over all values have no noise.
        if not draws_nothing(tiny):
            assert not np.array_equal(values, third[key]), f"{key} does not depend on the seed"


@every_model
def test_nuts_and_exact_answers_change_nothing_global_and_repeat(name: str, oracles: ModuleType) -> None:
    tiny = make(name)
    nothing = draws_nothing(tiny)
    with oracles.nothing_global_changes():
        first = None if nothing else short_chains(tiny, seed=3)
        if isinstance(tiny.model, ExactEvidence):
            exact.log_evidence(tiny.model, *tiny.data)
        if isinstance(tiny.model, ExactPosterior):
            once, again = (exact.draws(tiny.model, *tiny.data, num_draws=40, seed=s) for s in (1, 1))
            assert once.draws.equals(again.draws)
            assert not once.draws.equals(exact.draws(tiny.model, *tiny.data, num_draws=40, seed=2).draws)
    if first is None:
        with pytest.raises(InputError, match="no continuous latent sites, so there is nothing to sample"):
            short_chains(tiny)
        return
    assert first.draws.equals(short_chains(tiny, seed=3).draws)
    assert not first.draws.equals(short_chains(tiny, seed=4).draws)


@every_pair
def test_bad_data_is_refused_in_one_sentence(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    x = tiny.data[0]
    if x.is_floating_point():
        for value in (float("nan"), float("inf")):
            bad = x.clone()
            bad.view(len(x), -1)[3, -1] = value
            wrongs = {"finite": bad}
            _every_method_refuses(tiny, wrongs)
        wrongs = {"shape": x[:, :-1]} if x.dim() > 1 else {}
    else:
        unknown, itself = x.clone(), x.clone()
        unknown[2, 1] = 99
        itself[1] = 0
        wrongs = {"players are": unknown, "beating itself": itself, "integers of shape": x.double()}
    _every_method_refuses(tiny, wrongs)


def _every_method_refuses(tiny: Tiny, wrongs: dict[str, Tensor]) -> None:
    pair, others = tiny.pair, tiny.data[1:]
    methods: list[Callable[[Tensor], Any]] = [
        lambda x: svi.fit(pair, x, *others, num_steps=1, progress=False),
        lambda x: guide.draws(pair, x, *others, num_draws=2),
        lambda x: importance.log_evidence(pair, x, *others, num_samples=10, progress=False),
        lambda x: elbo(pair, x, *others),
        lambda x: nuts.sample(tiny.model, x, *others, num_draws=4, warmup=1, chains=1, progress=False),
    ]
    if isinstance(tiny.model, ExactEvidence):
        methods.append(lambda x: exact.log_evidence(tiny.model, x, *others))
    if isinstance(tiny.model, ExactPosterior):
        methods.append(lambda x: exact.draws(tiny.model, x, *others))
    for words, wrong in wrongs.items():
        for method in methods:
            with pytest.raises(InputError, match=words) as caught:
                method(wrong)
            assert "\n" not in str(caught.value)


def test_greys_given_to_a_bernoulli_name_the_place_and_the_likelihoods_that_take_them() -> None:
    tiny = make("VAE")
    grey = tiny.data[0].clone()
    grey[4, 1] = 0.5
    with pytest.raises(InputError, match=r"row 4, column 1 is 0\.5.*gaussian-pixel"):
        svi.fit(tiny.pair, grey, num_steps=1, progress=False)
