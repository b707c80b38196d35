"""Parameters that are no estimate, whatever else vouches for the guide."""

from typing import Any

import pytest
import torch

from ppl_vae import Pair
from ppl_vae.data.rows import Rows
from ppl_vae.diagnostics import Check, check_pair
from ppl_vae.diagnostics.verdict.listed import CHECKS
from ppl_vae.diagnostics.verdict.rule import Measures, decide
from ppl_vae.guides.prior import Prior
from ppl_vae.models.conditional_vae import ConditionalVAE, ConditionalVAEOptions
from ppl_vae.models.conditions import Conditions
from ppl_vae.models.likelihoods.named import likelihood_of
from ppl_vae.models.likelihoods.options import LikelihoodOptions
from ppl_vae.models.vae import VAE
from ppl_vae.program.abilities import Unbounded

SCALED = ("gaussian", "gaussian-pixel", "gaussian-heteroscedastic", "laplace", "student-t")
QUICK = tuple(each for each in CHECKS if each.name in ("parameters", "weights", "draws"))


def checked(**options: Any) -> Check:
    """A VAE whose decoder ignores z, so that the prior is its posterior: nothing but its scale is wrong.

    In float32 the weights differ by their rounding alone, which is no tail.
    """
    torch.manual_seed(0)
    x = torch.randn(12, 3)
    rows = Rows("r", x.numpy(), ("a", "b", "c"), "real")
    model = VAE.from_data(rows, latent_dim=1, hidden=(), **options)
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
    return check_pair(Pair(model, Prior(model)), x, checks=QUICK, progress=False)


@pytest.mark.parametrize("likelihood", ["gaussian-pixel", "gaussian-heteroscedastic"])
def test_without_a_floor_nothing_is_trusted(likelihood: str) -> None:
    assert checked(likelihood=likelihood).verdict == "trust"
    found = checked(likelihood=likelihood, floor=False)
    assert (found.verdict, found.decision.criterion, found.advice) == ("do not trust", "unbounded", "bound")
    (wrong,) = found.failing
    assert wrong.name == "parameters"
    assert f"the scale of the {likelihood} likelihood has no lower bound" in wrong.sentence
    assert found.measures.unbounded == wrong.sentence == found.reason


@pytest.mark.parametrize("name", SCALED)
def test_every_scale_that_may_shrink_to_nothing_says_so(name: str) -> None:
    for floor in (True, False):
        made = likelihood_of(LikelihoodOptions(likelihood=name, floor=floor), 3)
        assert isinstance(made, Unbounded)
        assert (made.unbounded() is None) == floor
    # A layer of any model is found.
    options = ConditionalVAEOptions(latent_dim=1, hidden=(), likelihood=name, floor=False)
    model = ConditionalVAE(3, Conditions(num_features=2), options)
    assert any(isinstance(layer, Unbounded) and layer.unbounded() for layer in model.modules())


def test_a_scale_that_is_held_needs_no_floor() -> None:
    held = likelihood_of(LikelihoodOptions(likelihood="gaussian-fixed", floor=False), 3)
    assert isinstance(held, Unbounded)
    assert held.unbounded() is None


def test_no_agreement_makes_up_for_a_likelihood_without_a_bound() -> None:
    agrees = Measures("exact", True, 0.1, 0.0, 0.1, 0.0, alarming=0.0, pareto_k=0.1, ess=1.0)
    assert decide(agrees).verdict == "trust"
    assert decide(Measures(**{**vars(agrees), "unbounded": "σ"})).criterion == "unbounded"
