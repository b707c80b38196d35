"""Missing values and flat priors: right, or refused in one sentence."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoNormal,
    init_to_value,
)
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.base.errors import InputError
from ppl_vae.inference import guide, importance, svi
from ppl_vae.program.pair import Pair
from tests.normal_mean import Program, fixed, mu_given, normal_evidence, normal_mean

# Missing values -------------------------------------------------------------------------------------------


def _nan_masked(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.NanMaskedNormal(mu, 1.0), obs=x[i])


def _mask_around(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    seen = ~x.isnan()
    with pyro.plate("data", len(x)) as i, poutine.mask(mask=seen[i]):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i].nan_to_num())


def _mask_of_the_distribution(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    seen = ~x.isnan()
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0).expand([len(i)]).mask(seen[i]), obs=x[i].nan_to_num())


@pytest.mark.parametrize("model", [_nan_masked, _mask_around, _mask_of_the_distribution])
@pytest.mark.parametrize("missing", [[2, 5, 9], [19]])
def test_masked_values_are_integrated_out(model: Program, missing: list[int], x20: Tensor) -> None:
    x = x20.clone()
    x[missing] = math.nan
    seen = x[~x.isnan()].numpy()
    pair = Pair(model, fixed(*mu_given(seen)))
    found = importance.log_evidence(pair, x, num_samples=40, progress=False)
    assert found.total == pytest.approx(normal_evidence(seen), abs=1e-3)


def test_missing_values_that_nobody_masks_are_refused(x20: Tensor) -> None:
    x = x20.clone()
    x[3] = math.nan
    with pytest.raises(InputError, match=r"holds nan at index \(3,\).*NanMaskedNormal"):
        svi.fit(Pair(normal_mean, AutoNormal(normal_mean)), x, num_steps=3, progress=False)


def test_obs_mask_is_refused_with_what_works(x20: Tensor) -> None:
    seen = torch.ones(20, dtype=torch.bool)
    seen[[2, 5, 9]] = False

    def model(x: Tensor, seen: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x, obs_mask=seen)

    with pytest.raises(InputError, match=r"site x_unobserved is masked in part .*NanMaskedNormal"):
        svi.fit(Pair(model, AutoNormal(model)), x20, seen, num_steps=3, progress=False)

    def program(x: Tensor, seen: Tensor) -> None:
        known = x[seen]
        mu = pyro.sample("mu", dist.Normal(*mu_given(known.numpy())))
        with pyro.plate("data", len(x)), poutine.mask(mask=~seen):
            pyro.sample("x_unobserved", dist.Normal(mu, 1.0).expand([len(x)]))

    found = importance.log_evidence(Pair(model, program), x20, seen, num_samples=40, progress=False)
    assert found.total == pytest.approx(normal_evidence(x20[seen].numpy()), abs=1e-3)


# Flat priors ----------------------------------------------------------------------------------------------


def _improper(support: Any) -> Program:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.ImproperUniform(support, (), ()))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])

    return model


def _hidden(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def _hidden_by_messenger(x: Tensor) -> None:
    with poutine.mask(mask=False):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


FLAT = {
    "ImproperUniform": _improper(constraints.real),
    "positive": _improper(constraints.positive),
    "mask(False)": _hidden,
    "poutine.mask": _hidden_by_messenger,
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_priors_are_fitted_and_their_evidence_is_refused(name: str, x20: Tensor) -> None:
    model = FLAT[name]
    auto = AutoNormal(model, init_loc_fn=init_to_value(values={"mu": torch.tensor(1.0)}))
    pair = Pair(model, auto)
    svi.fit(pair, x20, num_steps=400, num_particles=4, lr=0.05, progress=False)
    draws = guide.draws(pair, x20, num_draws=4000)
    mean, sd = x20.mean().item(), 20**-0.5
    # mu ~ N(mean(x), 1/n); the positive one is far from its bound. Limits: Adam's last steps, 0.2 sd.
    assert abs(float(draws.draws["mu"].mean()) - mean) < 0.25 * sd
    assert float(draws.draws["mu"].std()) == pytest.approx(sd, rel=0.2)
    with pytest.raises(InputError, match=r"log p\(x\) is not defined: the prior of mu is flat"):
        importance.log_evidence(pair, x20, progress=False)
    weighed = importance.log_evidence(pair, x20, num_samples=500, improper=True, progress=False)
    assert float(weighed.ess[0]) > 100
