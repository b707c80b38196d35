"""What there is to say about the gap between the ELBO and log p(x): its parts, by unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ppl_vae.base.errors import InputError
from ppl_vae.base.saved import Saved, kept
from ppl_vae.base.wording import with_error

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FAMILIES", "Gap", "Gaps"]

# What each best guide is called; "own" stands for the pair's.
FAMILIES = {"diagonal": "mean-field", "full": "full covariance", "flow": "flow"}
GUIDES = ("own", *FAMILIES)


@dataclass(frozen=True, eq=False, repr=False)
class Gap:
    """A difference in nats by unit, with its standard error; both of shape (units,).

    A true gap is never negative. An estimate that is, by more than its error, says that the search for
    the best guide or the estimate of log p(x) has failed; it is reported as it is.
    """

    value: np.ndarray
    std_error: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over units."""
        return float(self.value.mean())

    def __repr__(self) -> str:
        mean = with_error(self.mean, self.mean_std_error)
        return f"Gap({mean} nats a unit, over {len(self.value):,} units)"

    @property
    def mean_std_error(self) -> float:
        """Monte Carlo standard error of `mean`, for these very units: they are sampled independently."""
        return float(np.sqrt((self.std_error**2).sum())) / len(self.value)


@dataclass(frozen=True, eq=False, repr=False)
class Gaps(Saved):
    """log p(x) and the ELBOs of four guides, by unit, in nats.

    The guides, in this order, are the pair's own and the best for each datum by itself with diagonal
    covariance, with full covariance, and of `PerDatumFlow`. All ELBOs come from the same noise, so that
    their differences are more precise than they are. Where the gap could not be taken apart there is the
    own guide alone, and ``notes`` begin with why.

    Attributes:
        index: numbers of the units.
        family: of the pair's own guide, "diagonal", "full" or "flow"; empty for any other, whose gap has no
            approximation part.
        amortised: whether it shares its parameters between data.
        log_evidence: shape (units,).
        evidence_std_error: its standard error; zero where exact.
        evidence_bias: its estimated bias, −s²/2 for importance sampling.
        evidence_method: how it was got.
        elbo: shape (units, guides): 4, or 1 where there is the own guide alone.
        elbo_covariance: covariance of these estimates, shape (units, guides, guides).
        rested: whether the search for each best guide came to rest, in the order of the guides.
        num_samples: draws a unit behind each ELBO.
        notes: what has to be said about the numbers, in sentences.
        seconds: wall time.
    """

    index: np.ndarray = field(metadata=kept("unit", name="unit"))
    family: str
    amortised: bool
    log_evidence: np.ndarray = field(metadata=kept("unit"))
    evidence_std_error: np.ndarray = field(metadata=kept("unit"))
    evidence_bias: np.ndarray = field(metadata=kept("unit"))
    evidence_method: str
    elbo: np.ndarray = field(metadata=kept("unit", "guide"))
    elbo_covariance: np.ndarray = field(metadata=kept("unit", "guide", "other_guide"))
    rested: tuple[bool, ...]
    num_samples: int
    notes: tuple[str, ...] = ()
    seconds: float = float("nan")

    @property
    def num_units(self) -> int:
        """Number of units."""
        return len(self.log_evidence)

    @property
    def guides(self) -> tuple[str, ...]:
        """The guides that there are: "own", "diagonal", "full" and "flow", or "own" alone."""
        return GUIDES[: self.elbo.shape[1]]

    @property
    def total(self) -> Gap:
        """log p(x) − ELBO of the pair's own guide."""
        return self.gap("own")

    @property
    def approximation(self) -> Gap:
        """log p(x) − ELBO of the best guide of the pair's own family.

        Raises:
            InputError: if the guide is of none (``family`` is empty).
        """
        return self.gap(self._own_family())

    @property
    def amortisation(self) -> Gap:
        """ELBO of the best guide of the family − ELBO of the own guide; see `shortfall`.

        Raises:
            InputError: as `approximation`.
        """
        return self.gain(self._own_family(), "own")

    @property
    def shortfall(self) -> str:
        """What `amortisation` is called: a per-datum guide lacks only optimisation."""
        return "amortisation gap" if self.amortised else "optimisation gap"

    @property
    def best(self) -> Mapping[str, Gap]:
        """log p(x) − ELBO of the best guide of each family that was searched, all of them or none."""
        return {family: self.gap(family) for family in self.guides[1:]}

    def __repr__(self) -> str:
        total, own, rest = (
            with_error(part.mean, part.mean_std_error)
            for part in (self.total, self.approximation, self.amortisation)
        )
        return (
            f"Gaps({self.num_units:,} units: {total} nats a unit = approximation gap {own} "
            f"+ {self.shortfall} {rest})"
        )

    def gap(self, guide: str) -> Gap:
        """log p(x) − ELBO of one guide: "own", "diagonal", "full" or "flow"."""
        at = self._position(guide)
        variance = self.elbo_covariance[:, at, at] + self.evidence_std_error**2
        return Gap(self.log_evidence - self.elbo[:, at], np.sqrt(variance))

    def gain(self, guide: str, other: str) -> Gap:
        """ELBO of one guide less that of another, paired: the noise that they share cancels."""
        a, b = self._position(guide), self._position(other)
        cov = self.elbo_covariance
        variance = cov[:, a, a] + cov[:, b, b] - 2 * cov[:, a, b]
        return Gap(self.elbo[:, a] - self.elbo[:, b], np.sqrt(variance.clip(min=0)))

    def _own_family(self) -> str:
        if not self.family:
            raise InputError(self.notes[0] if self.notes else "the gap was not taken apart")
        return self.family

    def _position(self, guide: str) -> int:
        if guide not in self.guides:
            raise InputError(f"guide {guide!r} is not known; it is one of {', '.join(self.guides)}")
        return self.guides.index(guide)

    @property
    def table(self) -> pd.DataFrame:
        """One row per quantity: mean over units, its standard error, and the units' spread."""
        rows = {"log p(x)": Gap(self.log_evidence, self.evidence_std_error)}
        for at, guide in enumerate(self.guides):
            error = np.sqrt(self.elbo_covariance[:, at, at])
            rows[f"ELBO, {_called(guide)}"] = Gap(self.elbo[:, at], error)
        rows["gap"] = self.total
        if self.family:
            rows["approximation gap"] = self.approximation
            rows[self.shortfall] = self.amortisation
        for family, part in self.best.items():
            rows[f"gap, {_called(family)}"] = part
        return pd.DataFrame(
            [
                {
                    "name": name,
                    "mean": part.mean,
                    "std_error": part.mean_std_error,
                    "min": part.value.min(),
                    "median": np.median(part.value),
                    "max": part.value.max(),
                }
                for name, part in rows.items()
            ]
        )

    def to_dataset(self) -> xr.Dataset:
        """As xarray, with the dimensions ``unit``, ``guide`` and ``other_guide``."""
        data: xr.Dataset = self.to_xarray()
        return data

    def derived(self) -> Mapping[str, Any]:
        """The names of the guides, and the gap's parts where it could be taken apart."""
        guides = list(self.guides)
        found: dict[str, Any] = {"guide": ("guide", guides), "other_guide": ("other_guide", guides)}
        if self.family:
            found["approximation_gap"] = ("unit", self.approximation.value)
            found["amortisation_gap"] = ("unit", self.amortisation.value)
        return found

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Files of 0.1.0 have what `rested` says by another name."""
        return content if "rested" in content else {**content, "rested": content["converged"]}


def _called(guide: str) -> str:
    return "own guide" if guide == "own" else f"best {FAMILIES[guide]}"
