"""What a likelihood is bounded by, and what it does not take."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.inference import elbo
from ppl_vae.models import VAE
from ppl_vae.models.likelihoods import (
    LIKELIHOODS,
    LikelihoodOptions,
    base,
    completed,
    likelihood_of,
)
from ppl_vae.program.pair import Pair

D = 3


# A feature that never changes


def elbo_of_a_constant(raw: float, **options: Any) -> float:
    """Of 4 data whose 2 features are always 0.7, at the right mean and a scale before its softplus."""
    x = torch.full((4, 2), 0.7, dtype=torch.float64)
    model = VAE(2, 1, hidden=(), likelihood="gaussian-heteroscedastic", **options).double()
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.copy_(torch.tensor([0.7, 0.7, raw, raw], dtype=torch.float64))
    guide = model.encoder_guide().double()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.zero_()
    found = elbo(Pair(model, guide), x)
    return float(found.reconstruction)


def test_without_a_floor_its_elbo_has_no_bound_and_with_one_it_has() -> None:
    scales = [10.0**-decade for decade in range(1, 9)]
    found = [elbo_of_a_constant(math.log(math.expm1(scale)), floor=False) for scale in scales]
    # ln 10 a decade, datum and constant feature; expm1 of 1e-8 has all its digits.
    np.testing.assert_allclose(np.diff(found), 8 * math.log(10), rtol=1e-7)
    bound = -8 * (math.log(0.05) + math.log(2 * math.pi) / 2)
    assert elbo_of_a_constant(-1e3, min_scale=0.05) == pytest.approx(bound, rel=1e-12)
    assert elbo_of_a_constant(-1e6, min_scale=0.05) == pytest.approx(bound, rel=1e-12)


# What is refused


GREYS = r"row 1, column 2 is 0\.5.*gaussian-pixel.*continuous-bernoulli.*discretised-logistic"
BOUND = "min_scale is 0; it must be positive: .* no upper bound .*--no-floor"
# The likelihood with its options, a value that does not fit, and what is said.
REFUSED = {
    "greys to a Bernoulli": ("bernoulli", {}, 0.5, GREYS),
    "bytes to densities": ("continuous-bernoulli", {}, 200, "in .0, 1., and row 1, column 2 is 200: divide"),
    "greys off the grid": ("discretised-logistic", {}, 0.5, r"256 grey levels.*column 2 is 0\.5: say"),
    "bytes to a grid": ("logistic-mixture", {}, 3, "row 1, column 2 is 3"),
    "halves as categories": (
        "categorical",
        {},
        1.5,
        "of 2 levels takes whole numbers from 0 to 1, and row 1",
    ),
    "negative categories": ("categorical", {}, -1, "row 1, column 2 is -1"),
    "a category too many": ("categorical", {"num_levels": 3}, 3, "row 1, column 2 is 3.*--num-levels"),
    "halves as counts": ("poisson", {}, 2.5, r"a poisson likelihood takes counts.*column 2 is 2\.5"),
    "negative counts": ("negative-binomial", {}, -3, "row 1, column 2 is -3"),
    "a row without counts": ("poisson", {"exposure": "total"}, 1, "row 0 has no counts at all"),
    "exposure of reals": (
        "gaussian",
        {"exposure": "total"},
        0,
        "belongs to the likelihoods poisson, negative-b",
    ),
    "another exposure": ("poisson", {"exposure": "time"}, 0, "exposure is 'time'; it is none or total"),
    "a scale of bits": (
        "bernoulli",
        {"start_scale": 1.0},
        0,
        "start_scale belongs to the likelihoods gaussian,",
    ),
    "components of counts": (
        "poisson",
        {"mixture_components": 3},
        0,
        "belongs to the likelihoods logistic-mix",
    ),
    "no components": ("logistic-mixture", {"mixture_components": 0}, 0, "mixture_components is 0"),
    "one level": ("categorical", {"num_levels": 1}, 0, "num_levels is 1; it must be at least 2"),
    "a bound of 0": ("gaussian-heteroscedastic", {"min_scale": 0.0}, 0, BOUND),
    "a floor and none": ("laplace", {"min_scale": 0.1, "floor": False}, 0, "no floor was asked for"),
    "a floor above the start": (
        "student-t",
        {"min_scale": 0.5},
        0,
        r"is 0\.5; it must be positive and below 0\.3",
    ),
    "an unknown one": ("gamma", {}, 0, "likelihood 'gamma' is not known; there are bernoulli, gaussian"),
}


@pytest.mark.parametrize(("name", "own", "value", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_likelihood_does_not_take_is_refused(
    name: str, own: dict[str, Any], value: float, said: str
) -> None:
    x = torch.zeros(4, D)
    x[1, 2] = value
    with pytest.raises(InputError, match=said) as caught:
        likelihood_of(completed(LikelihoodOptions(likelihood=name, **own), x), D).check(x)
    assert "\n" not in str(caught.value)


def test_a_wrong_value_in_a_later_block_of_rows_is_named_by_its_own_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "BLOCK", 10)
    x = torch.zeros(9, 3)
    x[7, 2] = x[8, 0] = 0.25
    with pytest.raises(InputError, match=r"^only zeros, and row 7, column 2 is 0\.25: think$"):
        base.check_values(x, lambda rows: rows != 0, "only zeros", "think")


def test_what_takes_no_greys_but_binary_values_binarises_them() -> None:
    assert {name for name in LIKELIHOODS if base.binarises(name)} == {"bernoulli"}
    assert not base.binarises("unheard of")
