"""The importance-weighted bound as a training objective.

L_K = E[log 1/K Σ_k w_k] with w_k = p(x, z_k)/q(z_k) lies between the ELBO (K = 1) and log p(x), and rises
with K. The log stands outside the mean of each unit's own weights, so a minibatch multiplies the sum of
its units' bounds by N/B; inside the log, that factor would make it no bound at all.

Sources: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016), equations 8 and 14;
Tucker, Lawson, Gu and Maddison, "Doubly reparameterized gradient estimators" (2019), equation 8.
"""

from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.inference.evidence.bounds import grouped_bound
from ppl_vae.inference.fitting.objective import ScaleTerms
from ppl_vae.program.given_latents import has_log_density
from ppl_vae.program.layout import sample_sites
from ppl_vae.program.problem import Problem

__all__ = ["IWAE"]


@dataclass(frozen=True)
class IWAE:
    """The negative bound, whose gradient is an unbiased estimate of the bound's own.

    Attributes:
        num_particles: K.
        doubly_reparameterised: whether the guide's gradient goes through the draws alone, weighted by
            the squared normalised weights. Its signal then does not drown in noise as K grows.
    """

    num_particles: int
    doubly_reparameterised: bool = False

    def value(
        self, problem: Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        """−N/B Σ_n L_K(x_n) of one draw of the particles; see `fitting.objective.Objective`."""
        with ScaleTerms(beta):
            return self._value(problem, index, scale, beta)

    def _value(
        self, problem: Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        batch = problem.rows(index)
        drawn = batch.terms(self.num_particles, learning=True)
        if not self.doubly_reparameterised:
            return -scale * grouped_bound(drawn.log_weights, self.num_particles).sum()
        # The draws as leaves: densities at them depend on the guide's parameters only through them.
        leaves = {name: value.detach().requires_grad_() for name, value in drawn.draws.items()}
        at = batch.terms(self.num_particles, latents=leaves, learning=True)
        weights = at.log_weights.detach().softmax(0)
        # Integrating the score by parts turns −β w ∂log q into path derivatives of w: for β = 1 only w²
        # is left of them (Tucker et al., equation 8).
        along = ((1 - beta) * weights + beta * weights.square()) * at.log_weights
        slopes = torch.autograd.grad(along.sum(), list(leaves.values()), retain_graph=True)
        path = sum((drawn.draws[name] * slope).sum() for name, slope in zip(leaves, slopes, strict=True))
        surrogate = -scale * ((weights * at.log_p).sum() + path)
        value = -scale * grouped_bound(at.log_weights.detach(), self.num_particles).sum()
        return value + surrogate - surrogate.detach()

    def check(self, problem: Problem, batch_size: int | None) -> None:
        """Refuse pairs that this objective cannot train.

        Raises:
            InputError: for a guide that is not reparameterised, minibatches of a model with global latents,
                or the doubly-reparameterised gradient of a guide whose density at a given z is not available.
        """
        pair, data, layout = problem.pair, problem.data, problem.layout
        part = batch_size is not None and batch_size < layout.batch_plate_size
        if part and layout.batch_plate != layout.unit_plate:
            raise InputError(
                "objective='iwae' takes minibatches only of models with all latents in the data's plate: "
                "with a global latent the data set has one importance weight, which a part of the data does "
                "not give"
            )
        with pair.scope(), seeded(0), torch.no_grad():
            trace = poutine.trace(pair.guide).get_trace(*data)
        for name, site in sample_sites(trace):
            if not getattr(site["fn"], "has_rsample", True) and not site["is_observed"]:
                raise InputError(
                    f"objective='iwae' needs reparameterised draws, and site {name} of the guide is "
                    f"{type(site['fn']).__name__}"
                )
        if self.doubly_reparameterised and not has_log_density(pair, *data):
            raise InputError(
                "the doubly-reparameterised gradient needs log q at a given z, which this guide's hidden "
                "randomness denies"
            )
