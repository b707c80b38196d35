"""Expectation propagation against exact moments, published answers and other paths to its fixed points."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from scipy import special, stats
from torch import Tensor

import ppl_vae
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import read_json
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.evidence import importance
from ppl_vae.inference.fitting import ep, natural
from ppl_vae.inference.fitting.choice import fit
from ppl_vae.inference.fitting.fit_result import Choice, EvidenceEstimate
from ppl_vae.inference.fitting.propagation.factors import factors_of
from ppl_vae.inference.fitting.propagation.loop import Propagated, propagate
from ppl_vae.models.skills.duel_moments import probit_moments
from ppl_vae.models.skills.links import Duel, duel_log_prob
from ppl_vae.program.chain_prior import ChainPrior
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import Tilted
from ppl_vae.program.pair import Pair
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.run import settings_for
from ppl_vae.runs.summary import say_fit

TTT = (25.0, 25.0 / 3, 25.0 / 6)
# Twice the error of its normal distribution function: the rational approximation of Numerical Recipes, whose
# relative error is 1.2e-7.
OF_TTT = 1e-6


class Contests(PyroModule):
    """States of chains, of which every game shows a weighted sum to a duel."""

    def __init__(
        self,
        chains: Chains,
        states: Sequence[Sequence[int]],
        weights: Sequence[Sequence[float]] | None = None,
        scale: float = math.sqrt(2.0),
        margin: float = 0.0,
        link: str = "probit",
    ) -> None:
        super().__init__("contests")
        self.chains, self.scale, self.margin, self.link = chains, scale, margin, link
        self.states = torch.tensor(states)
        signs = [[1.0, -1.0]] * len(states) if weights is None else weights
        self.weights = torch.tensor(signs, dtype=torch.float64)

    def forward(self, outcome: Tensor) -> None:
        skill = pyro.sample("skill", ChainPrior(self.chains))
        with pyro.plate("game", len(outcome)) as i:
            # Particles come with a dimension for the plate of games.
            skill = skill.squeeze(-2) if skill.dim() > 1 else skill
            ahead = (self.weights[i] * skill[..., self.states[i]]).sum(-1)
            pyro.sample("outcome", Duel(ahead, self.scale, self.margin, self.link), obs=outcome[i])

    def normal_prior(self) -> tuple[str, Chains]:
        return "skill", self.chains

    def rows(self, outcome: Tensor) -> Design:
        return Design.of_entries(self.states, self.weights, outcome)

    def log_likelihood(self, predictor: Tensor, outcome: Tensor) -> Tensor:
        return duel_log_prob(predictor, outcome, self.scale, self.margin, self.link)


class Closed(Contests):
    """The same, by formulas."""

    def tilted(self, mean: Tensor, variance: Tensor, outcome: Tensor) -> Tilted:
        return probit_moments(mean, variance, outcome, self.scale, self.margin)


class Sides(Contests):
    """The same duels as rankings of two sides, a row a side."""

    def rankings(self, outcome: Tensor) -> tuple[Design, Tensor]:
        whole = Design.of_entries(self.states.reshape(-1, 1), self.weights.abs().reshape(-1, 1))
        return whole, torch.full((len(outcome),), 2)

    def ranking_moments(self, mean: Tensor, variance: Tensor, outcome: Tensor) -> Tilted:
        ahead, spread = mean[::2] - mean[1::2], variance[::2] + variance[1::2]
        found = probit_moments(ahead, spread, outcome, self.scale, self.margin)
        slope = torch.stack([found.slope, -found.slope], 1).reshape(-1)
        return Tilted(found.log_normaliser, slope, found.curvature.repeat_interleave(2))


def static(num_players: int, mean: float = 0.0, sd: float = 1.0) -> Chains:
    return Chains.static(
        torch.full((num_players,), mean).double(), torch.full((num_players,), sd**2).double()
    )


def solved(model: Contests, outcome: Sequence[float], **options: float) -> tuple[Tensor, Tensor, Propagated]:
    """Means and standard deviations of the states."""
    data = torch.tensor(outcome, dtype=torch.float64)
    found = propagate(factors_of(model, data, num_nodes=64), **options)  # type: ignore[arg-type]
    assert found.converged
    return found.sites.mean, found.around.variance.sqrt(), found


def by_rounds(
    player: Sequence[int], time: Sequence[float], sd: float, drift: float, mean: float = 0.0
) -> tuple[Chains, dict[tuple[int, float], int]]:
    """Random walks between each player's own dates, and where each state is."""
    dates = {p: sorted({t for q, t in zip(player, time, strict=True) if q == p}) for p in set(player)}
    longest_first = sorted(dates, key=lambda p: -len(dates[p]))
    where: dict[tuple[int, float], int] = {}
    rounds, variance = [0], []
    for step in range(len(dates[longest_first[0]])):
        for p in (p for p in longest_first if len(dates[p]) > step):
            where[p, dates[p][step]] = len(where)
            gap = dates[p][step] - dates[p][step - 1]
            variance.append(drift**2 * gap if step else sd**2)
        rounds.append(len(where))
    size = len(where)
    chains = Chains(
        torch.full((size,), mean).double(), torch.tensor(variance).double(), torch.ones(size).double(),
        tuple(rounds),
    )  # fmt: skip
    return chains, where


