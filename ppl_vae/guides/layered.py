"""Guides for latents in layers, each of which is the prior of the one below it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Normal, TorchDistribution
from pyro.nn import PyroModule
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae.guides.means import means_view
from ppl_vae.guides.normal import VARIANCE_FLOOR, raw_normal
from ppl_vae.program.pair import Program
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import View

__all__ = ["BottomUp", "Ladder", "merged", "posterior_moments"]

# Draws behind the means of a picture.
NUM_DRAWS = 16


class BottomUp(PyroModule):  # type: ignore[misc]
    """q(z_1 | x) q(z_2 | z_1) … q(z_L | z_{L−1}), Normals of diagonal covariance, each by its own network.

    Under the model, x and z_2 are independent given z_1, so that nothing is lost by leaving x out above z_1;
    what is lost is that each factor is a diagonal Normal. Where every exact factor is one, and the networks
    can give it, this is the exact posterior.

    Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016), section 2.

    Args:
        networks: from the data upwards; the first maps x to 2 q_1 raw numbers, the next z_1 to 2 q_2, and so
            on: means, then raw variances.
        sites: names of the latent sites, from the data upwards.
        plate: of the data.
        floor: lower bound on the variances, in squared units of the latents.
    """

    def __init__(
        self,
        networks: Iterable[nn.Module],
        *,
        sites: Sequence[str],
        plate: str = "data",
        floor: float = VARIANCE_FLOOR,
    ) -> None:
        super().__init__("guide")
        self.networks = nn.ModuleList(networks)
        self.sites, self.plate, self.floor = tuple(sites), plate, floor

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, features). Gives the topmost latents."""
        networks = self.networks
        with pyro.plate(self.plate, len(x)) as i:
            value = x[i]
            for site, network in zip(self.sites, networks, strict=True):
                value = pyro.sample(site, _normal(network(value), self.floor))
            return value

    def views(self, context: ViewContext) -> list[View]:
        """The plane of the rows' posterior means, a layer."""
        return _planes(self, self.sites, context)


class Ladder(PyroModule):  # type: ignore[misc]
    """q(z_L | x) q(z_{L−1} | z_L, x) … q(z_1 | z_2, x): top-down, each layer its prior and a belief merged.

    An upward pass without draws, d_l = h_l(d_{l−1}) and d_0 = x, gives a belief N(μ̂_l, σ̂_l²) of every layer.
    q(z_L | x) is the topmost one. Below it q(z_l | z_{l+1}, x) is the product of belief and the *model's*
    p(z_l | z_{l+1}), renormalised: precisions add, and means are weighted by them (`merged`). What Bayes'
    rule gives has that very form, the belief being the likelihood of z_l. A layer of which the data say
    nothing (σ̂ large) stays at its prior.

    It reads the model's networks without owning them: their parameters stay the model's.

    Source: Sønderby, Raiko, Maaløe, Sønderby and Winther, "Ladder variational autoencoders" (2016),
    section 2.

    Args:
        upward: h_l, from the data upwards.
        beliefs: map d_l to 2 q_l raw numbers: μ̂_l, then the raw σ̂_l².
        prior: p(z_l | z_{l+1}), called with l − 1 (0 for the layer next to the data) and z_{l+1}.
        sites: names of the latent sites, from the data upwards.
        plate: of the data.
        floor: lower bound on σ̂², in squared units of the latents.
    """

    def __init__(
        self,
        upward: Iterable[nn.Module],
        beliefs: Iterable[nn.Module],
        prior: Callable[[int, Tensor], TorchDistribution],
        *,
        sites: Sequence[str],
        plate: str = "data",
        floor: float = VARIANCE_FLOOR,
    ) -> None:
        super().__init__("guide")
        self.upward, self.beliefs = nn.ModuleList(upward), nn.ModuleList(beliefs)
        self.prior = prior
        self.sites, self.plate, self.floor = tuple(sites), plate, floor

    def believed(self, x: Tensor) -> list[TorchDistribution]:
        """What the data say of every layer, from the data upwards; batch shape (rows,) each."""
        found = []
        for upward, belief in zip(self.upward, self.beliefs, strict=True):
            x = upward(x)
            found.append(_normal(belief(x), self.floor))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, features). Gives the lowest latents."""
        with pyro.plate(self.plate, len(x)) as i:
            *lower, top = self.believed(x[i])
            z = pyro.sample(self.sites[-1], top)
            for layer in reversed(range(len(lower))):
                z = pyro.sample(self.sites[layer], merged(lower[layer], self.prior(layer, z)))
            return z

    def views(self, context: ViewContext) -> list[View]:
        """The plane of the rows' posterior means, a layer."""
        return _planes(self, self.sites, context)


def merged(one: TorchDistribution, two: TorchDistribution) -> TorchDistribution:
    """The product of two diagonal Normals, renormalised.

    Its precision is the sum of theirs; its mean is theirs, weighted by the precisions.

    Args:
        one, two: Normals of event shape (q,); their batch shapes broadcast.
    """
    total = one.variance + two.variance
    loc = (one.mean * two.variance + two.mean * one.variance) / total
    return Normal(loc, (one.variance * two.variance / total).sqrt()).to_event(1)


@torch.no_grad()
def posterior_moments(
    guide: Program, *data: Any, num_draws: int = NUM_DRAWS
) -> dict[str, tuple[Tensor, Tensor]]:
    """Means and variances of a guide's draws by site, for guides whose distributions depend on earlier draws.

    Args:
        guide: a Pyro program.
        data: its data.
        num_draws: of every latent, at least 2; one after another, so that memory does not grow with them.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for _ in range(num_draws):
        for name, site in poutine.trace(guide).get_trace(*data).nodes.items():
            if site["type"] == "sample" and not site_is_subsample(site):
                z = site["value"].double()
                first, second = sums.get(name, (0.0, 0.0))
                sums[name] = (first + z, second + z.square())
    means = {name: first / num_draws for name, (first, _) in sums.items()}
    spread = num_draws / (num_draws - 1)
    return {
        name: (means[name], spread * (second / num_draws - means[name].square()).clamp_min(0))
        for name, (_, second) in sums.items()
    }


def _normal(raw: Tensor, floor: float) -> TorchDistribution:
    """A Normal from as many means as raw variances."""
    return raw_normal(raw, raw.shape[-1] // 2, "diagonal", floor)


def _planes(guide: nn.Module, sites: Sequence[str], context: ViewContext) -> list[View]:
    moments = posterior_moments(guide, *context.data)
    return [means_view(Delta(moments[site][0], event_dim=1), context, site=site) for site in sites]
