"""Linear response: the covariances that a mean-field guide lost, from how its optimum would move.

Where log p(x, u) is tilted by t h(u), the optimum η of the family moves by H⁻¹ ∇E_q[h] t, with H the negative
Hessian of the ELBO there, and E_q[g] by

    cov(g, h) = ∇E_q[g]ᵀ H⁻¹ ∇E_q[h].

The posterior's own mean of g moves by its covariance of g and h; so this is an estimate of that, as good as
the family's means are for posteriors near this one, and exact for a Gaussian. The ELBO and all E_q are means
over draws that are held, with their negatives and nothing else done to them, in groups by which errors are
estimated: by what each would have answered alone, from its own optimum.

Source: Giordano, Broderick and Jordan, "Covariances, Robustness, and Variational Bayes", JMLR 19 (2018),
theorem 1 and definition 4; Giordano, Ingram and Broderick, JMLR 25 (2024), for draws that are held.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.notebook import panel, paragraph, table
from ppl_vae.base.saved import Saved, kept
from ppl_vae.base.seeds import check_seed, derived
from ppl_vae.engine.batches import NoCurvature
from ppl_vae.inference.fitting.fit_result import Distance
from ppl_vae.inference.fitting.gaussians.autoguides import family_of, is_gaussian
from ppl_vae.inference.fitting.gaussians.gaussian import symmetric
from ppl_vae.inference.fitting.gaussians.target import target_of
from ppl_vae.inference.fitting.response import Functions, chosen, errors, moments
from ppl_vae.inference.fitting.response_optimum import GROUPS, optimum
from ppl_vae.inference.samplers.unconstrained import labelled
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Functions", "LinearResponse", "covariances", "lacks_covariances", "posterior"]


@dataclass(frozen=True, eq=False, repr=False)
class LinearResponse(Saved):
    """Means and covariances of functions of the latents.

    Attributes:
        names: of the functions, such as ``beta[0]``.
        means: E_q of each at the optimum, shape (functions,).
        mean_errors: Monte Carlo errors of these, from the common draws.
        covariance: by linear response, shape (functions, functions).
        sd_errors: Monte Carlo errors of `sds`, shape (functions,).
        mean_field_sds: the guide's own standard deviations at the optimum.
        distance: of the Gaussian that was used from the best of its family, by other draws.
        note: what was done before, where the guide was not at its optimum.
        num_draws: common draws.
        seconds: wall time.
    """

    names: tuple[str, ...]
    means: np.ndarray = field(metadata=kept("function"))
    mean_errors: np.ndarray = field(metadata=kept("function"))
    covariance: np.ndarray = field(metadata=kept("function", "other_function"))
    sd_errors: np.ndarray = field(metadata=kept("function"))
    mean_field_sds: np.ndarray = field(metadata=kept("function"))
    distance: Distance
    note: str = ""
    num_draws: int = 0
    seconds: float = float("nan")

    @property
    def sds(self) -> np.ndarray:
        """Standard deviations by linear response, shape (functions,)."""
        found: np.ndarray = np.sqrt(self.covariance.diagonal())
        return found

    @property
    def correlation(self) -> np.ndarray:
        """By linear response, shape (functions, functions)."""
        found: np.ndarray = self.covariance / np.outer(self.sds, self.sds)
        return found

    def summary(self) -> pd.DataFrame:
        """A row a function: mean, standard deviation, their errors, and the guide's own sd."""
        import pandas as pd

        columns = {
            "mean": self.means,
            "mean_error": self.mean_errors,
            "sd": self.sds,
            "sd_error": self.sd_errors,
            "mean_field_sd": self.mean_field_sds,
        }
        return pd.DataFrame(columns, index=list(self.names))

    def __repr__(self) -> str:
        widest = float((self.sds / self.mean_field_sds).max())
        return (
            f"LinearResponse({len(self.names):,} functions; sds up to {widest:.2f} of the guide's; "
            f"{self.num_draws:,} common draws)"
        )

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        found = self.summary()
        rows = [(str(name), *row) for name, *row in found.itertuples()]
        said = f"{self.note}. " if self.note else ""
        return panel(
            "Linear response",
            table(["function", *(name.replace("_", " ") for name in found)], rows),
            paragraph(f"{said}By {self.num_draws:,} common draws, {self.distance} below the family's best."),
        )


def lacks_covariances(guide: Any) -> bool:
    """Whether a guide, which has run once, is of independent normals or blocks: one that this can mend."""
    return is_gaussian(guide) and family_of(guide).name in ("mean-field", "block-diagonal")