def normal(deviation: Tensor, variance: float) -> Tensor:
    """The normal density, in the precision of its argument."""
    return (-(deviation**2) / (2 * variance)).exp() / math.sqrt(2 * math.pi * variance)


def margin_of(probability: float, sd: float) -> float:
    """What games of equals are drawn within, with this probability."""
    return float(stats.norm.ppf((1 + probability) / 2)) * sd


def season(seed: int, num_players: int, num_games: int) -> tuple[list[tuple[int, int]], list[float]]:
    """Games of players whose skills lie one apart, with draws within half a point."""
    rng = np.random.default_rng(seed)
    pairs = [tuple(int(p) for p in rng.choice(num_players, 2, replace=False)) for _ in range(num_games)]
    ahead = [rng.normal(i - j, math.sqrt(2.0)) for i, j in pairs]
    return pairs, [0.5 if abs(d) < 0.5 else float(d > 0) for d in ahead]


@pytest.mark.parametrize("link", ["probit", "logistic"])
@pytest.mark.parametrize("outcome", [1.0, 0.5, 0.0])
def test_one_game_is_exact(link, outcome):
    """Marginals and log p(x) of a single factor, against a grid over the two players' skills."""
    chains = Chains.static(torch.tensor([0.5, -0.2], dtype=torch.float64), torch.tensor([1.0, 2.0]).double())
    model = Contests(chains, [[0, 1]], scale=1.2, margin=0.4, link=link)
    mean, sd, found = solved(model, [outcome])
    grid = torch.linspace(-12, 12, 481, dtype=torch.float64)
    first = normal(grid - 0.5, 1.0)[:, None]
    second = normal(grid + 0.2, 2.0)
    ahead = grid[:, None] - grid
    joint = first * second * duel_log_prob(ahead, torch.tensor(outcome).double(), 1.2, 0.4, link).exp()
    assert found.log_evidence[-1] == pytest.approx(float((joint.sum() * 0.05**2).log()), abs=1e-9)
    for k, marginal in enumerate((joint.sum(1), joint.sum(0))):
        weights = marginal / marginal.sum()
        first_moment = float(weights @ grid)
        assert float(mean[k]) == pytest.approx(first_moment, abs=1e-8)
        assert float(sd[k]) == pytest.approx(float((weights @ (grid - first_moment) ** 2).sqrt()), abs=1e-8)


def _trueskill(case: str) -> tuple[float, list[float], list[float], list[tuple[float, float]]]:
    """Outcome, weights of the entries, performances' weights and priors of the cases with one factor."""
    default, strong = (25.0, 25 / 3), (50.0, 12.5)
    return {
        "1v1, first wins": (1.0, [1, -1], [default] * 2),
        "1v1, draw": (0.5, [1, -1], [default] * 2),
        "2v2, first team wins": (1.0, [1, 1, -1, -1], [default] * 4),
        "2v2, draw": (0.5, [1, 1, -1, -1], [default] * 4),
        "1v2, the one wins": (1.0, [1, -1, -1], [default] * 3),
        "1v1 draw, default player against (50, 12.5)": (0.5, [1, -1], [default, strong]),
        "1v2 with weights (1) and (0.5, 1), the one wins": (1.0, [1, -0.5, -1], [default] * 3),
    }[case]  # type: ignore[return-value]


