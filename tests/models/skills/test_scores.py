"""Scores and goals against SciPy's laws."""

import numpy as np
import torch
from scipy import stats

from ppl_vae.models.skills.scores import Goals, ScoreDifference


def test_score_differences_are_normal_whatever_the_level() -> None:
    difference, scale = torch.tensor([0.3, -1.2]).double(), torch.tensor([2.0, 0.5]).double()
    scores = torch.tensor([[3.0, 1.0], [0.0, 2.5]]).double()
    law = ScoreDifference(difference, scale)
    expected = stats.norm.logpdf((scores[:, 0] - scores[:, 1]).numpy(), difference.numpy(), scale.numpy())
    for shift in (0.0, 7.5):
        np.testing.assert_allclose(law.log_prob(scores + shift), expected, rtol=1e-13)
    assert (law.batch_shape, law.event_shape) == ((2,), (2,))
    assert law.expand(torch.Size([3, 2])).log_prob(scores).shape == (3, 2)


def test_draws_of_scores_have_the_differences_law() -> None:
    torch.manual_seed(0)
    drawn = ScoreDifference(torch.tensor([1.0]).double(), torch.tensor([2.0]).double()).sample(
        torch.Size([4000])
    )
    off = (drawn[..., 0] - drawn[..., 1]).squeeze(-1).numpy()
    assert (drawn.sum(-1) == 0).all()
    assert stats.kstest(off, stats.norm(1.0, 2.0).cdf).pvalue > 1e-4


def test_goals_are_two_poisson_counts() -> None:
    log_rate = torch.tensor([[0.2, -1.0], [1.5, 0.0]]).double()
    goals = torch.tensor([[2.0, 0.0], [5.0, 1.0]]).double()
    law = Goals(log_rate)
    expected = stats.poisson.logpmf(goals.numpy(), log_rate.exp().numpy()).sum(-1)
    np.testing.assert_allclose(law.log_prob(goals), expected, rtol=1e-12)
    torch.manual_seed(1)
    drawn = law.sample(torch.Size([4000]))
    error = log_rate.exp().sqrt() / 4000**0.5
    assert ((drawn.mean(0) - log_rate.exp()).abs() < 4.5 * error).all()
    assert torch.equal(drawn, drawn.round())
