"""Natural gradients by quadrature against dense quadrature, published optima and Monte Carlo."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference import elbo, guide, natural, svi
from ppl_vae.inference.fitting.factors import expectations as linear_factors
from ppl_vae.inference.fitting.factors.ascent import Bound, State
from ppl_vae.models import PPCA, TrueSkill
from ppl_vae.program.pair import Pair
from ppl_vae.program.pairwise import as_linear

# Enough for the Cauchy likelihood too, whose poles are near.
NODES = 128


class Margins(PyroModule):
    """Player i is measured one point ahead of j, with Cauchy errors: a likelihood that is not concave."""

    def __init__(self, num_players: int, scale: float = 0.5) -> None:
        super().__init__()
        self.prior = torch.distributions.Normal(
            torch.linspace(-1, 1, num_players, dtype=torch.float64),
            torch.linspace(0.5, 2, num_players, dtype=torch.float64),
        )
        self.scale = scale

    def forward(self, margin: Tensor, games: Tensor) -> None:
        with pyro.plate("player", len(self.prior.loc)):
            z = pyro.sample("z", dist.Normal(self.prior.loc, self.prior.scale))
        with pyro.plate("game", len(games)) as k:
            i, j = games[k].T
            pyro.sample("margin", dist.Cauchy(z[..., i] - z[..., j], self.scale), obs=margin[k])

    def normal_prior(self) -> tuple[str, torch.distributions.Normal]:
        return "z", self.prior

    def index_pairs(self, margin: Tensor, games: Tensor) -> tuple[Tensor, Tensor]:
        return games[:, 0], games[:, 1]

    def log_likelihood(self, difference: Tensor) -> Tensor:
        return torch.distributions.Cauchy(difference, self.scale).log_prob(torch.ones(()))


def _games(num_players: int = 12, num_games: int = 150, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ones and a table: many pairs meet more than once, in both orders, and one player never plays."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(num_players - 1, (num_games,), generator=generator)
    shift = torch.randint(1, num_players - 1, (num_games,), generator=generator)
    table = torch.stack([first, (first + shift) % (num_players - 1)], dim=1)
    return torch.ones(num_games, dtype=torch.float64), table


def _skills(link: str, num_players: int = 12, **options: Any) -> Pair:
    model = TrueSkill(num_players, link=link, **options)
    return Pair(model, TrueSkill.guides["mean-field"](model, None))


def _margins(num_players: int = 12) -> Pair:
    model = Margins(num_players)
    return Pair(model, AutoNormal(model))


PAIRS: dict[str, Callable[[], Pair]] = {
    "logistic": lambda: _skills("logistic"),
    "probit": lambda: _skills("probit"),
    "probit with a margin": lambda: _skills("probit", skill_mean=1.0, skill_sd=2.0, draw_margin=3.0),
    "not concave": _margins,
}
every_pair = pytest.mark.parametrize("name", PAIRS)


def _moments(pair: Pair) -> tuple[Tensor, Tensor]:
    """The guide's means and standard deviations, as it would draw with them."""
    site = pair.model.normal_prior()[0]  # type: ignore[attr-defined]
    loc, scale = (getattr(part, site) for part in (pair.guide.locs, pair.guide.scales))  # type: ignore[attr-defined]
    return loc.detach().clone(), scale.detach().clone()


def _dense_elbo(pair: Pair, games: tuple[Tensor, Tensor], loc: Tensor, scale: Tensor) -> Tensor:
    """Game by game with the trapezoidal rule, from nothing but the program's own log joint density."""
    model = as_linear(pair.model)
    assert model is not None
    _, chains = model.normal_prior()
    prior = torch.distributions.Normal(chains.mean, chains.variance.sqrt())
    nodes = torch.linspace(-9, 9, 3001, dtype=torch.float64)
    weights = torch.exp(-0.5 * nodes**2)
    design = model.rows(*games)
    i, j = design.column.reshape(-1, 2).T
    sd = (scale[i] ** 2 + scale[j] ** 2).sqrt()
    at = (loc[i] - loc[j]) + sd * nodes[:, None]
    likelihood = model.log_likelihood(at, *design.observed)
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(loc, scale), prior).sum()
    return ((weights / weights.sum()) @ likelihood).sum() - kl


