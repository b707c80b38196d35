"""One contract of evaluation, over every model, every guide and users' networks of every kind.

No evaluation moves a buffer, a parameter or a mode, and no row's log p depends on its neighbours.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import collapse, compare, gaps, predictive_check
from ppl_vae.engine.density import density
from ppl_vae.guides import AmortisedNormal
from ppl_vae.inference import bounds, guide, importance, nuts, svi
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.inference.fitting import steps
from ppl_vae.inference.fitting.settling import settle
from ppl_vae.models.networks.norms import BatchNorm
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import layout, terms
from tests.tiny import PAIRS, make

NUM_ROWS, SIDE, HIDDEN = 16, 4, 3
PIXELS = SIDE * SIDE


@pytest.fixture(autouse=True)
def _one_short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("ppl_vae.diagnostics.latents.gaps"), "ROUNDS", 1)


class _Spy(nn.Module):
    """Passes on what it gets, and refuses to learn."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not LEARNING:
            raise AssertionError("evaluated in training mode")
        return x


# Not empty while a fit is under way.
LEARNING: list[bool] = []


class _Folded(nn.Module):
    """A convolution between dense layers, which takes any number of leading dimensions."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.conv = norm, nn.Conv2d(1, HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        images = x.reshape(-1, 1, SIDE, SIDE)
        return self.norm(self.conv(images)).mean(1).reshape(x.shape)


class _Dense(nn.Module):
    """A layer that takes one leading dimension only, behind any number of them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, x.shape[-1])).reshape(x.shape)


MIDDLES: dict[str, Callable[[], nn.Module]] = {
    "nn.BatchNorm1d": lambda: _Dense(nn.BatchNorm1d(PIXELS)),
    "nn.BatchNorm2d": lambda: _Folded(nn.BatchNorm2d(HIDDEN)),
    "nn.Dropout": lambda: nn.Dropout(0.5),
    "BatchNorm": lambda: BatchNorm(PIXELS),
    "BatchNorm of images": lambda: _Folded(BatchNorm(HIDDEN, spatial_dims=2)),
}


class _Decoder(PyroModule):  # type: ignore[misc]
    def __init__(self, middle: str) -> None:
        super().__init__("model")
        parts = (nn.Linear(2, PIXELS), MIDDLES[middle](), _Spy(), nn.Tanh(), nn.Linear(PIXELS, PIXELS))
        self.decoder = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> None:
        zero = x.new_zeros(2)
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x[i])


def _users(middle: str, how: str) -> tuple[Pair, Tensor, list[nn.Module]]:
    """A VAE whose encoder and decoder have such a layer, and the networks in it.

    It is one of modules, or of functions that close over its networks.
    """
    torch.manual_seed(0)
    x = 2 + torch.randn(NUM_ROWS, PIXELS)
    encoder = nn.Sequential(MIDDLES[middle](), _Spy(), nn.Linear(PIXELS, 4))
    model, amortised = _Decoder(middle), AmortisedNormal(encoder, 2)
    networks = [model.decoder, encoder]
    if how == "modules":
        return Pair(model, amortised), x, networks

    def program(x: Tensor) -> None:
        pyro.module("decoder", networks[0])
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(networks[0](z), 1.0).to_event(1), obs=x[i])

    def approximation(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)) as i:
            loc, raw = encoder(x[i]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return Pair(program, approximation), x, networks


def _learnt(middle: str, how: str) -> tuple[Pair, Tensor, list[nn.Module]]:
    """The same after three steps, so that no statistics are those of the start."""
    pair, x, networks = _users(middle, how)
    LEARNING.append(True)
    try:
        svi.fit(pair, x, num_steps=3, compile=False, progress=False)
    finally:
        LEARNING.clear()
    settle(pair, x)
    return pair, x, networks


def _state(pair: Pair, networks: list[nn.Module]) -> tuple[Mapping[str, Tensor], list[Tensor], list[bool]]:
    programs = [part for part in (pair.model, pair.guide) if isinstance(part, nn.Module)]
    modules = [part for network in (*networks, *programs) for part in network.modules()]
    tensors = [t.detach().clone() for part in modules for t in (*part.parameters(), *part.buffers())]
    return pair.state_dict(), tensors, [part.training for part in modules]


def _changes_nothing(pair: Pair, networks: list[nn.Module], what: Callable[[], Any]) -> Any:
    before = _state(pair, networks)
    found = what()
    after = _state(pair, networks)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]
    return found