def test_cases_of_the_trueskill_package(shared: Callable[[str], Path]) -> None:
    cases = json.loads(shared("reference/skill.json").read_text())["trueskill"]["exact"]
    beta, tau, tested = 25 / 6, 25 / 300, 0
    for case in cases:
        if "probability" in case["case"]:
            continue
        outcome, weights, priors = _trueskill(case["case"])
        mean, sd = (torch.tensor(part).double() for part in zip(*priors, strict=True))
        chains = Chains.static(mean, sd**2 + tau**2)
        margin = margin_of(0.1, math.sqrt(len(weights)) * beta)
        scale = beta * math.sqrt(sum(w**2 for w in weights))
        model = Closed(chains, [list(range(len(weights)))], [weights], scale, margin)
        found_mean, found_sd, _ = solved(model, [outcome])
        expected = torch.tensor(case["expect"]).double()
        # A unit of the last digit: one of those published is cut and not rounded.
        torch.testing.assert_close(found_mean, expected[:, 0], rtol=0, atol=1e-3)
        torch.testing.assert_close(found_sd, expected[:, 1], rtol=0, atol=1e-3)
        tested += 1
    assert tested == 7


def test_the_fixed_point_of_infer_net(shared: Callable[[str], Path]) -> None:
    """The match-up tutorial: six games of five players, messages as here; three digits are published."""
    target = json.loads(shared("reference/skill.json").read_text())["infer_net"]["ep_target_mean_variance"]
    games = [[0, 1], [0, 3], [0, 4], [1, 2], [3, 1], [4, 2]]
    mean, sd, _ = solved(Closed(static(5, 6.0, 3.0), games), [1.0] * 6)
    for player, (expected, variance) in target.items():
        assert float(mean[int(player)]) == pytest.approx(expected, abs=6e-4)
        assert float(sd[int(player)] ** 2) == pytest.approx(variance, abs=6e-4)


def test_answers_that_trueskill_through_time_publishes():
    """One draw, one game of two pairs, and a history of three games with a day between a player's own."""
    mean, sigma, beta = TTT
    margin = margin_of(0.25, math.sqrt(2) * beta)
    drawn = solved(Closed(static(2, mean, sigma), [[0, 1]], None, math.sqrt(2) * beta, margin), [0.5])
    torch.testing.assert_close(drawn[1], torch.full((2,), 6.469).double(), rtol=0, atol=5.1e-4)
    teams = Closed(static(4, 15.0, 1.0), [[0, 1, 2, 3]], [[1, 1, -1, -1]], 2 * beta)
    first, sd, _ = solved(teams, [1.0])
    expected = torch.tensor([15.093, 15.093, 14.907, 14.907]).double()
    torch.testing.assert_close(first, expected, rtol=0, atol=5.1e-4)
    torch.testing.assert_close(sd, torch.full((4,), 0.996).double(), rtol=0, atol=5.1e-4)
    a, b, c = 0, 1, 2
    chains, where = by_rounds([a, b, a, c, b, c], [0, 0, 1, 0, 1, 1], sigma, 25 / 300, mean)
    games = [[where[a, 0], where[b, 0]], [where[a, 1], where[c, 0]], [where[b, 1], where[c, 1]]]
    first, sd, _ = solved(Closed(chains, games, None, math.sqrt(2) * beta), [1.0, 0.0, 1.0])
    assert float(first[where[a, 0]]) == pytest.approx(25.0002673, abs=OF_TTT)
    assert float(sd[where[a, 0]]) == pytest.approx(5.41938162, abs=OF_TTT)


# What TrueSkillThroughTime 1.1.0 gives for the history below when it moves no more: means at players' dates.
HISTORY = {
    0: [-1.9459413, -2.14252348, -2.478814173, -2.626519062],
    1: [-1.01134857, -1.067028747, -1.06793366, -0.855816131, -0.5860864, -0.342036716],
    2: [-0.353924701, -0.075081631, 0.186364746],
    3: [1.254207487, 1.129172399, 0.884762356, 0.133236268],
    4: [2.057007084, 2.201235507, 2.323268157, 2.28919549, 2.517828824],
}
HISTORY_SDS = {
    2: [1.066125519, 0.946651162, 1.049399712],
    3: [1.05203049, 1.007421178, 0.986030669, 1.203033107],
}


