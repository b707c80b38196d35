"""The quantities in which answers are set beside a reference: what data determine, and what a model shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.comparison.compare import Comparison, Identifiable, compare
from ppl_vae.diagnostics.comparison.symmetries import sampled_entries
from ppl_vae.program.abilities import HasIdentifiable, HasReported
from ppl_vae.program.pair import Program

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Quantities", "beside"]

# Quantities that are compared, of models with more.
MOST = 500


class Quantities:
    """Functions of the draws that are compared.

    Args:
        model: its identifiable functions, and those that its pictures and tables show.
        identifiable: a caller's own functions, which then are all.
        local: whether every row has latents of its own; rows keep their dimension, since they are compared
            one by one.

    Attributes:
        functions: from a data set of draws to another; None for the latents as they are.
    """

    def __init__(self, model: Program, identifiable: Identifiable | None, *, local: bool) -> None:
        self.identifiable = identifiable
        self.shown: Identifiable | None = None
        if identifiable is None and isinstance(model, HasIdentifiable):
            self.identifiable = model.identifiable
            self.shown = model.reported if isinstance(model, HasReported) else None
        both = self._both if self.shown is not None else self.identifiable
        self.functions: Identifiable | None = both if local else sampled_entries(both, MOST)

    def _both(self, draws: xr.Dataset) -> xr.Dataset:
        assert self.identifiable is not None
        assert self.shown is not None
        return self.identifiable(draws).merge(self.shown(draws))

    def names(self, answer: Posterior) -> tuple[str, ...]:
        """The variables that are compared."""
        draws = answer.draws.isel(chain=[0], draw=[0])
        found = draws if self.functions is None else self.functions(draws)
        return tuple(str(name) for name in found.data_vars)

    def only_shown(self, names: Sequence[str], answer: Posterior) -> bool:
        """Whether all of these variables are shown, and none of them is one that data determine."""
        if self.shown is None or not names:
            return False
        return {*names} <= {
            str(name) for name in self.shown(answer.draws.isel(chain=[0], draw=[0])).data_vars
        }


def beside(answers: Mapping[str, Posterior], reference: Posterior, quantities: Quantities) -> Comparison:
    """Answers beside a reference, and the reference judged: the one way in which `compare` and `check` do it.

    Args:
        answers: by name.
        reference: exact, given, or chains; `Comparison.reference_ok` says whether it may serve as one.
        quantities: of the model.
    """
    return compare(answers, reference=reference, identifiable=quantities.functions)