def _evaluations(pair: Pair, *data: Tensor) -> dict[str, Callable[[], Any]]:
    shape = layout(pair, *data)
    row = torch.tensor([3]) if shape.can_index else None

    def compared() -> Any:
        drawn = guide.draws(pair, *data, num_draws=12)
        return compare(drawn, reference=drawn, model=pair.model)

    def at_a_point() -> Any:
        log_density = density(pair, *data)
        return log_density.value_and_gradient(log_density.like.new_zeros(log_density.dim))

    return {
        "elbo": lambda: elbo(pair, *data, num_particles=2),
        "importance": lambda: importance.log_evidence(
            pair, *data, num_samples=10, defensive=0.1, progress=False
        ),
        "bound": lambda: bounds.iwae(pair, *data, num_particles=4, num_repeats=2, progress=False),
        "density": at_a_point,
        "guide": lambda: guide.draws(pair, *data, num_draws=3),
        "compare": compared,
        "collapse": lambda: collapse(pair, *data, num_draws=10),
        "prediction": lambda: predictive_check(pair, *data, num_draws=40),
        "gaps": lambda: gaps(
            pair, *data, index=row, num_samples=2, num_steps=1, compile=False, progress=False
        ),
    }


@pytest.mark.parametrize(("name", "guide_name"), PAIRS)
def test_no_evaluation_of_a_suite_model_changes_anything(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair
    for what in _evaluations(pair, *tiny.data).values():
        try:
            _changes_nothing(pair, [], what)
        except InputError:  # latents of the data set cannot collapse, and so on
            continue


@pytest.mark.parametrize("how", ["modules", "functions"])
@pytest.mark.parametrize("middle", MIDDLES)
def test_no_evaluation_of_a_users_networks_changes_anything(middle: str, how: str) -> None:
    pair, x, networks = _learnt(middle, how)
    for name, what in _evaluations(pair, x).items():
        if name == "gaps" and (how == "functions" or middle not in ("BatchNorm", "nn.BatchNorm1d")):
            continue  # functions do not say their covariance, and searches are long
        _changes_nothing(pair, networks, what)


def test_nuts_evaluates_too() -> None:
    pair, x, networks = _learnt("BatchNorm", "modules")
    _changes_nothing(
        pair,
        networks,
        lambda: nuts.sample(pair, x, num_draws=4, warmup=1, chains=1, max_tree_depth=1, progress=False),
    )


def _rows_alone_and_among_others(pair: Pair, *data: Tensor, shape: Layout, amortised: bool) -> None:
    """log p and log q of rows at given latents: alone, in another order, and in data of their own."""
    generator = torch.Generator().manual_seed(1)
    drawn = terms(pair, *data, layout=shape, num_particles=2).draws
    latents = {site: drawn[site] for site in shape.latents}
    whole = terms(pair, *data, layout=shape, num_particles=2, latents=latents)
    mixed = torch.randperm(len(data[0]), generator=generator)

    def of(index: Tensor) -> dict[str, Tensor]:
        return {site: z[:, index] for site, z in latents.items()}

    for index in (torch.tensor([7]), torch.tensor([11, 7, 2]), mixed):
        part = terms(pair, *data, layout=shape, num_particles=2, index=index, latents=of(index))
        torch.testing.assert_close(part.log_p, whole.log_p[:, index])
        torch.testing.assert_close(part.log_q, whole.log_q[:, index])
    for index in (mixed, mixed[:2]) if amortised else ():
        rows = [values[index] for values in data]
        alone = layout(pair, *rows)
        own = terms(pair, *rows, layout=alone, num_particles=2, latents=of(index))
        torch.testing.assert_close((own.log_p, own.log_q), (whole.log_p[:, index], whole.log_q[:, index]))


@pytest.mark.parametrize(("name", "guide_name"), PAIRS)
def test_no_row_of_a_suite_model_depends_on_its_neighbours(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair
    shape = layout(pair, *tiny.data)
    if shape.unit_plate is None:
        pytest.skip("its unit is the data set")
    _rows_alone_and_among_others(pair, *tiny.data, shape=shape, amortised="datum" not in guide_name)


@pytest.mark.parametrize("how", ["modules", "functions"])
@pytest.mark.parametrize("middle", MIDDLES)
def test_no_row_of_a_users_networks_depends_on_its_neighbours(middle: str, how: str) -> None:
    pair, x, _ = _learnt(middle, how)
    _rows_alone_and_among_others(pair, x, shape=layout(pair, x), amortised=True)


@pytest.mark.parametrize("middle", MIDDLES)
def test_users_networks_are_fitted_and_what_cannot_be_traced_is_said_once(
    middle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "TRACED", 5)
    pair, x, _ = _users(middle, "modules")
    LEARNING.append(True)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fit = svi.fit(pair, x, num_steps=10, progress=False)
    finally:
        LEARNING.clear()
    # PyTorch's layers change tensors in place while they learn.
    stock = middle.startswith("nn.")
    assert fit.engine == ("pyro" if stock else "traced")
    assert sum("runs through stock Pyro" in str(one.message) for one in said) == stock
