"""One contract that every model with every one of its guides keeps, and every method on every model.

A newcomer's model is picked up from ``ppl_vae.models.SUITE``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor

from ppl_vae import models
from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.data import Dataset, Games, Rows, as_dataset
from ppl_vae.data import inputs as inputs_
from ppl_vae.data.games import games_between
from ppl_vae.data.matching import resolve
from ppl_vae.diagnostics import compare
from ppl_vae.guides import Prior
from ppl_vae.inference import elbo, exact, guide, importance, nuts, svi
from ppl_vae.program.abilities import ExactEvidence, ExactPosterior, HasIdentifiable, Labelled
from ppl_vae.program.pair import Pair
from ppl_vae.program.shown import ViewContext, views_of
from ppl_vae.program.terms import layout
from ppl_vae.report.figures.views import draw
from ppl_vae.views import Score, TableView

NUM_ROWS, NUM_FEATURES, NUM_UNITS = 16, 6, 8
FAMILIES = {cls.__name__: cls for cls in models.SUITE}
PAIRS = [(name, guide_name) for name, family in FAMILIES.items() for guide_name in family.guides]
# Options under which a handful of data suffice.
TINY: Mapping[str, Mapping[str, Any]] = {
    "BayesianMixture": {"num_components": 2},
    "GaussianMixture": {"covariance": "spherical", "num_starts": 0},
    "Skills": {"draws": True, "drift": "1"},
}
every_model = pytest.mark.parametrize("name", FAMILIES)
every_pair = pytest.mark.parametrize(("name", "guide_name"), PAIRS)


@dataclass
class Tiny:
    """A model of the family on a handful of data."""

    model: Any
    data: tuple[Tensor, ...]
    guide_name: str

    @property
    def pair(self) -> Pair:
        return Pair(self.model, self.model.guides[self.guide_name](self.model, *self.data))


def draws_nothing(tiny: Tiny) -> bool:
    """Whether all latents are summed out, so that there is nothing to draw, and no noise in any answer."""
    return not layout(tiny.pair, *tiny.data).latents


def make(name: str, guide_name: str | None = None, seed: int = 0) -> Tiny:
    family = FAMILIES[name]
    torch.manual_seed(seed)
    dtype = getattr(torch, family.defaults.dtype)
    options = _narrow(family.Options(**TINY.get(name, {})))
    for binary in (False, True):
        data = _data(family, binary=binary)
        try:
            model = family.from_data(data, options)
            break
        except InputError:
            if binary:
                raise
    dataset = data if isinstance(data, Dataset) else data.dataset
    tensors = dataset.arguments(family.inputs, dtype)
    return Tiny(model, tensors, guide_name or next(iter(family.guides)))


def _data(family: Any, *, binary: bool) -> Any:
    """A handful of units, as the family looks at them; binary where it takes nothing else."""
    if family.data_type is Dataset:
        return _dataset(family.inputs, binary=binary)
    return _games() if family.data_type is Games else _rows(binary=binary)


def _narrow(options: Any) -> Any:
    """Options with networks of a few units: widths are whole numbers in tuples."""
    widths = {
        each.name: tuple(min(width, NUM_UNITS) for width in value)
        for each in fields(options)
        if isinstance(value := getattr(options, each.name), tuple) and all(isinstance(w, int) for w in value)
    }
    return replace(options, **widths)


def _dataset(inputs: Mapping[str, inputs_.Input], *, binary: bool) -> Dataset:
    """A handful of units for whatever a model declares."""
    generator = np.random.default_rng(0)
    shapes = {inputs_.Features: (NUM_FEATURES,), inputs_.Sequence: (5,), inputs_.Points: (4, 2)}
    columns: dict[str, Any] = {}
    for name, kind in inputs.items():
        if isinstance(kind, inputs_.Category | inputs_.Group | inputs_.Index):
            columns[name] = np.arange(NUM_ROWS) % 3
        elif isinstance(kind, inputs_.Count):
            columns[name] = generator.poisson(3.0, NUM_ROWS)
        else:
            columns[name] = generator.normal(size=(NUM_ROWS, *shapes.get(type(kind), ())))
            if binary:
                columns[name] = (columns[name] > 0).astype(float)
    return resolve(as_dataset(columns), inputs)


def _rows(*, binary: bool) -> Rows:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(NUM_ROWS, 2)) @ generator.normal(size=(2, NUM_FEATURES))
    values = values + generator.normal(size=values.shape)
    values = (values > 0).astype(float) if binary else values
    names = tuple(f"f{k}" for k in range(NUM_FEATURES))
    return Rows("tiny", values, names, "binary" if binary else "real")


def _games() -> Games:
    pairs = ("Ann Bob", "Ann Cyd", "Bob Cyd", "Cyd Ann", "Ann Dee", "Dee Bob", "Cyd Dee")
    winners, losers = zip(*map(str.split, pairs), strict=True)
    return replace(games_between("tiny", winners, losers), time=np.arange(7.0) // 2)


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
        first = None if nothing else _chains(tiny, seed=3)
        if isinstance(tiny.model, ExactEvidence):
            exact.log_evidence(tiny.model, *tiny.data)
        if isinstance(tiny.model, ExactPosterior):
            once, again = (exact.draws(tiny.model, *tiny.data, num_draws=40, seed=s) for s in (1, 1))
            assert once.draws.equals(again.draws)
            assert not once.draws.equals(exact.draws(tiny.model, *tiny.data, num_draws=40, seed=2).draws)
    if first is None:
        with pytest.raises(InputError, match="no continuous latent sites, so there is nothing to sample"):
            _chains(tiny)
        return
    assert first.draws.equals(_chains(tiny, seed=3).draws)
    assert not first.draws.equals(_chains(tiny, seed=4).draws)


def _chains(tiny: Tiny, seed: int = 0) -> Posterior:
    return nuts.sample(tiny.model, *tiny.data, num_draws=6, warmup=4, chains=2, max_tree_depth=3,
                       seed=seed, progress=False)  # fmt: skip


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


@every_pair
def test_every_guide_answers_with_named_dimensions(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair
    shape = layout(pair, *tiny.data)
    if draws_nothing(tiny):
        with pytest.raises(InputError, match="is summed out, and nothing is approximated"):
            guide.draws(pair, *tiny.data)
    else:
        drawn = guide.draws(pair, *tiny.data, num_draws=7)
        assert (drawn.method, drawn.dependence) == ("guide", "independent")
        _check_draws(drawn, tiny, pair, chains=1, num_draws=7)
        assert drawn.log_weights is not None
        unit = (shape.unit_plate,) if shape.unit_plate else ()
        assert drawn.log_weights.dims == ("chain", "draw", *unit)
        assert drawn.log_weights.size == 7 * shape.num_units

    evidence = importance.log_evidence(pair, *tiny.data, num_samples=40, progress=False)
    assert (evidence.method, evidence.kind, evidence.num_samples) == ("is", "estimate", 40)
    _check_evidence(evidence, shape.unit, shape.num_units)

    fit = svi.fit(pair, *tiny.data, num_steps=4, progress=False)
    assert fit.elbo.shape == (4,)
    assert np.isfinite(fit.elbo).all()
    assert fit.final.num_units == shape.num_units
    assert fit.final.value == pytest.approx(fit.final.reconstruction - fit.final.kl, rel=1e-6)


@every_pair
def test_what_a_pair_has_to_show_is_drawn(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair
    drawn = not draws_nothing(tiny)
    draws = {"svi": guide.draws(pair, *tiny.data, num_draws=7).draws} if drawn else {}
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    for context in (ViewContext(pair, tiny.data, tiny.data, draws), ViewContext(pair, tiny.data, tiny.data)):
        for view in views_of(context):
            assert view.caption.endswith(".")
            assert draw(view) is not None or isinstance(view, Score | TableView)
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items())


@every_model
def test_every_reference_answers_with_the_same_dimensions_and_can_be_compared(name: str) -> None:
    tiny = make(name)
    pair = tiny.pair
    _check_exact(tiny, pair)
    if draws_nothing(tiny):
        return
    chains = _chains(tiny)
    assert (chains.method, chains.dependence) == ("nuts", "chains")
    _check_draws(chains, tiny, pair, chains=2, num_draws=6)
    for statistic in ("diverging", "acceptance_rate", "step_size"):
        assert chains.stats[statistic].dims == ("chain", "draw")
        assert chains.stats[statistic].shape == (2, 6)
    assert all(variable.dtype == np.float64 for variable in chains.draws.data_vars.values())

    own = guide.draws(pair, *tiny.data, num_draws=12)
    found = compare(own, reference=chains, model=tiny.model)
    assert found.verdicts == {"guide": "cannot tell"}
    if isinstance(tiny.model, HasIdentifiable):
        mapped = tiny.model.identifiable(own.draws)
        assert {"chain": 1, "draw": 12}.items() <= dict(mapped.sizes).items()
        assert len(found.table) == sum(v.size // 12 for v in mapped.data_vars.values())


def _check_exact(tiny: Tiny, pair: Pair) -> None:
    """The answers that a model knows."""
    if isinstance(tiny.model, ExactPosterior):
        answer = exact.draws(tiny.model, *tiny.data, num_draws=5)
        assert (answer.method, answer.dependence) == ("exact", "independent")
        _check_draws(answer, tiny, pair, chains=1, num_draws=5)
    if isinstance(tiny.model, ExactEvidence):
        shape = layout(pair, *tiny.data)
        _check_evidence(exact.log_evidence(tiny.model, *tiny.data), shape.unit, shape.num_units)


@every_model
def test_the_prior_serves_every_model_as_a_proposal(name: str) -> None:
    tiny = make(name)
    pair = Pair(tiny.model, Prior(tiny.model))
    shape = layout(pair, *tiny.data)
    evidence = importance.log_evidence(pair, *tiny.data, num_samples=40, progress=False)
    assert evidence.proposal == "prior"
    _check_evidence(evidence, shape.unit, shape.num_units)


def _check_draws(answer: Posterior, tiny: Tiny, pair: Pair, *, chains: int, num_draws: int) -> None:
    shape = layout(pair, *tiny.data)
    model = tiny.model
    names = model.event_dims() if isinstance(model, Labelled) else {}
    labels = model.coords() if isinstance(model, Labelled) else {}
    sites = {name: site.plates for name, site in shape.sites.items()}
    assert set(answer.draws.data_vars) == {*sites}
    assert (answer.num_chains, answer.num_draws) == (chains, chains * num_draws)
    with pair.scope():
        trace = poutine.trace(model).get_trace(*tiny.data)
    for site, plates in sites.items():
        variable = answer.draws[site]
        events = tuple(names.get(site, ()))
        assert variable.dims == ("chain", "draw", *plates, *events)
        value = trace.nodes[site]["value"]
        assert variable.shape[2:] == value.squeeze().shape or variable.shape[2:] == value.shape
        assert np.isfinite(variable.to_numpy()).all()
        for dim in variable.dims:
            if dim in labels:
                assert list(answer.draws.coords[dim].to_numpy()) == list(labels[dim])
    assert np.isfinite(answer.seconds)


def _check_evidence(evidence: Evidence, unit: str, num_units: int) -> None:
    assert (evidence.unit, evidence.num_units) == (unit, num_units)
    assert np.isfinite(evidence.log_evidence).all()
    assert evidence.std_error.shape == evidence.bias.shape == (num_units,)
    assert (evidence.std_error >= 0).all()
    if evidence.kind == "exact":
        assert evidence.total_std_error == 0
    else:
        assert evidence.ess.shape == evidence.pareto_k.shape == evidence.elbo.shape == (num_units,)
        assert ((evidence.ess >= 1 - 1e-9) & (evidence.ess <= evidence.num_samples * (1 + 1e-9))).all()
        assert (evidence.elbo <= evidence.log_evidence + 1e-9).all()
