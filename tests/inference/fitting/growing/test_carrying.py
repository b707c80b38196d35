"""Guides carried on to further states, against posteriors so extended."""

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.standing import Standing, states_of
from ppl_vae.diagnostics.forecasting.states import ChainStates, DenseStates
from ppl_vae.guides.named import named_guide
from ppl_vae.inference.fitting.growing.carrying import carry, check_carried
from ppl_vae.inference.samplers import guide as guide_method
from ppl_vae.models import Skills, TrueSkill
from ppl_vae.program.pair import Pair
from tests.models.skills.seasons import games_of, season

NUMBERS = {"draws": True, "margin": 0.3, "drift": "10", "home": True}


def pair_of(model: Skills | TrueSkill, guide: str, games: Games, seed: int = 0) -> Pair:
    """With a guide at random."""
    data = model.arguments_of(games)
    own = type(model).guides.get(guide)
    pair = Pair(model, named_guide(guide, model) if own is None else own(model, *data))
    pair.initialise(*data)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for leaf in pair.parameters("guide").values():
            leaf += 0.3 * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
    return pair


def carried(guide: str) -> tuple[Pair, Pair, Standing, Games]:
    """A pair, that of more games, and the posterior of the first extended to the states of the second; with
    other numbers than those with which the guides were made."""
    before = season(20, 5, dates=10)
    later = games_of(
        [(("P0", "new"), (0, 1)), (("P1", "P0"), (0, 0))],
        time=np.array([12.0, 14.0]), covariates={"home": np.array([1.0, 0, 0, 0])},
    )  # fmt: skip
    model = Skills.from_data(before, **NUMBERS)  # type: ignore[arg-type]
    first = pair_of(model, guide, before)
    further = model.extended(
        (*before.players, "new"), np.array([0, 5, 1, 0]), np.array([12.0, 12.0, 14.0, 14.0])
    )
    second = pair_of(further, guide, later, seed=1)
    with torch.no_grad():
        for own in (model, further):
            own.log_skill_sd += 0.4
            own.log_drift_sd -= 0.2
    carry(first, second, model.places_in(further))
    states = states_of(first, *model.arguments_of(before), num_draws=10)
    return first, second, Standing(further, states, before), later


def test_chains_are_as_they_were_and_go_on_as_the_prior_does() -> None:
    first, second, standing, later = carried("markov")
    expected = standing.states.extended(second.model.normal_prior()[1], first.model.places_in(second.model))
    found = states_of(second, *second.model.arguments_of(later))
    assert isinstance(found, ChainStates)
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.variance, expected.variance)


@pytest.mark.parametrize("guide", ["mean-field", "full-rank"])
def test_autoguides_are_too(guide: str) -> None:
    """Mean and covariance of all states."""
    first, second, *_ = carried(guide)
    place = first.model.places_in(second.model)
    mean, covariance = moments(first)
    chains = second.model.normal_prior()[1].detach()
    expected = DenseStates(mean, covariance).extended(chains, place)
    found, spread = moments(second)
    # What holds the given states in the extension does so to ten digits.
    torch.testing.assert_close(found, expected.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(spread, expected.covariance, rtol=1e-6, atol=1e-6)


def moments(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the states under a Gaussian AutoGuide, by its affine map from its own coordinates."""
    guide = pair.guide
    support = guide.prototype_trace.nodes["skill"]["fn"].support
    posterior = guide.get_posterior() if hasattr(guide, "get_posterior") else None
    if posterior is None:
        loc, root = guide.locs.skill_unconstrained, guide.scales.skill.diag()
    else:
        loc, root = posterior.loc, posterior.scale_tril
    loc, root = loc.detach(), root.detach()
    chains = support.chains
    state = (chains.unwhiten(root.T) - chains.mean).T
    return chains.unwhiten(loc), state @ state.T


def test_the_joint_guide_has_its_mean() -> None:
    first, second, _, _ = carried("sparse-precision")
    mean = first.guide.loc.detach()
    torch.testing.assert_close(second.guide.loc.detach()[first.model.places_in(second.model)], mean)


def test_players_at_rest_are_carried_in_their_own_coordinates() -> None:
    before = games_of([(("A", "B"), (0, 1)), (("B", "C"), (0, 1))])
    model = TrueSkill.from_data(before)
    first = pair_of(model, "mean-field", before)
    later = games_of([(("A", "D"), (0, 1)), (("B", "C"), (0, 1))])
    further = model.extended(("A", "B", "C", "D"), None, None)
    second = pair_of(further, "mean-field", later, seed=1)
    carry(first, second, model.places_in(further))
    draws = [guide_method.draws(pair, *pair.model.arguments_of(games), num_draws=4000, seed=0).draws["skill"]
             for pair, games in ((first, before), (second, later))]  # fmt: skip
    old, new = (values.to_numpy().reshape(4000, -1) for values in draws)
    error = old.std(0) / np.sqrt(4000)
    assert (np.abs(new[:, :3].mean(0) - old.mean(0)) <= 6 * error).all()
    np.testing.assert_allclose(new[:, 3].mean(), model.skill_mean, atol=6 * model.skill_sd / np.sqrt(4000))
    np.testing.assert_allclose(new.std(0), [*old.std(0), model.skill_sd], rtol=6 / np.sqrt(4000))


def test_other_guides_are_refused() -> None:
    with pytest.raises(InputError, match="fit it to all games from nothing"):
        check_carried(object())
