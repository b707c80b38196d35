"""Closed moments of games of two sides against quadrature, and in tails where products underflow."""

import torch

from ppl_vae.inference.fitting.propagation.tilted import Quadrature
from ppl_vae.models.skills.duel_moments import probit_moments
from ppl_vae.models.skills.links import duel_log_prob

MEAN = torch.tensor([0.0, 0.3, -1.0, 2.0, -0.4, 1.5]).double()
VARIANCE = torch.tensor([1.0, 0.2, 2.0, 0.7, 0.5, 1.5]).double()
OUTCOME = torch.tensor([1.0, 0.0, 0.5, 0.5, 1.0, 0.0]).double()
SCALE = torch.tensor([1.4, 1.4, 1.0, 2.0, 1.4, 1.0]).double()


def test_moments_are_those_of_quadrature():
    for margin in (0.3, 1.2):
        closed = probit_moments(MEAN, VARIANCE, OUTCOME, SCALE, margin)
        rule = Quadrature(lambda d, e=margin: duel_log_prob(d, OUTCOME, SCALE, e, "probit"), 100)
        found = rule(MEAN, VARIANCE)
        for name in ("log_normaliser", "slope", "curvature"):
            torch.testing.assert_close(getattr(closed, name), getattr(found, name), rtol=0, atol=1e-9)


def test_tails_keep_their_digits():
    """Far below, log Φ is a parabola but for terms of 1/z²: −z/√(c² + v) and 1/(c² + v)."""
    mean = torch.tensor([-50.0, -1e3, 60.0]).double()
    variance, outcome = torch.tensor([1.0, 2.0, 1.0]).double(), torch.tensor([1.0, 1.0, 0.5]).double()
    found = probit_moments(mean, variance, outcome, 1.0, 0.5)
    wide = 1 + variance
    at = (mean - torch.tensor([0.5, 0.5, -0.5])).abs() / wide.sqrt()
    # Asymptotically φ / Φ at −z is z + 1/z − 2/z³ (Abramowitz and Stegun 26.2.12).
    slope = torch.tensor([1.0, 1.0, -1.0]).double() * (at + 1 / at - 2 / at**3) / wide.sqrt()
    bend = (1 - 1 / at**2) / wide
    # A draw is a loss by the margin times one less a part of e^(−60).
    torch.testing.assert_close(found.slope[:2], slope[:2], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.curvature[:2], bend[:2], rtol=1e-4, atol=0)
    assert found.slope[2] < 0 < found.curvature[2] < 1 / variance[2]
