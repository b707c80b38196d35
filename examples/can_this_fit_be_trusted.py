"""Can this fit be trusted? One call on two forms of the same model: eight schools, centred and not.

What to look for: the mean-field guide of the centred form is not to be trusted, and the check says why: the
spread of the schools' effects depends on tau, a funnel, which no Gaussian follows. The next step that it
advises is taken in the second form. Its full-rank guide comes close, and importance weights do the rest.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from ppl_vae import check

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def centred(error: torch.Tensor, effect: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(effect)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("effect", dist.Normal(theta, error), obs=effect)


def non_centred(error: torch.Tensor, effect: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(effect)):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        pyro.sample("effect", dist.Normal(mu + tau * shift, error), obs=effect)


def main(quick: bool = False) -> None:
    for name, model, guide in (
        ("centred, mean-field", centred, AutoNormal(centred)),
        ("non-centred, full-rank", non_centred, AutoMultivariateNormal(non_centred)),
    ):
        options = {"budget": 30.0, "num_steps": 1000, "calibrate": False} if quick else {"budget": 120.0}
        found = check(model, guide, ERROR, EFFECT, **options)
        print(f"{name}: {found.verdict}\n{found}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    main(parser.parse_args().quick)