@pytest.mark.parametrize("row", range(4))
def test_the_published_optima_of_two_players(
    row: int, shared: Callable[[str], Path], oracles: ModuleType
) -> None:
    table = json.loads(shared("reference/skill.json").read_text())["two_player"]["mean_field_optimum"]["rows"]
    wins, losses, mean, sd, best = table[row]
    pair = _skills("logistic", 2)
    found = natural.fit(pair, *oracles.won([[0, 1]] * wins + [[1, 0]] * losses), tolerance=1e-9)
    loc, scale = _moments(pair)
    # Half a unit of the last digit that the table gives.
    assert abs(found.final.value - best) < 1e-6
    assert torch.allclose(loc, loc.new_tensor([mean, -mean]), rtol=0, atol=1e-5)
    assert torch.allclose(scale, scale.new_tensor([sd, sd]), rtol=0, atol=1e-5)
    assert found.converged, found.reason


@pytest.mark.parametrize(("wins", "losses"), [(1, 0), (10, 10), (40, 3)])
def test_the_optimum_of_two_players_found_without_gradients_of_ours(
    wins: int, losses: int, oracles: ModuleType
) -> None:
    pair = _skills("logistic", 2)
    found = natural.fit(pair, *oracles.won([[0, 1]] * wins + [[1, 0]] * losses), tolerance=1e-8)
    best, loc, scale = oracles.skill_mean_field_optimum(wins, losses)
    # BFGS stops at gradients of 1e-7: a gap of 1e-10 or so, and moments to 1e-5.
    assert abs(found.final.value - best) < 1e-7
    assert np.allclose(_moments(pair)[0], loc, rtol=0, atol=1e-4)
    assert np.allclose(_moments(pair)[1], scale, rtol=0, atol=1e-4)


@every_pair
def test_the_ability_describes_the_program(name: str) -> None:
    pair, games = PAIRS[name](), _games()
    model = as_linear(pair.model)
    assert model is not None
    site, chains = model.normal_prior()
    prior = torch.distributions.Normal(chains.mean, chains.variance.sqrt())
    z = prior.sample()
    design = model.rows(*games)
    i, j = design.column.reshape(-1, 2).T
    by_parts = prior.log_prob(z).sum() + model.log_likelihood(z[i] - z[j], *design.observed).sum()
    trace = poutine.trace(poutine.condition(model, {site: z})).get_trace(*games)
    torch.testing.assert_close(by_parts, trace.log_prob_sum(), rtol=1e-12, atol=0)


@every_pair
def test_the_gradient_vanishes_at_the_optimum(name: str) -> None:
    pair, games = PAIRS[name](), _games()
    found = natural.fit(pair, *games, tolerance=1e-10, num_nodes=NODES)
    assert found.converged, found.reason
    loc, scale = (moment.requires_grad_() for moment in _moments(pair))
    value = _dense_elbo(pair, games, loc, scale)
    assert abs(value.item() - found.final.value) < 1e-8 * abs(found.final.value)
    # In units of the guide's standard deviations: what a move by one of them would bring.
    for slope in torch.autograd.grad(value, (loc, scale)):
        assert (slope * scale).abs().max() < 1e-3


def test_draws_go_by_quadrature_as_well(oracles: ModuleType) -> None:
    pair = _skills("probit", draw_margin=2.0)
    outcome, players = _games()
    outcome = torch.where(torch.arange(len(outcome)) % 3 == 0, 0.5, outcome)
    found = natural.fit(pair, outcome, players, tolerance=1e-10, num_nodes=NODES)
    loc, scale = (moment.requires_grad_() for moment in _moments(pair))
    value = _dense_elbo(pair, (outcome, players), loc, scale)
    assert value.item() == pytest.approx(found.final.value, abs=1e-7)
    for slope in torch.autograd.grad(value, (loc, scale)):
        assert (slope * scale).abs().max() < 1e-3
    drawn = elbo(pair, outcome, players, num_particles=1000, seed=3)
    assert abs(drawn.value - found.final.value) < oracles.z_limit(1) * drawn.std_error


@every_pair
def test_no_other_guide_nearby_is_better(name: str) -> None:
    pair, games = PAIRS[name](), _games()
    best = natural.fit(pair, *games, tolerance=1e-10, num_nodes=NODES).final.value
    loc, scale = _moments(pair)
    generator = torch.Generator().manual_seed(1)
    for size in (0.01, 0.1, 0.3):
        a, b = (torch.randn(loc.shape, generator=generator, dtype=loc.dtype) for _ in range(2))
        assert _dense_elbo(pair, games, loc + size * a * scale, scale * torch.exp(size * b)) < best


