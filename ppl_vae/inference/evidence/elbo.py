"""The ELBO of a pair with its parameters held: value, error, and its two parts."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta, Independent, MultivariateNormal, Normal
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.seeds import seeded
from ppl_vae.program.layout import (
    Layout,
    log_likelihood,
    log_prob_per_unit,
    log_q_per_unit,
    reduce_to_units,
    sample_sites,
    user_scale,
)
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["ELBO", "analytic_kl", "analytic_kls", "elbo"]


@dataclass(frozen=True)
class ELBO:
    """E_q[log p(x, z) − log q(z)] in nats, summed over the data.

    Attributes:
        value: the estimate; ``reconstruction − kl`` to rounding.
        std_error: its Monte Carlo standard error.
        reconstruction: E_q[log p(x | z)].
        kl: KL(q(z) ‖ p(z)).
        kl_is_analytic: whether the KL of every site came from a formula rather than from draws.
        num_units: how many independent units the sum runs over.
        num_particles: draws a unit.
    """

    value: float
    std_error: float
    reconstruction: float
    kl: float
    kl_is_analytic: bool
    num_units: int
    num_particles: int

    @property
    def mean(self) -> float:
        """The ELBO per unit."""
        return self.value / self.num_units


@torch.no_grad()
def elbo(pair: Pair, *data: Any, num_particles: int = 16, seed: int = 0) -> ELBO:
    """Estimate the ELBO and its parts from draws of the guide, the KL by formula where there is one.

    Args:
        pair: model and guide; nothing is trained.
        data: the programs' data.
        num_particles: draws a unit, at least 2.
        seed: of the draws.
    """
    problem = Problem.of(pair, *data)
    check_whole(1, num_particles=num_particles)
    num_particles = max(2, num_particles)
    with seeded(seed):
        parts = [_particles(chunk, num_particles) for chunk in problem.chunks(num_particles)]
    reconstruction = torch.cat([part[0] for part in parts], dim=1).double()
    kl = torch.cat([part[1] for part in parts], dim=1).double()
    per_draw = reconstruction - kl
    variance = per_draw.var(dim=0).sum() / num_particles
    return ELBO(
        value=per_draw.mean(0).sum().item(),
        std_error=variance.sqrt().item(),
        reconstruction=reconstruction.mean(0).sum().item(),
        kl=kl.mean(0).sum().item(),
        kl_is_analytic=all(part[2] for part in parts),
        num_units=problem.num_units,
        num_particles=num_particles,
    )


def _particles(problem: Problem, num_particles: int) -> tuple[Tensor, Tensor, bool]:
    parts = [_parts(*problem.traces(size), problem.layout, size) for size in problem.blocks(num_particles)]
    return (
        torch.cat([part[0] for part in parts]),
        torch.cat([part[1] for part in parts]),
        all(part[2] for part in parts),
    )


def _parts(
    model_trace: Trace, guide_trace: Trace, layout: Layout, num_particles: int
) -> tuple[Tensor, Tensor, bool]:
    """Reconstruction and KL of shape (particles, units), and whether every KL is analytic.

    The conditional KL of a site given the sites before it is exact in expectation only if model and
    guide draw their latents in the same order, as in Pyro's TraceMeanField_ELBO.
    """
    reconstruction = log_likelihood(model_trace, layout, num_particles)
    formulas = list(analytic_kls(model_trace, guide_trace, layout).values())
    if formulas:
        return reconstruction, torch.stack(formulas).sum(0).expand_as(reconstruction), True
    log_q = log_q_per_unit(guide_trace, layout, num_particles)
    log_prior = log_prob_per_unit(model_trace, layout, num_particles, tuple(layout.latents))
    return reconstruction, log_q - log_prior, False


def analytic_kls(model_trace: Trace, guide_trace: Trace, layout: Layout) -> dict[str, Tensor]:
    """The KL of every latent site by unit, given the draws before it; nothing unless each has a formula.

    It is that of the site's conditional distributions, whose mean over draws is the site's part of the whole
    KL only if both programs draw in the same order.
    """
    samples = [name for name, site in sample_sites(guide_trace) if not site["is_observed"]]
    auxiliary = any(guide_trace.nodes[name]["infer"].get("is_auxiliary") for name in samples)
    in_order = [name for name in samples if name in layout.latents] == list(layout.latents)
    if auxiliary or not in_order or layout.summed or layout.subsampled or layout.loose_dims:
        return {}
    found = {}
    for name in layout.latents:
        own, prior = guide_trace.nodes[name], model_trace.nodes[name]
        kl = analytic_kl(own["fn"], prior["fn"])
        if kl is None or own["mask"] is not None or prior["mask"] is not None:
            return {}
        found[name] = reduce_to_units(scale_and_mask(kl, user_scale(prior)), layout)
    return found


def analytic_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p) of shape batch_shape where a formula is known, else None.

    For Normals it is ½ Σ(μ² + σ² − 1 − ln σ²) when p is standard (Kingma and Welling 2014, appendix B).
    """
    if isinstance(q, Delta):
        return None
    if isinstance(q, MultivariateNormal) and isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        p = MultivariateNormal(p.base_dist.loc, scale_tril=torch.diag_embed(p.base_dist.scale))
    try:
        # Some formulas write into a tensor of one batch shape by a mask of the other.
        batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        return kl_divergence(q.expand(batch), p.expand(batch))
    except NotImplementedError:
        return None
