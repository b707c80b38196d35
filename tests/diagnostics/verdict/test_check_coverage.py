"""What a verdict covers: points are no posterior, and what is shown is judged with what data determine."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)

from ppl_vae import InputError, Pair, Posterior, TrueSkill
from ppl_vae.base.wording import in_words
from ppl_vae.diagnostics import Measures, Rule, check, check_pair, decide
from ppl_vae.diagnostics.verdict.checks import reference as beside
from ppl_vae.diagnostics.verdict.explained import explained
from ppl_vae.diagnostics.verdict.reference import Sampled
from ppl_vae.diagnostics.verdict.rule import Finding, QuantityNames
from ppl_vae.program.problem import Problem

COUNTS = torch.tensor([3.0, 5.0, 2.0, 0.0, 4.0])


def poisson(counts):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("n", len(counts)) as i:
        pyro.sample("count", dist.Poisson(rate), obs=counts[i])


def line(x):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)) as i:
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x[i])


def delta_of_b(x):
    pyro.sample("a", dist.Normal(0.0, 0.5))
    pyro.sample("b", dist.Delta(torch.tensor(0.3)))


def mixed():
    guide = AutoGuideList(line)
    guide.append(AutoNormal(pyro.poutine.block(line, expose=["a"])))
    guide.append(AutoDelta(pyro.poutine.block(line, expose=["b"])))
    return guide


@pytest.mark.parametrize(
    ("model", "guide", "sites", "word"),
    [
        (poisson, lambda: AutoDelta(poisson), ("rate",), "AutoNormal"),
        (poisson, lambda: AutoLaplaceApproximation(poisson), ("rate",), "guide.laplace_approximation"),
        (line, lambda: delta_of_b, ("b",), "AutoNormal"),
        (line, mixed, ("b",), "AutoNormal"),
    ],
    ids=["AutoDelta", "Laplace, not made yet", "a Delta by hand", "a Delta among others"],
)
def test_a_point_is_not_a_posterior(model, guide, sites, word):
    found = check(model, guide(), COUNTS, fit=False, budget=600.0, progress=False)
    assert found.verdict == "not a posterior"
    assert found.measures.points == sites
    assert sites[0] in found.reason
    assert word in found.next_step
    assert not found.evidence
    assert not found.answers
    assert found.measures.alarming != found.measures.alarming  # no weights


def test_points_survive_json_and_are_never_trusted():
    good = Measures("nuts", True, 0.1, 0.0, 0.1, 0.0, 0.1, 0.0, 0.0, 0.1, 1.0, points=("b",))
    assert decide(good).verdict == "not a posterior"
    # Compared as text: what was not measured is NaN, which equals nothing.
    again = Measures.from_json(good.to_json())
    assert again.points == good.points
    assert again.to_json() == good.to_json()


# Two players: the difference of their skills is known on a line, and their mean keeps its prior.
WINS, LOSSES = 5, 2
GAMES = (torch.ones(WINS + LOSSES).double(), torch.tensor([[0, 1]] * WINS + [[1, 0]] * LOSSES))


def _two_players():
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    log_density = -0.25 * grid.square() + WINS * grid.sigmoid().log() + LOSSES * (-grid).sigmoid().log()
    weights = (log_density - log_density.logsumexp(0)).exp()
    mean = float((weights * grid).sum())
    return mean, math.sqrt(float((weights * (grid - mean).square()).sum())), grid, weights


def _reference():
    _, _, grid, weights = _two_players()
    generator = torch.Generator().manual_seed(1)
    difference = grid[torch.multinomial(weights, 6000, replacement=True, generator=generator)]
    centre = math.sqrt(0.5) * torch.randn(6000, generator=generator, dtype=torch.float64)
    skill = torch.stack([centre + difference / 2, centre - difference / 2], -1)[None].numpy()
    draws = xr.Dataset({"skill": (("chain", "draw", "player"), skill)}, coords={"player": ["a", "b"]})
    return Posterior(draws, "grid", "independent")


def _pair_of_skills(shift=0.0, scale=1.0):
    """Right in the difference; the mean skill is moved, and its sd multiplied."""
    mean, sd, _, _ = _two_players()
    turn = torch.tensor([[1.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
    spread = torch.diag(torch.tensor([0.5 * scale**2, sd**2], dtype=torch.float64))
    model = TrueSkill(2, link="logistic", players=("a", "b"))
    guide = AutoMultivariateNormal(model)
    guide(*GAMES)
    root = torch.linalg.cholesky(turn @ spread @ turn.T)
    with torch.no_grad():
        guide.loc.copy_(turn @ torch.tensor([shift, mean], dtype=torch.float64))
        guide.scale = root.diagonal()
        guide.scale_tril = root / root.diagonal()[:, None]
    return Pair(model, guide)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [({}, False), ({"scale": 0.4}, True), ({"scale": 2.5}, True), ({"shift": 0.6}, True)],
    ids=["right", "mean skill too sure", "mean skill too vague", "mean skill off"],
)
def test_skills_themselves_are_judged_with_their_differences(options, wrong):
    pair = _pair_of_skills(**options)
    found = check_pair(pair, *GAMES, reference=_reference(), calibrate=False, budget=600.0, progress=False)
    assert (found.verdict == "trust") == (not wrong)
    if wrong:
        assert "in skill (not in relative_skill and difference)" in found.reason
    else:
        assert "in relative_skill, difference and skill" in found.reason


def test_a_callers_own_quantities_are_all_that_is_judged():
    pair = _pair_of_skills(scale=0.4)
    found = check_pair(
        pair, *GAMES, reference=_reference(), identifiable=pair.model.identifiable, calibrate=False,
        budget=600.0, progress=False,
    )  # fmt: skip
    assert found.verdict == "trust"
    assert "in relative_skill and difference" in found.reason
    assert "skill " not in found.reason.replace("relative_skill", "")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), ""),
        (("mu",), "mu"),
        (("mu", "tau"), "mu and tau"),
        (("a", "b", "c", "d"), "a, b, c and d"),
        (("a", "b", "c", "d", "e"), "a, b, c and 2 more"),
    ],
)
def test_names_in_words(names, words):
    assert in_words(names) == words


SOUND = {"alarming": 0.0, "pareto_k": 0.3, "ess": 0.8}
ALARMED = {"alarming": 1.0, "pareto_k": 1.2, "ess": 0.001}


@pytest.mark.parametrize(
    ("measures", "findings", "word"),
    [
        (Measures("nuts", True, 0.4, 0.1, **ALARMED), [], "weights alarm all the same"),
        (Measures("nuts", True, 0.4, 0.1, **SOUND), ["calibration"], "for other data than these"),
        (Measures("nuts", True, 0.4, 0.1, **SOUND), ["sampler"], "NUTS, the reference, is itself off"),
        (Measures("nuts", True, 0.4, 0.1, converged=False, **SOUND), [], "had not come to rest"),
        (Measures("nuts", True, 0.4, 0.1, **SOUND), ["funnel"], "the funnel"),
        (Measures("nuts", True, 3.0, 2.0, 0.3, 0.0, **SOUND), ["calibration"], "for other data than these"),
        (Measures("nuts", True, 0.4, 0.1, **SOUND), ["prediction"], None),
    ],
)
def test_what_points_elsewhere_is_explained_in_the_verdicts_sentence(measures, findings, word):
    warned = [Finding(name, "warn", "seen") for name in findings]
    said = explained(decide(measures), measures, warned, Rule())
    assert (word is None and not said) or word in " ".join(said)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (QuantityNames("mu and tau"), "the guide agrees with NUTS in mu and tau"),
        (QuantityNames(), "the guide agrees with NUTS"),
    ],
)
def test_a_verdict_names_what_it_speaks_of(names, said):
    assert decide(Measures("nuts", True, 0.4, 0.1, **SOUND), names=names).reason == said


def of_discrete(x):
    with pyro.plate("n", len(x)) as i:
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x[i])


def of_categories(x):
    with pyro.plate("n", len(x)) as i:
        z = pyro.sample("z", dist.Categorical(x.new_tensor([0.7, 0.3])))
        pyro.sample("x", dist.Normal(2.0 * z - 1, 1.0), obs=x[i])


def beside_a_continuous_one(x):
    pyro.sample("mu", dist.Normal(0.0, 1.0))
    of_discrete(x)


def discrete_guide(x, also=False):
    if also:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Bernoulli(x.new_full((len(x),), 0.5)))


def category_guide(x):
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Categorical(x.new_full((len(x), 2), 0.5)))


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (of_discrete, discrete_guide),
        (of_categories, category_guide),
        (beside_a_continuous_one, lambda x: discrete_guide(x, also=True)),
    ],
)
def test_guides_of_discrete_latents_are_refused_with_the_way_out(model, guide):
    with pytest.raises(InputError, match=r"the guide draws the discrete site z.*config_enumerate"):
        check(model, guide, COUNTS, budget=600.0, progress=False)


def test_programs_that_take_a_part_of_their_data_are_refused():
    def some(x, index):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample=index):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x[index])

    with pytest.raises(InputError, match="takes a subsample of 2"):
        check(some, AutoNormal(some), COUNTS, torch.tensor([3, 1]), budget=600.0, progress=False)


def test_auto_guides_with_a_spread_are_judged():
    from ppl_vae.program.point_mass import point_masses

    for guide in (AutoNormal(line), AutoMultivariateNormal(line)):
        pair = Pair(line, guide)
        assert point_masses(Problem.of(pair, COUNTS)) == ()


def rows_by_themselves(x):
    """Programs that do not index their plate: all rows, or none."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def rows_indexed(x):
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])


def vectors(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


@pytest.mark.parametrize("model", [rows_by_themselves, rows_indexed, vectors])
@pytest.mark.parametrize("most", [2e8, 1e4])
def test_rows_that_cannot_be_chosen_are_all_sampled_where_they_fit(monkeypatch, model, most):
    """AutoNormal does not index, so that every row is sampled; what does not fit says why."""
    seen = []

    def within(seconds, pair, *data, **_):
        seen.append(len(data[0]))
        return Sampled(None, False, ("left out",))

    monkeypatch.setattr(beside, "nuts_within_budget", within)
    monkeypatch.setattr(beside, "MOST_KEPT", most)
    x = torch.randn(20)
    found = check_pair(Pair(model, AutoNormal(model)), x, calibrate=False, budget=600.0, progress=False)
    (reference,) = (f for f in found.findings if f.name == "reference")
    assert seen == ([20] if most > 1e5 else [])
    assert ("left out" if seen else "draws of all 20 rows would be") in reference.sentence