@every_pair
@pytest.mark.parametrize("start", ["at the prior", "far away"])
def test_every_iteration_raises_the_elbo(name: str, start: str) -> None:
    pair, games = PAIRS[name]().initialise(*_games()), _games()
    if start == "far away":
        with torch.no_grad():
            for leaf in pair.parameters("guide").values():
                leaf.add_(5 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(2)))
    before = natural.quadrature_elbo(pair, *games, num_nodes=NODES).value
    found = natural.fit(pair, *games, num_nodes=NODES)
    assert found.steps == len(found.elbo)
    assert np.all(np.diff([before, *found.elbo]) >= 0)
    assert found.converged, found.reason


def test_the_start_does_not_matter() -> None:
    games = _games()
    ends = []
    for size in (0.0, 2.0):
        pair = _skills("logistic").initialise(*games)
        with torch.no_grad():
            for leaf in pair.parameters("guide").values():
                leaf.add_(size)
        ends.append(natural.fit(pair, *games, tolerance=1e-9).final.value)
    assert abs(ends[0] - ends[1]) < 1e-7


@every_pair
def test_quadrature_agrees_with_draws(name: str, oracles: ModuleType) -> None:
    pair, games = PAIRS[name](), _games()
    natural.fit(pair, *games, max_iterations=2)
    exact = natural.quadrature_elbo(pair, *games, num_nodes=NODES)
    drawn = elbo(pair, *games, num_particles=4000, seed=3)
    assert abs(drawn.value - exact.value) < oracles.z_limit(len(PAIRS)) * drawn.std_error
    assert exact.value == pytest.approx(exact.reconstruction - exact.kl, rel=1e-12)
    assert exact.std_error == 0


def test_quadrature_judges_the_answer_of_svi() -> None:
    games = _games()
    pair = _skills("logistic")
    svi.fit(pair, *games, num_steps=300, lr=0.05, num_particles=4, progress=False)
    before = {name: leaf.detach().clone() for name, leaf in pair.parameters().items()}
    value = natural.quadrature_elbo(pair, *games).value
    assert all(torch.equal(leaf, before[name]) for name, leaf in pair.parameters().items())
    gap = natural.fit(pair, *games).final.value - value
    assert 0 < gap < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_guides_own_parameters_are_set_in_place(dtype: torch.dtype, oracles: ModuleType) -> None:
    pair, games = _skills("logistic", dtype=dtype).initialise(*_games()), _games()
    leaves = pair.parameters("guide")
    natural.fit(pair, *games)
    after = pair.parameters("guide")
    assert all(after[name] is leaf and leaf.dtype == dtype for name, leaf in leaves.items())
    loc, scale = (moment.double().numpy() for moment in _moments(pair))
    num = 4000
    drawn = guide.draws(pair, *games, num_draws=num, seed=5).draws["skill"].to_numpy().reshape(num, -1)
    limit = oracles.z_limit(2 * len(loc))
    assert np.all(np.abs(drawn.mean(0) - loc) < limit * scale / np.sqrt(num))
    assert np.all(np.abs(drawn.std(0) - scale) < limit * scale / np.sqrt(2 * num))
    # Nobody plays against the last player: its prior is its posterior.
    assert loc[-1] == pytest.approx(0, abs=1e-6)
    assert scale[-1] == pytest.approx(1, abs=1e-6)


def test_single_precision_reaches_the_same_optimum() -> None:
    games = _games()
    ends = [natural.fit(_skills("logistic", dtype=dtype), *games) for dtype in (torch.float32, torch.float64)]
    assert ends[0].final.value == pytest.approx(ends[1].final.value, abs=1e-6)
    assert all(end.converged for end in ends)


def test_the_same_numbers_again_and_nothing_global_changes(oracles: ModuleType) -> None:
    with oracles.nothing_global_changes():
        ends = []
        for seed in (0, 1):
            torch.manual_seed(0)
            pair = _skills("probit")
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                ends.append((natural.fit(pair, *_games()).elbo, *_moments(pair)))
        torch.manual_seed(0)
    assert np.array_equal(ends[0][0], ends[1][0])
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1:], ends[1][1:], strict=True))


def test_pieces_of_the_pairs_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    games = _games()
    whole = natural.quadrature_elbo(_skills("logistic"), *games).value
    monkeypatch.setattr(linear_factors, "CHUNK", 200)
    assert natural.quadrature_elbo(_skills("logistic"), *games).value == pytest.approx(whole, rel=1e-12)