def covariances(
    pair: Pair,
    *data: Any,
    functions: Functions | Literal["latents", "unconstrained"] = "latents",
    num_draws: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> LinearResponse:
    """Posterior means and covariances by linear response of a mean-field guide.

    Args:
        pair: with Pyro's ``AutoNormal`` or ``AutoDiagonalNormal``, or an ``AutoGuideList`` of Gaussian guides
            (whose blocks' covariances are then their own). Nothing of it is changed: where the guide is not
            at the optimum of its family, a copy of its Gaussian is brought there first.
        data: the programs' full data.
        functions: "latents" for the sites' values, "unconstrained" for those of unconstrained space, or a
            function that takes values by site with a leading dimension of draws, and gives tensors by name
            with the same leading dimension, differentiably and draw by draw.
        num_draws: common draws, in eight groups; of block guides more where they need them.
        seed: of the draws.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for another guide, one of full or low rank, discrete latents that cannot be summed out,
            densities without second derivatives, functions that are none, and where the optimum is no strict
            one: some direction is not determined.
    """
    check_seed(seed)
    check_whole(4 * GROUPS, num_draws=num_draws)
    begun = time.perf_counter()
    with target_of(pair, *data) as target, _refusing_flat():
        asked = chosen(functions, target.batches.density)
        found = optimum(target, num_draws, len(asked.names), seed, progress)
        together = moments(found, asked, progress)
        mean_errors, sd_errors = errors(found, asked, together, progress)
        noise = torch.cat(found.groups)
        own = asked.values(found.at.draws(noise)).std(0, correction=0).numpy()
    return LinearResponse(
        names=asked.names,
        means=together.means,
        mean_errors=mean_errors,
        covariance=together.covariance,
        sd_errors=sd_errors,
        mean_field_sds=own,
        distance=found.distance,
        note=found.note,
        num_draws=len(noise),
        seconds=time.perf_counter() - begun,
    )


def posterior(
    pair: Pair,
    *data: Any,
    num_draws: int = 1000,
    num_common: int = 256,
    coords: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Draws of N(m, Σ) in unconstrained space, m the mean-field optimum's and Σ by linear response.

    Args:
        pair, data: as for `covariances`.
        num_draws: of the answer.
        num_common: common draws.
        coords: labels of dimensions.
        seed: of all draws.
        progress: whether to show a progress bar on a terminal.

    Returns:
        One chain with log importance weights, ``lp`` and ``log_q`` among the statistics, and among their
        attributes ``distance``, ``distance_error`` and ``note`` of the optimum.

    Raises:
        InputError: as `covariances` does.
    """
    import xarray as xr

    check_seed(seed)
    check_whole(1, num_draws=num_draws)
    check_whole(4 * GROUPS, num_common=num_common)
    begun = time.perf_counter()
    with target_of(pair, *data) as target, _refusing_flat():
        density = target.batches.density
        found = optimum(target, num_common, target.dim, seed, progress)
        covariance = moments(found, chosen("unconstrained", density), progress).covariance
        generator = torch.Generator().manual_seed(derived(seed, "posterior"))
        noise = torch.empty(num_draws, target.dim, dtype=torch.float64).normal_(generator=generator)
        root = torch.linalg.cholesky(symmetric(torch.from_numpy(covariance)))
        normal = torch.distributions.MultivariateNormal(found.at.loc, scale_tril=root)
        positions = normal.loc + noise @ root.T
        log_p, log_q = target.batches(positions)[0].detach(), normal.log_prob(positions)
        with torch.no_grad():
            values = density.constrain(positions[None])
        draws = labelled(values, Problem.of(density.pair, *density.data), coords)
    over = ("chain", "draw")
    attributes = {
        "distance": found.distance.value,
        "distance_error": found.distance.std_error,
        "note": found.note,
    }
    return Posterior(
        draws=draws,
        method="linear-response",
        dependence="independent",
        log_weights=xr.DataArray((log_p - log_q)[None].numpy(), dims=over),
        stats=xr.Dataset(
            {"lp": (over, log_p[None].numpy()), "log_q": (over, log_q[None].numpy())}, attrs=attributes
        ),
        seconds=time.perf_counter() - begun,
    )


@contextmanager
def _refusing_flat() -> Iterator[None]:
    try:
        yield
    except NoCurvature as reason:
        raise InputError(
            f"linear response needs second derivatives of log p(x, z), and autograd has none: {reason}"
        ) from reason
