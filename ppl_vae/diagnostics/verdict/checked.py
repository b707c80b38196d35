"""What of a pair is checked: which rows, and which programs have no posterior that can be."""

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.wording import in_words
from ppl_vae.program.defined import require_all_data
from ppl_vae.program.layout import Layout
from ppl_vae.program.problem import Problem, check_index

__all__ = ["ROWS", "refuse_unchecked", "rows_compared"]

# Rows whose posterior is compared with a reference, where every row has its own.
ROWS = 8


def refuse_unchecked(layout: Layout) -> None:
    """What has no posterior that can be checked.

    Raises:
        InputError: for programs that take a part of their data, and guides that draw discrete latents.
    """
    require_all_data(layout)
    if layout.discrete:
        raise InputError(
            f"the guide draws the discrete site {in_words(layout.discrete)}, whose values that it never "
            "draws leave no trace in any check: leave it out of the guide, and mark it in the model with "
            "infer={'enumerate': 'parallel'} (pyro.infer.config_enumerate), so that it is summed out"
        )


def rows_compared(problem: Problem, rows: Tensor | None) -> Problem:
    """The rows whose posteriors are compared, or everything.

    Raises:
        InputError: for rows where the model has none of its own, or that cannot be taken.
    """
    layout = problem.layout
    if layout.unit_plate is None:
        if rows is not None:
            raise InputError("rows belong to models with latents of every row; this one has none")
        return problem
    splits = all(isinstance(v, Tensor) and v.dim() and len(v) == layout.num_units for v in problem.data)
    if not (layout.can_index and splits):
        if rows is not None:
            raise InputError(
                "rows cannot be taken of these data: not all of them, or the programs, go by rows"
            )
        return problem
    check_index(rows, layout.num_units)
    return problem.rows(torch.arange(min(ROWS, layout.num_units)) if rows is None else rows)
