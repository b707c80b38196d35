"""Joint guides of more states than dense matrices take: as dense ones are, or told apart from them."""

import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.guides import joint_normal
from ppl_vae.inference import elbo, natural
from ppl_vae.inference.fitting.factors import expectations
from ppl_vae.inference.fitting.factors import guides as factor_guides
from tests.ladder import GAPS, Ladder, fitted, games


def test_draws_are_solved_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Ladder(GAPS, link="logistic")
    data = games(model, 40)
    pair, _ = fitted(model, "joint", data)
    dense = pair.guide.posterior(*data)[1]  # type: ignore[attr-defined]
    loc, spread = dense.mean.detach(), dense.covariance_matrix.detach()
    monkeypatch.setattr(joint_normal, "MOST_DENSE", 3)
    monkeypatch.setattr(joint_normal, "blocks_of", lambda links: None)
    _, posterior = pair.guide.posterior(*data)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    drawn = posterior.rsample(torch.Size([1000])).detach()
    limit = ((spread.diagonal()[:, None] * spread.diagonal() + spread**2) / 1000).sqrt()
    assert ((drawn.T.cov() - spread).abs() < 4.5 * limit).all()
    assert ((drawn.mean(0) - loc).abs() < 4.5 * (spread.diagonal() / 1000).sqrt()).all()
    with pytest.raises(InputError, match=r"the density of a joint guide of \d+ states is not known"):
        posterior.log_prob(loc)


@pytest.mark.parametrize("teams", [1, 2])
def test_the_precision_is_eliminated_block_by_block(teams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Ladder(GAPS, link="logistic")
    data = games(model, 40, teams=teams)
    pair, dense = fitted(model, "joint", data)
    states = torch.randn(5, model.rounds[-1], generator=torch.Generator().manual_seed(0)).double()
    before = pair.guide.posterior(*data)[1].log_prob(states).detach()  # type: ignore[attr-defined]
    for module in (joint_normal, factor_guides):
        monkeypatch.setattr(module, "MOST_DENSE", 3)
    other, sparse = fitted(model, "joint", data)
    assert sparse.final.value == pytest.approx(dense.final.value, abs=1e-8)
    for own, its in zip(pair.parameters("guide").values(), other.parameters("guide").values(), strict=True):
        torch.testing.assert_close(own, its, rtol=0, atol=1e-5)
    _, posterior = other.guide.posterior(*data)  # type: ignore[attr-defined]
    with torch.no_grad():
        torch.testing.assert_close(posterior.log_prob(states), before, rtol=0, atol=1e-4)
        drawn = elbo(other, *data, num_particles=200, seed=1)
    assert abs(drawn.value - dense.final.value) < 4.5 * drawn.std_error
    with pytest.raises(InputError, match="has no gradients, which SVI needs"):
        posterior.log_prob(states)


def test_a_joint_guide_has_the_moments_of_chains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Ladder(GAPS, link="logistic")
    data = games(model, 40)
    chains, best = fitted(model, "markov", data)
    _, joint = fitted(model, "joint", data)
    monkeypatch.setattr(factor_guides, "MOST_DENSE", 3)
    monkeypatch.setattr(expectations, "blocks_of", lambda links: None)
    pair, found = fitted(model, "joint", data)
    assert found.final.value == pytest.approx(best.final.value, abs=1e-7)
    monkeypatch.undo()
    # Not the best of its family, and better than chains that are independent.
    again = natural.quadrature_elbo(pair, *data).value
    assert best.final.value < again < joint.final.value + 1e-9
    torch.testing.assert_close(pair.guide.loc, chains.guide.loc, rtol=0, atol=1e-4)  # type: ignore[attr-defined]
