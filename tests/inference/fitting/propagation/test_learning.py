"""Parameters learnt by expectation propagation's estimate of log p(x), against differences of it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from ppl_vae.base.errors import InputError
from ppl_vae.data.games import Games
from ppl_vae.inference.fitting import ep
from ppl_vae.inference.fitting.propagation.factors import factors_of
from ppl_vae.inference.fitting.propagation.learning import evidence_gradient, learn
from ppl_vae.inference.fitting.propagation.loop import propagate
from ppl_vae.models import Skills
from ppl_vae.program.pair import Pair
from tests.models.skills.seasons import games_of, season


def races(num_races: int, num_players: int, num_sides: int, *, cars: bool = False) -> Games:
    """Races of players whose skills are one half apart, two of whom may share a car."""
    generator = np.random.default_rng(7)
    rows = []
    for _ in range(num_races):
        chosen = generator.permutation(num_players)[:num_sides]
        performance = chosen / 2 + generator.normal(size=num_sides)
        places = (performance > performance[:, None]).sum(1)
        sides = [[f"P{k}", *([f"car {k % 3}"] if cars else [])] for k in chosen]
        rows.append((sides, places.tolist()))
    return games_of(rows, time=np.arange(num_races, dtype=float) // 4)


def made(games: Games, **options: Any) -> tuple[Any, tuple[torch.Tensor, ...]]:
    model = Skills.from_data(games, **options)
    return model, games.dataset.arguments(type(model).inputs_for(model.options), torch.float64)


CASES = {
    "duels": lambda: made(season(60, 6, dates=8), draws=True, drift="1", process="ou", home=True),
    "goals": lambda: made(season(30, 5, scores="whole"), outcome="goals"),
    "races": lambda: made(races(10, 6, 4), drift="1"),
    "races with cars": lambda: made(races(10, 6, 4, cars=True), drift="1"),
}


@pytest.mark.parametrize("name", [*CASES, "duels, all states together"])
def test_the_gradient_is_that_of_differences(name):
    together = "together" in name
    model, data = CASES[name.split(",")[0]]()
    model.check_data(*data)
    leaves = dict(model.named_parameters())

    def estimate() -> float:
        factors = factors_of(model, *data, num_nodes=24, together=together)
        return propagate(factors, tolerance=1e-10).log_evidence[-1]

    factors = factors_of(model, *data, num_nodes=24, together=together)
    gradient = evidence_gradient(model, factors, propagate(factors, tolerance=1e-10), leaves)
    assert gradient.keys() == leaves.keys()
    for key, leaf in leaves.items():
        there = []
        for move in (1e-3, -1e-3):
            with torch.no_grad():
                leaf += move
            there.append(estimate())
            with torch.no_grad():
                leaf -= move
        # Of third order in the difference.
        assert float(gradient[key]) == pytest.approx((there[0] - there[1]) / 2e-3, abs=2e-4), key


def test_a_fit_learns_what_is_to_be_learnt():
    model, data = made(races(12, 5, 3))
    pair = Pair(model, AutoNormal(model))
    before = model.numbers["skill_sd"]
    held = ep.fit(pair, *data, progress=False)
    assert model.numbers["skill_sd"] == before
    found = ep.fit(pair, *data, train="both", progress=False)
    assert found.converged
    assert "the model's parameter was learnt" in found.reason
    assert found.estimate.log_evidence > held.estimate.log_evidence
    factors = factors_of(model, *data, num_nodes=24)
    slope = evidence_gradient(model, factors, propagate(factors), dict(model.named_parameters()))
    assert abs(float(slope["log_skill_sd"])) < 0.02


def test_learning_begins_at_what_is_known():
    """With fewer calls of the factors' integrals, and to the same numbers."""
    model, data = CASES["duels"]()
    leaves = dict(model.named_parameters())
    found, calls = [], []
    first = propagate(factors_of(model, *data, num_nodes=24)).sites
    before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    for start in (None, first):
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.copy_(before[name])
        plain = factors_of(model, *data, num_nodes=24)
        count: list[int] = []
        counted = dataclasses.replace(
            plain, tilted=lambda *a, own=plain, count=count: (count.append(1), own.tilted(*a))[1]
        )
        learn(model, counted, leaves, start)
        calls.append(len(count))
        found.append({name: leaf.detach().clone() for name, leaf in leaves.items()})
    assert calls[1] < calls[0]
    for name, values in found[0].items():
        torch.testing.assert_close(values, found[1][name], rtol=0, atol=0.02)


@pytest.mark.parametrize("train", ["guide", "both"])
def test_rankings_whose_moments_are_not_known_are_refused_in_one_sentence(train):
    games = races(3, 4, 3)
    weighted = dataclasses.replace(games, game_weight=np.array([1.0, 2.0, 1.0]))
    for model, data in (made(games, link="gumbel"), made(weighted)):
        with pytest.raises(InputError, match="games that count once; fit other rankings by SVI"):
            ep.fit(Pair(model, AutoNormal(model)), *data, train=train, progress=False)


def test_what_cannot_be_learnt_is_named():
    model, data = made(races(3, 4, 3))
    model.register_parameter("log_other", torch.nn.Parameter(torch.zeros(())))
    with pytest.raises(InputError, match=r"cannot learn model\.log_other"):
        ep.fit(Pair(model, AutoNormal(model)), *data, train="both", progress=False)