def test_what_stopped_too_early_has_not_converged() -> None:
    short = natural.fit(_skills("logistic"), *_games(), max_iterations=1)
    assert short.steps == 1
    assert not short.converged
    # Wide priors and three nodes: the rule itself is off, and twice the nodes tell.
    coarse = natural.fit(_skills("logistic", skill_sd=5.0), *_games(), num_nodes=3)
    assert coarse.steps < 200
    assert not coarse.converged
    assert "twice the 3 nodes change it by" in coarse.reason


@pytest.mark.parametrize("job", [natural.fit, natural.quadrature_elbo])
def test_other_pairs_are_refused_in_one_sentence(job: Callable[..., object]) -> None:
    games = _games()
    model = TrueSkill(12)
    if job is natural.quadrature_elbo:  # `fit` takes such pairs by common draws
        with pytest.raises(
            InputError, match=r"guides AutoNormal, ChainNormal, JointNormal, .*; this pair's is AutoLowRank"
        ):
            job(Pair(model, AutoLowRankMultivariateNormal(model, rank=1)), *games)
        ppca = PPCA(3, 1)
        with pytest.raises(InputError, match=r"ppca is no model of sparse linear predictors .* by SVI"):
            job(Pair(ppca, AutoNormal(ppca)), torch.zeros(4, 3, dtype=torch.float64))
    with pytest.raises(InputError, match=r"latent site is skill \(12,\), and the guide has skill \(11,\)"):
        job(Pair(model, AutoNormal(TrueSkill(11))), *games)
    with pytest.raises(InputError, match="players are 0 to 11"):
        job(Pair(model, AutoNormal(model)), torch.ones(1), torch.tensor([[0, 12]]))
    margins = Margins(3)
    with pytest.raises(InputError, match="datum 1 reads the states 2, 2, of which two are one"):
        job(Pair(margins, AutoNormal(margins)), torch.ones(2), torch.tensor([[0, 1], [2, 2]]))
    with pytest.raises(InputError, match="num_nodes is 1; it must be at least 2"):
        job(Pair(model, AutoNormal(model)), *games, num_nodes=1)


def test_arguments_out_of_range_are_refused() -> None:
    pair, games = _skills("logistic"), _games()
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match=r"tolerance is .* a positive number of nats"):
            natural.fit(pair, *games, tolerance=wrong)
    with pytest.raises(InputError, match="max_iterations is 0; it must be at least 1"):
        natural.fit(pair, *games, max_iterations=0)
    pair.initialise(*games)
    with torch.no_grad():
        next(iter(pair.parameters("guide").values())).fill_(float("nan"))
    with pytest.raises(InputError, match="the ELBO is nan where the guide stands"):
        natural.fit(pair, *games)


@pytest.mark.slow
def test_a_quarter_of_a_million_games(shared: Callable[[str], Path]) -> None:
    """52,000 players; the optimum is published to two digits, and was found by two other programs."""
    best = json.loads(shared("reference/skill.json").read_text())["chess_csc412"]
    rows = np.loadtxt(shared("data/chess_csc412/games.csv"), delimiter=",", skiprows=1, dtype=np.int64)
    games = (torch.ones(len(rows), dtype=torch.float64), torch.as_tensor(rows - 1))
    pair = _skills("logistic", int(rows.max()))
    found = natural.fit(pair, *games)
    assert abs(found.final.value - best["mean_field_optimum_ELBO"]) < 0.1
    assert np.all(np.diff(found.elbo) > 0)
    assert found.converged, found.reason
    top = _moments(pair)[0].topk(4).values
    assert np.allclose(top, list(best["top_means"].values()), rtol=0, atol=1e-3)


def test_a_climb_holds_no_states_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """States have numbers of every row, of which there may be ten million."""
    made: list[weakref.ref[State]] = []
    at = Bound.at

    def counted(bound: Bound, *where: Any) -> State:
        # The one that is left, and, of a finer rule, none of the coarser one's before it.
        assert sum(state() is not None for state in made) <= 1
        found = at(bound, *where)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Bound, "at", counted)
    players = torch.tensor([[0, 1], [0, 2], [1, 2], [2, 0]])
    model = TrueSkill(3)
    pair = Pair(model, TrueSkill.guides["mean-field"](model, None))
    found = natural.fit(pair, torch.tensor([1.0, 1.0, 0.0, 1.0]).double(), players, progress=False)
    assert found.converged
    assert len(made) > 4
