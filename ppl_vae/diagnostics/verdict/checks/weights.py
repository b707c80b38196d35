"""Importance weights of the guide, and log p(x) by them."""

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.diagnostics.verdict.case import Case, Found, skipped
from ppl_vae.diagnostics.verdict.findings import say_fewer, say_weights
from ppl_vae.diagnostics.verdict.pace import WEIGHTS_SHARE, affordable
from ppl_vae.diagnostics.verdict.rule import Finding
from ppl_vae.inference.evidence import importance

__all__ = ["weights"]

SEED = 1
# Rows whose importance weights are looked at.
WEIGHED_ROWS = 100
# Samples behind the weights, of one unit and of several: fewer where one takes long, or very many numbers.
SAMPLES, SAMPLES_A_ROW, MOST_EVALUATED = (10_000, 1000, 100), (2000, 500, 100), 2e8


def weights(case: Case) -> Found:
    """Whether they are sound: by k̂ and effective samples."""
    stage("check: importance weights", show=case.options.progress)
    layout, index = case.layout, _weighed(case)
    units = layout.num_units if index is None else len(index)
    sizes = SAMPLES if units == 1 else SAMPLES_A_ROW
    try:
        allowed = WEIGHTS_SHARE * case.clock.left
        size, cut = affordable(case.problem.rows(index), sizes, allowed, case.options.seed)
        size = int(min(size, max(sizes[-1], MOST_EVALUATED / (layout.event_size * units))))
        found = importance.log_evidence(
            case.pair, *case.data, num_samples=size, improper=bool(layout.improper), index=index,
            seed=case.seed(SEED), progress=False,
        )  # fmt: skip
    except InputError as error:  # a tempered model's weights, for one
        return Found(skipped("weights", str(error), cut=False))
    status, said = say_weights(found, case.rule.alarming)
    fewer = f"; {say_fewer(size, sizes[0], layout)}" if cut else ""
    return Found(
        Finding("weights", status, said + fewer, cut=cut),
        measures={
            "alarming": float(found.alarming.mean()),
            "pareto_k": float(found.pareto_k.max()),
            "ess": float(found.ess.min()) / found.num_samples,
        },
        # Under a flat prior log p(x) is not defined, but for the comparison of weights.
        answers={} if layout.improper else {"is": found},
        notes={"weighed": found},
    )


def _weighed(case: Case) -> Tensor | None:
    """The rows whose weights are looked at; None for everything."""
    layout, index = case.layout, case.index
    if layout.unit_plate and layout.can_index and layout.num_units > WEIGHED_ROWS:
        spread = np.linspace(0, layout.num_units - 1, WEIGHED_ROWS).round().astype(int)
        return torch.tensor(np.union1d(spread, [] if index is None else index.numpy()).astype(int))
    return None if layout.unit_plate else index
