"""Good guides, and the ways of breaking them.

Most are normals in unconstrained space with the true posterior's own moments, so that what is wrong with a
guide is what was done to it, and no noise of a fit. A unit is the data set for global latents, a row for
latents of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroParam
from torch import Tensor, nn

from benchmarks.alarms.problems import Problem
from ppl_vae.base.seeds import seeded
from ppl_vae.guides import PerDatumNormal, Prior
from ppl_vae.inference import guide as guide_draws
from ppl_vae.inference import svi
from ppl_vae.program.pair import Pair, Program

__all__ = ["RECIPES", "Normals", "moments", "normal_guide"]

FEW_STEPS = 30
# What the data must have told about a latent for losing it to be a loss, in nats.
TOLD = 0.5


@dataclass(frozen=True, eq=False)
class Normals:
    """One normal a unit, in unconstrained space.

    Attributes:
        loc: shape (units, d).
        covariance: shape (units, d, d).
    """

    loc: Tensor
    covariance: Tensor

    @property
    def sd(self) -> Tensor:
        """Marginal standard deviations, shape (units, d)."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()

    def scaled(self, factor: float) -> "Normals":
        """Every standard deviation times a factor."""
        return replace(self, covariance=self.covariance * factor**2)

    def shifted(self, by: float) -> "Normals":
        """The first number moved by so many sd, the others along with it as their correlation says."""
        return replace(self, loc=self.loc + by * self.covariance[..., 0] / self.sd[..., :1])

    def marginal(self) -> "Normals":
        """The same means and variances, and no correlation."""
        return replace(self, covariance=torch.diag_embed(self.sd.square()))

    def optimum(self) -> "Normals":
        """The mean-field normal nearest in KL(q ‖ p), whose variances are those given all others."""
        precision = torch.linalg.inv(self.covariance).diagonal(dim1=-2, dim2=-1)
        return replace(self, covariance=torch.diag_embed(1 / precision))

    def collapsed(self, prior: "Normals") -> "Normals":
        """One number goes back to its prior, independent of the rest: the least known of those that the
        data told something about."""
        told = _divergence(self, prior).mean(0)
        known = torch.where(told > TOLD, told, torch.inf)
        at = int(known.argmin() if known.isfinite().any() else told.argmax())
        loc, covariance = self.loc.clone(), self.covariance.clone()
        loc[:, at] = prior.loc[:, at]
        covariance[:, at, :] = 0
        covariance[:, :, at] = 0
        covariance[:, at, at] = prior.sd[:, at].square()
        return Normals(loc, covariance)


def _divergence(posterior: Normals, prior: Normals) -> Tensor:
    """KL(posterior ‖ prior) of every marginal, in nats, shape (units, d)."""
    ratio = posterior.sd / prior.sd
    return 0.5 * (ratio.square() + ((posterior.loc - prior.loc) / prior.sd).square() - 1) - ratio.log()


def moments(values: Tensor) -> Normals:
    """The normals with the moments of draws of shape (draws, units, d)."""
    loc = values.mean(0)
    centred = values - loc
    return Normals(loc, torch.einsum("sui,suj->uij", centred, centred) / (len(values) - 1))


def true_moments(problem: Problem) -> Normals:
    """Those of the true posterior."""
    return moments(problem.unconstrained())


def prior_moments(problem: Problem, num_draws: int = 4000) -> Normals:
    """Those of the prior."""
    prior = guide_draws.draws(
        Pair(problem.model, Prior(problem.model)), *problem.data, num_draws=num_draws, seed=1
    )
    latents = {
        name: torch.as_tensor(prior.draws[name].to_numpy()[0]).to(value.dtype)
        for name, value in problem.reference.items()
    }
    return moments(replace(problem, reference=latents).unconstrained())


def normal_guide(
    problem: Problem, normals: Normals, *, diagonal: bool = False
) -> PerDatumNormal | AutoNormal | AutoMultivariateNormal:
    """A guide that is these normals: Pyro's own for global latents, per datum for local ones."""
    if problem.per_datum:
        return _per_datum(problem, normals, diagonal)
    flat = Normals(normals.loc.reshape(1, -1), torch.block_diag(*normals.covariance)[None])
    # A joint normal of all data's latents would make one unit of them.
    if diagonal or problem.local:
        return _auto_normal(problem, flat)
    return _full_rank(problem, flat)