def history() -> tuple[Chains, list[list[int]], list[float], dict[tuple[int, float], int]]:
    """Sixteen games of five players on eight days, with draws."""
    games = [(1, 4), (4, 0), (4, 0), (4, 1), (1, 3), (3, 1), (1, 4), (0, 4), (1, 0), (2, 3), (4, 3), (3, 4),
             (1, 2), (1, 2), (3, 2), (4, 2)]  # fmt: skip
    outcome = [0, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0.5, 0, 0.5, 0.5, 0, 1]
    times = [3.0 * (k // 2) for k in range(16)]
    players = [p for game in games for p in game]
    chains, where = by_rounds(players, [t for t in times for _ in range(2)], 2.0, 0.4)
    states = [[where[p, t] for p in game] for game, t in zip(games, times, strict=True)]
    return chains, states, outcome, where


MARGIN = 0.5449254107994428


def test_it_is_the_fixed_point_of_trueskill_through_time():
    chains, states, outcome, where = history()
    mean, sd, _ = solved(Closed(chains, states, None, math.sqrt(2.0), MARGIN), outcome)
    for player, expected in HISTORY.items():
        at = [row for (p, _), row in sorted(where.items()) if p == player]
        np.testing.assert_allclose(mean[at], expected, rtol=0, atol=OF_TTT)
        if player in HISTORY_SDS:
            np.testing.assert_allclose(sd[at], HISTORY_SDS[player], rtol=0, atol=OF_TTT)


def test_quadrature_sides_copies_and_damping_come_to_the_same_point():
    chains, states, outcome, _ = history()
    states, outcome = [*states, *states[:4]], [*outcome, *outcome[:4]]
    mean, sd, found = solved(Closed(chains, states, None, math.sqrt(2.0), MARGIN), outcome)
    others = {
        "quadrature": solved(Contests(chains, states, None, math.sqrt(2.0), MARGIN), outcome),
        "sides": solved(Sides(chains, states, None, math.sqrt(2.0), MARGIN), outcome),
        "damped": solved(Closed(chains, states, None, math.sqrt(2.0), MARGIN), outcome, damping=0.4),
    }
    # Rows of the sides are never merged, those of the others are: four games are there twice.
    for name, (other_mean, other_sd, other) in others.items():
        torch.testing.assert_close(other_mean, mean, rtol=0, atol=1e-7, msg=name)
        torch.testing.assert_close(other_sd, sd, rtol=0, atol=1e-7, msg=name)
        assert other.log_evidence[-1] == pytest.approx(found.log_evidence[-1], abs=1e-7), name


def test_the_order_of_games_and_players_changes_nothing():
    pairs, outcome = season(1, 9, 80)
    mean, sd, found = solved(Closed(static(9, 0.0, 2.0), pairs, None, margin=0.5), outcome)
    rng = np.random.default_rng(2)
    games, players = rng.permutation(80), rng.permutation(9)
    turned = [[int(players[p]) for p in pairs[g]] for g in games]
    model = Closed(static(9, 0.0, 2.0), turned, None, margin=0.5)
    other_mean, other_sd, other = solved(model, [outcome[g] for g in games])
    torch.testing.assert_close(other_mean[players], mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(other_sd[players], sd, rtol=0, atol=1e-8)
    assert other.log_evidence[-1] == pytest.approx(found.log_evidence[-1], abs=1e-8)


def test_message_passing_comes_to_the_same_point():
    """Games one after another, until nothing moves: the algorithm as it is usually written."""
    pairs, outcome = season(3, 6, 40)
    pairs = [pair if won else pair[::-1] for pair, won in zip(pairs, outcome, strict=True)]
    mean, sd, _ = solved(Closed(static(6, 0.0, 2.0), pairs), [1.0] * 40)
    shift, precision = np.zeros((40, 2)), np.zeros((40, 2))
    total_shift, total = np.zeros(6), np.full(6, 1 / 4)
    for _ in range(400):
        for g, pair in enumerate(pairs):
            at = list(pair)
            cavity = 1 / (total[at] - precision[g])
            middle = cavity * (total_shift[at] - shift[g])
            wide = math.sqrt(2 + cavity.sum())
            z = (middle[0] - middle[1]) / wide
            ratio = math.exp(-(z**2) / 2 - special.log_ndtr(z)) / math.sqrt(2 * math.pi)
            slope, bend = ratio / wide * np.array([1, -1]), ratio * (ratio + z) / wide**2
            new_precision = bend / (1 - cavity * bend)
            new_shift = (slope + middle * bend) / (1 - cavity * bend)
            total[at] += new_precision - precision[g]
            total_shift[at] += new_shift - shift[g]
            precision[g], shift[g] = new_precision, new_shift
    np.testing.assert_allclose(mean, total_shift / total, rtol=0, atol=1e-7)
    np.testing.assert_allclose(sd, total**-0.5, rtol=0, atol=1e-7)


class Measured(Contests):
    """Every state is measured once, with normal errors."""

    def log_likelihood(self, predictor: Tensor, outcome: Tensor) -> Tensor:
        found: Tensor = dist.Normal(predictor, self.scale).log_prob(outcome)
        return found


def test_normal_measurements_are_smoothed_exactly_in_one_step():
    chains, where = by_rounds([0, 0, 0, 1, 1, 2], [0, 2, 3, 1, 4, 2], 1.5, 0.7)
    size = len(where)
    model = Measured(chains, [[row] for row in range(size)], [[2.0]] * size, 0.8)
    seen = torch.linspace(-3, 4, size).double()
    factors = factors_of(model, seen, num_nodes=8)
    found = propagate(factors, max_steps=1)
    precision = torch.stack([chains.precision_times(row) for row in torch.eye(size, dtype=torch.float64)])
    covariance = torch.linalg.inv(precision)
    marginal = 4 * covariance + 0.8**2 * torch.eye(size, dtype=torch.float64)
    gain = torch.linalg.solve(marginal, 2 * covariance)
    torch.testing.assert_close(found.sites.mean, seen @ gain, rtol=0, atol=1e-9)
    exact = covariance - 2 * covariance @ gain
    torch.testing.assert_close(found.around.variance, exact.diag(), rtol=0, atol=1e-9)
    evidence = propagate(factors, start=found.sites).log_evidence[-1]
    expected = dist.MultivariateNormal(torch.zeros(size).double(), marginal).log_prob(seen)
    assert evidence == pytest.approx(float(expected), abs=1e-9)


class Weighted(Contests):
    """Games count by powers of their likelihood."""

    def rows(self, outcome: Tensor) -> Design:
        return Design.of_entries(self.states, self.weights, outcome, count=torch.tensor([0.5]).double())


def test_a_game_that_counts_half_is_the_root_of_its_likelihood():
    mean, _, found = solved(Weighted(static(2), [[0, 1]]), [1.0])
    grid = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    tilted = normal(grid, 2.0) * (torch.special.log_ndtr(grid / 2.0**0.5) / 2).exp()
    assert float(mean[0] - mean[1]) == pytest.approx(float(tilted @ grid / tilted.sum()), abs=1e-7)
    assert found.log_evidence[-1] == pytest.approx(float((tilted.sum() * 0.005).log()), abs=1e-9)


def test_narrow_draws_come_to_rest():
    """Draws within next to nothing say that players are equal, to within their performances."""
    pairs, _ = season(4, 8, 60)
    mean, sd, _ = solved(Closed(static(8, 0.0, 3.0), pairs, None, margin=1e-4), [0.5] * 60)
    torch.testing.assert_close(mean, torch.zeros(8).double(), rtol=0, atol=1e-6)
    assert float(sd.max()) < 1.0


def test_the_guide_holds_the_answer_and_is_judged_by_importance_sampling():
    pairs, outcome = season(5, 8, 60)
    model = Closed(static(8, 0.5, 2.0), pairs, None, margin=0.5)
    pair, data = Pair(model, AutoNormal(model)), torch.tensor(outcome).double()
    fitted = ep.fit(pair, data, progress=False)
    mean, sd, _ = solved(model, outcome)
    assert fitted.converged, fitted.reason
    assert fitted.method == "expectation propagation"
    assert fitted.estimate is not None
    assert "no bound" in repr(fitted)
    loc, scale = (part.skill.detach() for part in (pair.guide.locs, pair.guide.scales))
    torch.testing.assert_close(loc, (mean - 0.5) / 2, rtol=0, atol=1e-7)
    torch.testing.assert_close(scale, sd / 2, rtol=0, atol=1e-7)
    judged = importance.log_evidence(pair, data, num_samples=20_000, compile=False, seed=1)
    error = 4 * (judged.total_std_error + fitted.final.std_error)
    assert fitted.final.value < judged.total + error
    # Not a theorem, but what EP is used for: its estimate is nearer to log p(x) than its guide's bound.
    assert abs(fitted.estimate.log_evidence - judged.total) < abs(fitted.final.value - judged.total)


def test_it_is_a_method_of_fits():
    pairs, outcome = season(6, 5, 20)
    model = Closed(static(5), pairs, None, margin=0.5)
    data = torch.tensor(outcome).double()
    found = fit(Pair(model, AutoNormal(model)), data, method="ep", held_out=(data,), progress=False)
    assert found.choice == Choice("ep", "it was asked for", ("svi", "natural", "deterministic"))
    assert found.held_out.shape == (1, 2)
    assert found.estimate is not None
    assert EvidenceEstimate.from_json(found.estimate.to_json()) == found.estimate
    with pytest.raises(InputError, match="and this is Closed with AutoLowRankMultivariateNormal"):
        fit(Pair(model, AutoLowRankMultivariateNormal(model)), data, method="ep", progress=False)
    with pytest.raises(InputError, match="tolerance belongs to other methods; method='ep' does not know it"):
        fit(Pair(model, AutoNormal(model)), data, method="ep", tolerance=0.1)


def test_a_run_keeps_the_estimate_and_says_that_it_is_no_bound(tmp_path: Path) -> None:
    run = ppl_vae.fit("trueskill", "al-east-1987", method="ep", out=tmp_path / "run", progress=False)
    again = ppl_vae.load(tmp_path / "run").fit
    assert again.estimate == run.fit.estimate
    assert again.estimate is not None
    assert again.final.value < again.estimate.log_evidence
    said = say_fit(read_json(tmp_path / "run" / "fit.json"))
    assert f"estimates log p(x) as {again.estimate.log_evidence:.2f} nats" in said
    assert "no bound" in said
    with pytest.raises(InputError, match=r"expectation propagation keeps no checkpoint .* with --overwrite$"):
        fit_run(
            settings_for("trueskill", "al-east-1987", {"method": "ep"}, {}), tmp_path / "run", resume=True
        )


def test_a_guide_of_chains_holds_the_answer():
    chains, states, outcome, where = history()
    model = Closed(chains, states, None, math.sqrt(2.0), MARGIN)
    pair, data = Pair(model, ChainNormal(model)), torch.tensor(outcome).double()
    fitted = ep.fit(pair, data, progress=False)
    _, answer = pair.guide.posterior()
    for player, expected in HISTORY_SDS.items():
        at = [row for (p, _), row in sorted(where.items()) if p == player]
        np.testing.assert_allclose(answer.mean[at].detach(), HISTORY[player], rtol=0, atol=OF_TTT)
        np.testing.assert_allclose(answer.variance.detach().sqrt()[at], expected, rtol=0, atol=OF_TTT)
    best = natural.fit(Pair(model, ChainNormal(model)), data, progress=False)
    assert fitted.final.value < best.final.value < fitted.estimate.log_evidence


def test_what_it_does_not_take():
    chains, states, outcome, _ = history()
    data = torch.tensor(outcome).double()
    model = Contests(chains, states, None, 1.0, 0.5)
    for guide, message in (
        (AutoNormal(model), "the model's are chains"),
        (AutoLowRankMultivariateNormal(model), "and the guide is a AutoLowRankMultivariateNormal"),
    ):
        with pytest.raises(InputError, match=message):
            ep.fit(Pair(model, guide), data, progress=False)
    with pytest.raises(InputError, match="no linear factors"):
        ep.fit(Pair(PyroModule(), AutoNormal(model)), data, progress=False)
    with pytest.raises(InputError, match="row 0 of the design matrix reads no state"):
        factors_of(Contests(static(2), [[0, 0]]), data[:1], num_nodes=8)
    with pytest.raises(InputError, match="two are of the same chain"):
        factors_of(Contests(chains, [[0, chains.num_chains]]), data[:1], num_nodes=8)
    with pytest.raises(InputError, match="damping"):
        ep.fit(Pair(model, AutoNormal(model)), data, damping=1.0, progress=False)
