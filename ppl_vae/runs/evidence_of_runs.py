"""log p(x) of several runs on the same data, and how probable that makes their models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.base.plain import plain
from ppl_vae.base.progress import stage
from ppl_vae.diagnostics.comparison.models import model_probabilities
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import is_density
from ppl_vae.runs.evidence_jobs import EvidenceOptions, evidence_of_run
from ppl_vae.runs.jobs import part_of
from ppl_vae.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ModelsFound", "evidence_of_runs"]

# What is a bound, or of other data.
NO_ESTIMATES = {"iwae", "bdmc"}


@dataclass(frozen=True, eq=False)
class ModelsFound:
    """What was found.

    Attributes:
        table: that of `model_probabilities`, a row for each run by its name, with its ``method`` beside.
        notes: what speaks against the probabilities, in sentences.
        result: what ``--json`` prints.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    result: dict[str, Any]


def evidence_of_runs(
    runs: Sequence[Run],
    asked: EvidenceOptions,
    *,
    data: str | None = None,
    split: str | None = None,
    rows: slice | None = None,
    seed: int | None = None,
    resume: bool = False,
    progress: bool = True,
    complaints: list[InputError] | None = None,
) -> ModelsFound:
    """log p(x) of each run, and the probabilities of their models if all are as probable beforehand.

    Of several methods, that one counts which `agreement` believes.

    Args:
        runs: fitted runs, at least two; what is found is saved in the folder of each.
        asked, data, split, rows, seed, resume, progress, complaints: as for `evidence_of_run`.

    Raises:
        InputError: for runs whose data differ, methods that give bounds alone, values that contradict each
            other, and as `evidence_of_run` does.
    """
    names = _names(runs)
    if {*asked.methods} <= NO_ESTIMATES:
        raise InputError(
            f"--method {','.join(asked.methods)} bounds log p(x), by which models are not compared"
        )
    part = part_of(runs[0], split)
    tensors = [run.tensors(part) if data is None else run.other_tensors(data) for run in runs]
    _check_same(names, runs, tensors)
    values: dict[str, Evidence] = {}
    for name, run in zip(names, runs, strict=True):
        stage(name, show=progress)
        found = evidence_of_run(
            run, asked, data=data, split=part, rows=rows, seed=seed, resume=resume, progress=progress,
            complaints=complaints,
        )  # fmt: skip
        best = None if found.judged is None else found.judged.best
        if best is None and len(found.values) > 1:
            assert found.judged is not None
            raise InputError(f"the values of log p(x) of {name} contradict each other: {found.judged.reason}")
        values[name] = found.values[best or next(iter(found.values))]
    table = model_probabilities(values, seed=runs[0].settings.seed if seed is None else seed)
    table.insert(0, "method", [each.method for each in values.values()])
    notes = (*_doubts(values), *_learnt(names, runs, part if data is None else data))
    result = {
        "data": part if data is None else data,
        "num_units": next(iter(values.values())).num_units,
        "runs": plain(table.reset_index(names="run").to_dict("records"), infinite=None),
        "notes": list(notes),
    }
    return ModelsFound(table, notes, result)


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest ends of the folders' paths that tell the runs apart.

    Raises:
        InputError: for a run that is given twice.
    """
    paths = [run.folder.resolve() for run in runs if run.folder is not None]
    if len({*paths}) < len(paths):
        raise InputError("a run is given twice; models are compared between different runs")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len({*names}) == len(names):
            break
    return names


def _check_same(names: Sequence[str], runs: Sequence[Run], data: Sequence[tuple[Tensor, ...]]) -> None:
    """Refuse runs on other data, other units of them, or masses beside densities.

    Raises:
        InputError: naming two runs and what differs.
    """
    problems = [Problem.of(run.pair, *own) for run, own in zip(runs, data, strict=True)]
    density = [is_density(problem) for problem in problems]
    weighted = [bool(problem.layout.weighted) for problem in problems]
    for a, b in pairwise(range(len(runs))):
        if weighted[a] != weighted[b]:
            alone, other = (names[a], names[b]) if weighted[a] else (names[b], names[a])
            raise InputError(
                f"{alone} weights its likelihood and {other} does not: these are not of the same data"
            )
        if why := _differing(runs[a], data[a], density[a], runs[b], data[b], density[b]):
            raise InputError(f"{names[a]} and {names[b]} are not of the same data: {why}")


def _differing(
    one: Run, own: tuple[Tensor, ...], density: bool, two: Run, other: tuple[Tensor, ...], dense: bool
) -> str:
    """What differs between the data of two runs, in words; "" where nothing does."""
    if len(own) != len(other):
        return f"{one.settings.model} takes {len(own)} arguments and {two.settings.model} {len(other)}"
    for a, b in zip(own, other, strict=True):
        if a.shape != b.shape:
            return f"their shapes are {tuple(a.shape)} and {tuple(b.shape)}"
    if not all(_equal(a, b) for a, b in zip(own, other, strict=True)):
        for name in ("standardize", "binarize", "dequantize"):
            ways = [getattr(run.settings.preparation, name) for run in (one, two)]
            if ways[0] != ways[1]:
                return f"{name} is {ways[0]} and {ways[1]}"
        return "their values differ (another data set, split or seed)"
    return "" if density == dense else "one model has densities of real numbers, the other probabilities"


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether the values are the same, in the shorter of two precisions."""
    if a.dtype != b.dtype and a.is_floating_point() and b.is_floating_point():
        a, b = a.float(), b.float()
    a, b = a.cpu(), b.cpu()
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _doubts(values: dict[str, Evidence]) -> list[str]:
    """Estimates whose own diagnostics alarm."""
    return [
        f"log p(x) of {name} cannot be trusted: its weights alarm in {alarms} of {found.num_units} unit"
        f"{'s' * (found.num_units > 1)} (try --method ais, or bridge for latents that all data share)"
        for name, found in values.items()
        if (alarms := int(found.alarming.sum()))
    ]


def _learnt(names: Sequence[str], runs: Sequence[Run], data: str) -> list[str]:
    """Models whose parameters were fitted to the very data, for which nothing is deducted."""
    if data != "train":
        return []
    fitted = [name for name, run in zip(names, runs, strict=True) if _learns(run)]
    if not fitted:
        return []
    return [
        f"log p(x) of {', '.join(fitted)} is at parameters that were learnt from these rows, and is the "
        "higher the more of them there are: compare such models on test rows (fit with --split, then "
        "--split test)"
    ]


def _learns(run: Run) -> bool:
    both, guide = run.pair.parameters("both"), run.pair.parameters("guide")
    return run.settings.fit.train == "both" and len(both) > len(guide)
