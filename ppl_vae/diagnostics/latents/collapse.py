"""Posterior collapse: which latent dimensions say anything about their datum.

Sources: active units after Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016),
section 5.2; the split of the KL after Hoffman and Johnson, "ELBO surgery" (2016), section 2.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.saved import Saved
from ppl_vae.base.seeds import seeded
from ppl_vae.diagnostics.latents.collapse_parts import (
    LatentCase,
    Moments,
    Programs,
    component_names,
    formula_kls,
    independent_moments,
    is_normal,
    mutual_information,
    read_programs,
    site_kls,
)
from ppl_vae.diagnostics.latents.dependent_priors import Drawn, by_parents, total_kl
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem, check_index

__all__ = ["Collapse", "collapse"]

# Burda et al. call a dimension active above this variance of its posterior means (of a N(0, 1) prior).
ACTIVE = 0.01
# Sites whose KL is said one by one.
MAX_SAID = 4


@dataclass(frozen=True, eq=False)
class Collapse(Saved):
    """How much each dimension of the latent vectors carries.

    Attributes:
        table: one row per latent dimension: ``component``; its ``site``; ``kl`` of the guide's marginal to
            the prior, the mean over the units in nats, with its Monte Carlo error ``kl_std_error`` (0 by
            formula);
            ``variance_of_means``, Var_x(E_q[z_d | x]), and ``mean_variance``, E_x[Var_q(z_d | x)], both in
            units of the prior's variance; ``active``: whether the first of them exceeds 0.01; ``site_kl`` and
            ``site_kl_std_error`` of all the site's dimensions together, NaN where they are not known.
        kl: mean KL of a unit's whole latent vector in nats; NaN where the guide's density is not available.
        kl_std_error: its Monte Carlo error; 0 by formula.
        mutual_information: I_q(x; z) in nats, the part of that KL by which the latents tell the data
            apart; at most log N. The rest, KL(q(z) ‖ p(z)), is what the aggregated posterior differs from
            the prior. NaN where the guide's density is not available.
        mutual_information_std_error: its Monte Carlo standard error.
        num_units: N, the number of data.
        analytic: whether means, variances and KL came from formulas rather than from draws.
        seconds: wall time.
        notes: what has to be said about the numbers, in sentences.
    """

    table: pd.DataFrame
    kl: float
    mutual_information: float
    mutual_information_std_error: float
    num_units: int
    analytic: bool
    seconds: float = float("nan")
    notes: tuple[str, ...] = field(default_factory=tuple)
    kl_std_error: float = 0.0

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions."""
        return len(self.table)

    @property
    def num_active(self) -> int:
        """Number of active ones."""
        return int(self.table["active"].sum())

    @property
    def by_site(self) -> pd.DataFrame:
        """One row per site: ``latent_dim``, ``num_active``, ``kl`` and ``kl_std_error``."""
        groups = self.table.groupby("site", sort=False)
        return pd.DataFrame(
            {
                "latent_dim": groups.size(),
                "num_active": groups["active"].sum(),
                "kl": groups["site_kl"].first(),
                "kl_std_error": groups["site_kl_std_error"].first(),
            }
        )

    @property
    def collapsed(self) -> bool:
        """Whether no dimension is active: the latents say nothing about the data."""
        return self.num_active == 0

    def sentence(self) -> str:
        """What was found, in a sentence or two."""
        if self.collapsed:
            return (
                f"Posterior collapse: none of the {self.latent_dim} latent dimensions is active, so "
                "that the latents say nothing about the data (the model ignores them, or the guide does); a "
                "KL warm-up or a weaker decoder may help."
            )
        information = ""
        if np.isfinite(self.mutual_information):
            information = f"; the latents carry {self.mutual_information:.2f} nats about which datum it is"
            if self._near_bound:
                information += f", as many as {self.num_units} data can show (log N)"
        information = self._each_site() + information
        if self.num_active == self.latent_dim:
            return f"All {self.latent_dim} latent dimensions are active{information}."
        rest = self.latent_dim - self.num_active
        verb = "does" if rest == 1 else "do"
        return (
            f"{self.num_active} of {self.latent_dim} latent dimensions are active, and {rest} {verb} "
            f"nothing{information}."
        )

    def _each_site(self) -> str:
        """In brackets, where there are several sites: how many dimensions of each are active, and its KL."""
        sites = self.by_site
        if len(sites) < 2:
            return ""
        counts = zip(sites.index, sites["num_active"], sites["latent_dim"], strict=True)
        said = ", ".join(f"{active} of {size} in {name}" for name, active, size in counts)
        if len(sites) <= MAX_SAID and np.isfinite(sites["kl"]).all():
            said += f"; {' and '.join(f'{kl:.2f}' for kl in sites['kl'])} nats from the prior"
        return f" ({said})"

    @property
    def _near_bound(self) -> bool:
        return self.mutual_information > 0.9 * float(np.log(self.num_units))

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Files of 0.1.0 know no sites, and booleans were integers until 0.2."""
        table = content["table"].astype({"active": bool})
        if "site" not in table:
            table["site"] = table["component"].str.rpartition("[")[0]
            table[["site_kl", "site_kl_std_error"]] = float("nan")
        return {**content, "table": table}


@torch.no_grad()
def collapse(
    pair: Pair, *data: Any, index: Tensor | None = None, num_draws: int = 200, seed: int = 0
) -> Collapse:
    """Judge how many dimensions of the latent vectors are used.

    A datum's latents are all its local sites, those of inner plates included (see `Layout.sites`). Where the
    guide's sites are Normal, means, variances and KL come from formulas; else from draws, whose KL is that of
    Normals with the same moments: a lower bound, tight where the marginals are Normal. A mean is taken
    relative to the prior's, and a variance in units of the prior's.

    Where a site's prior depends on other latents (z1 | z2), it is measured from its prior *given its parents'
    draws*: its KL is the mean over those draws of the KL of the conditional distributions, and what is active
    is (z − E[z | parents]) / sd[z | parents]. A site that only repeats what its parents say is then off.

    Args:
        pair: a model with latents for every datum, and its guide; nothing is trained.
        data: the programs' full data.
        index: the units to look at (all by default).
        num_draws: draws a unit where there is no formula, at least 10.
        seed: of the draws.

    Raises:
        InputError: if all latents are shared by all data, discrete, or have priors that depend on what is
            summed out; if the guide gives points; or for an index that does not fit.
    """
    if num_draws < 10:
        raise InputError(f"num_draws is {num_draws}; variances of draws need at least 10")
    start = time.perf_counter()
    problem = Problem.of(pair, *data).rows(index)
    layout = problem.layout
    check_index(index, layout.num_units)
    local = [site for site in layout.sites.values() if site.scope != "global"]
    names = tuple(site.name for site in local if site.kind not in ("discrete", "enumerated"))
    if not local:
        raise InputError("collapse is asked of models with latents for every datum; here all data share them")
    if not names:
        raise InputError(
            "collapse is asked of latents that are real numbers; here those of a datum are discrete"
        )
    if index is not None and not layout.can_index:
        raise InputError("part of the data was asked for, but the programs do not index their units")
    case = LatentCase(problem, names, num_draws)
    with seeded(seed):
        found = read_programs(case)
        # Two runs that drew the same discrete values would not show that a prior depends on them.
        apart = not (found.dependent or layout.summed or layout.unit_plate is None)
        drawn = None if apart else by_parents(case)
        moments = independent_moments(case, found) if drawn is None else drawn.moments
        mutual, error = mutual_information(case, found.guides, len(moments.mean))
        site_kl = {name: (kl, 0.0) for name, kl in site_kls(case, found).items()}
        if drawn is not None:
            site_kl = dict(drawn.site_kl)
        kl, kl_error = _whole(case, site_kl, exact=drawn is None)
    return Collapse(
        table=_table(case, found, moments, drawn, site_kl),
        kl=kl,
        kl_std_error=kl_error,
        mutual_information=mutual,
        mutual_information_std_error=error,
        num_units=len(moments.mean),
        analytic=moments.num_draws is None,
        seconds=time.perf_counter() - start,
        notes=_notes(case, found, moments, drawn, kl_error),
    )


def _whole(
    case: LatentCase, site_kl: Mapping[str, tuple[float, float]], *, exact: bool
) -> tuple[float, float]:
    """KL of a unit's whole vector: the sites' together where all have a formula, else from draws."""
    known = [kl for kl, _ in site_kl.values()]
    whole = len(case.names) == len(case.layout.latents)
    if exact and whole and np.isfinite(known).all():
        return sum(known), 0.0
    return total_kl(case)


def _table(
    case: LatentCase,
    found: Programs,
    moments: Moments,
    drawn: Drawn | None,
    site_kl: Mapping[str, tuple[float, float]],
) -> pd.DataFrame:
    normal = _all_normal(found, drawn)
    kl, error, spread = _normal_kl(moments)
    if drawn is not None and drawn.kl is not None and drawn.kl_std_error is not None:
        kl, error = drawn.kl, drawn.kl_std_error
    elif not normal:
        formula = formula_kls(case, found) if drawn is None else None
        kl = torch.full_like(kl, torch.nan) if formula is None else formula
        error = torch.full_like(error, torch.nan if formula is None else 0.0)
    names, sites = component_names(case, found, moments.mean.shape[1])
    missing = (float("nan"), float("nan"))
    return pd.DataFrame(
        {
            "component": names,
            "site": sites,
            "kl": kl.cpu().numpy(),
            "kl_std_error": error.cpu().numpy(),
            "variance_of_means": spread.cpu().numpy(),
            "mean_variance": moments.variance.mean(0).cpu().numpy(),
            "active": (spread > ACTIVE).cpu().numpy(),
            "site_kl": [site_kl.get(name, missing)[0] for name in sites],
            "site_kl_std_error": [site_kl.get(name, missing)[1] for name in sites],
        }
    )


def _all_normal(found: Programs, drawn: Drawn | None) -> bool:
    return drawn.normal if drawn is not None else all(is_normal(fn) for fn in found.priors.values())


def _normal_kl(moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """KL of Normals to N(0, 1) in the prior's scale, without the bias that draws bring; its error; Var E."""
    mean, variance = moments.mean, moments.variance.clamp(min=1e-300)
    kl = 0.5 * (variance + mean.square() - 1 - variance.log())
    spread, error = mean.var(0, unbiased=False), torch.zeros(mean.shape[1])
    if (draws := moments.num_draws) is not None:
        # E m² exceeds μ² by σ²/S, and E ln s² is below ln σ² by 1/(S−1) about.
        kl = kl - 0.5 * (variance / draws + 1 / (draws - 1))
        spread = (spread - variance.mean(0) / draws).clamp(min=0)
        single = mean.square() * variance / draws + 0.5 * (variance - 1).square() / draws + draws**-2
        error = single.mean(0).sqrt() / len(mean) ** 0.5
    return kl.mean(0), error, spread