def _per_datum(problem: Problem, normals: Normals, diagonal: bool) -> PerDatumNormal:
    units, dim = normals.loc.shape
    (site,) = problem.layout.latents
    covariance = "diagonal" if diagonal else "full"
    with seeded(0):
        found = PerDatumNormal(
            units, dim, covariance=covariance, dtype=problem.data[0].dtype, site=site,
            plate=str(problem.layout.unit_plate),
        )  # fmt: skip
    tril = torch.linalg.cholesky(normals.covariance)
    variances = tril.diagonal(dim1=-2, dim2=-1).square() - found.floor
    # The inverse of softplus.
    raw = [normals.loc, variances + torch.log(-torch.expm1(-variances))]
    if not diagonal:
        rows, columns = torch.tril_indices(dim, dim, offset=-1)
        raw.append(tril[:, rows, columns])
    with torch.no_grad():
        found.raw.copy_(torch.cat(raw, -1))
    return found


def _full_rank(problem: Problem, normals: Normals) -> AutoMultivariateNormal:
    found = AutoMultivariateNormal(problem.model)
    with Pair(problem.model, found).initialise(*problem.data).scope():
        tril = torch.linalg.cholesky(normals.covariance[0])
        scale = tril.diagonal()
        found.loc = nn.Parameter(normals.loc[0].clone())
        found.scale = PyroParam(scale.clone(), constraints.softplus_positive)
        found.scale_tril = PyroParam(tril / scale[:, None], constraints.unit_lower_cholesky)
    return found


def _auto_normal(problem: Problem, normals: Normals) -> AutoNormal:
    found = AutoNormal(problem.model)
    with Pair(problem.model, found).initialise(*problem.data).scope():
        locs = problem.density.unflatten(normals.loc[0])
        scales = problem.density.unflatten(normals.sd[0])
        for name in problem.density.names:
            fixed = problem.density.transforms[name]
            depth = fixed.domain.event_dim
            setattr(found.locs, name, PyroParam(locs[name].clone(), constraints.real, depth))
            setattr(found.scales, name, PyroParam(scales[name].clone(), constraints.softplus_positive, depth))
    return found


def _fitted(auto: Callable[[Program], Program], steps: int | None = None) -> Callable[[Problem], Program]:
    def fit(problem: Problem) -> Program:
        guide = _start_per_datum(problem) if problem.per_datum else auto(problem.model)
        few = steps is not None
        svi.fit(
            Pair(problem.model, guide), *problem.data, num_steps=steps or problem.steps,
            lr=0.01 if few else problem.lr, num_particles=1 if few else 8, train="guide", progress=False,
        )  # fmt: skip
        return guide

    return fit


def _start_per_datum(problem: Problem) -> PerDatumNormal:
    (site,) = problem.layout.latents
    units, dim = problem.unconstrained().shape[1:]
    with seeded(0):
        return PerDatumNormal(
            units, dim, dtype=problem.data[0].dtype, site=site, plate=str(problem.layout.unit_plate)
        )


# By name; each makes a guide for a problem.
RECIPES: Mapping[str, Callable[[Problem], Program]] = {
    "full-rank": lambda p: normal_guide(p, true_moments(p)),
    "almost": lambda p: normal_guide(p, true_moments(p).scaled(0.94).shifted(0.07)),
    "narrow": lambda p: normal_guide(p, true_moments(p).scaled(0.5)),
    "wide": lambda p: normal_guide(p, true_moments(p).scaled(2.0)),
    "shifted": lambda p: normal_guide(p, true_moments(p).shifted(1.0)),
    "mean-field": lambda p: normal_guide(p, true_moments(p).marginal(), diagonal=True),
    "mean-field optimum": lambda p: normal_guide(p, true_moments(p).optimum(), diagonal=True),
    "collapsed": lambda p: normal_guide(p, true_moments(p).collapsed(prior_moments(p))),
    "few steps": _fitted(AutoNormal, FEW_STEPS),
    "fitted mean-field": _fitted(AutoNormal),
    "fitted full-rank": _fitted(AutoMultivariateNormal),
}