def _notes(
    case: LatentCase, found: Programs, moments: Moments, drawn: Drawn | None, kl_error: float
) -> tuple[str, ...]:
    notes = [*_left_out(case)]
    if any(isinstance(fn, MultivariateNormal) for fn in found.guides.values()):
        notes.append(
            "the guide's covariance is full: the KL of each dimension is that of its marginal, and their sum "
            "is below the KL of the whole vector"
        )
    if found.dependent:
        notes.append(
            f"the prior of {', '.join(found.dependent)} depends on other latents: each is measured from its "
            "prior given their draws"
        )
    if drawn is not None and drawn.kl is not None:
        notes.append(
            f"each KL is the mean over {case.num_draws} draws a unit of the KL given those draws, which is "
            "exact; means and variances come from the same draws"
        )
    elif moments.num_draws is not None and not _all_normal(found, drawn):
        notes.append(f"means and variances come from {moments.num_draws} draws a unit")
    elif moments.num_draws is not None:
        notes.append(
            f"means and variances come from {moments.num_draws} draws a unit, and each KL is that of Normals "
            "with these moments: a lower bound"
        )
    if kl_error > 0:
        notes.append("the KL of the whole vector is a Monte Carlo estimate")
    if (
        not _all_normal(found, drawn)
        and (drawn is None or drawn.kl is None)
        and formula_kls(case, found) is None
    ):
        notes.append("the prior is not Normal: there is no formula for the KL of a dimension")
    notes.append(f"no mutual information above log N = {np.log(len(moments.mean)):.2f} nats can be seen")
    return tuple(notes)


def _left_out(case: LatentCase) -> list[str]:
    """Sentences on latents that are no part of the table."""
    kinds = case.layout.sites.values()
    shared = [site.name for site in kinds if site.scope == "global"]
    discrete = [s.name for s in kinds if s.scope != "global" and s.kind in ("discrete", "enumerated")]
    found = []
    if shared:
        found.append(
            f"{', '.join(shared)} is shared by all data: what is said is of the latents of every datum"
        )
    if discrete:
        found.append(f"{', '.join(discrete)} is discrete and is left out of the dimensions")
    return found
