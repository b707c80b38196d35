"""What the commands do with a run: fit it, compare it, and take its gap apart."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import pandas as pd
import torch
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.foreign import foreign_draws
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import collected_errors, read_json, write_json
from ppl_vae.base.plain import plain
from ppl_vae.base.progress import stage
from ppl_vae.base.seeds import derived
from ppl_vae.base.wording import rows_option
from ppl_vae.diagnostics.comparison.alternatives import Response, alternatives
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.comparison.quantities import Quantities, beside
from ppl_vae.diagnostics.latents.gaps import Gaps, gaps
from ppl_vae.engine.graph import Compile
from ppl_vae.guides.per_datum import PerDatum
from ppl_vae.inference.evidence import annealing, importance
from ppl_vae.inference.fitting.fit_result import NAMES
from ppl_vae.inference.fitting.linear_response import lacks_covariances
from ppl_vae.inference.samplers import exact, guide, nuts
from ppl_vae.inference.samplers.nuts import Mass, Sampler
from ppl_vae.program.abilities import ChecksData, ExactEvidence, ExactPosterior, HasIdentifiable
from ppl_vae.program.layout import Layout
from ppl_vae.program.problem import Problem
from ppl_vae.report.figures.common import write_figure
from ppl_vae.report.figures.gap import gap_bars
from ppl_vae.runs.run import Run

__all__ = [
    "check_guide",
    "chosen_rows",
    "compare_run",
    "gaps_of_run",
    "part_of",
    "part_problem",
    "row_numbers",
]

MAX_ROWS = 8
# Rows of a gap analysis.
GAP_ROWS = 100
# The mass matrix that follows correlations, where a sampler has one.
MASS: Mapping[str, Mass] = {"nutpie": "low-rank", "pyro": "dense"}


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """The options of a run's reference. Values out of range raise `InputError`, naming the shell's option.

    Attributes:
        chains: chains of NUTS (default: 4, or 64 of hmc)
        draws: draws kept a chain.
        warmup: warm-up steps a chain (default: 500, or 150 of hmc)
        sampler: nutpie, pyro (Pyro's own NUTS) or hmc (many chains in one batch).
        compile: auto (by the size of the work), on, or off for stock Pyro.
    """

    chains: int | None = None
    draws: int = 500
    warmup: int | None = None
    sampler: str = "nutpie"
    compile: Compile = "auto"

    def keywords(self) -> "ReferenceKeywords":
        """The options as `compare_run` takes them."""
        return cast(ReferenceKeywords, asdict(self))

    def __post_init__(self) -> None:
        for name, least in (("draws", 4), ("warmup", 1), ("chains", 1)):
            count = getattr(self, name)
            if count is not None and count < least:
                raise InputError(f"--{name} is {count}; it must be at least {least}")
        if self.sampler not in ("nutpie", "pyro", "hmc"):
            raise InputError(f"--sampler is {self.sampler!r}; it is nutpie, pyro or hmc")


class ReferenceKeywords(TypedDict, total=False):
    """The fields of `ReferenceOptions` as keywords; a test holds the two equal."""

    chains: int | None
    draws: int
    warmup: int | None
    sampler: str
    compile: Compile


def compare_run(
    run: Run,
    *,
    against: str = "nuts",
    guides: Sequence[str] = (),
    split: str | None = None,
    rows: slice | None = None,
    seed: int | None = None,
    progress: bool = True,
    complaints: list[InputError] | None = None,
    **options: Unpack[ReferenceKeywords],
) -> tuple[Comparison, dict[str, Any]]:
    """Compare a run's variational posterior with NUTS, the exact one or a file's draws, parameters held.

    The guide's draws are compared as they are ("svi") and resampled by their importance weights
    ("reweighted"). For local latents the comparison runs over some rows of one part; for global ones over
    all data.

    Args:
        run: a fitted run.
        against: "nuts", "exact", or a file of draws that Stan, PyMC or NumPyro wrote (`foreign_draws`).
        guides: families of guides to fit and set beside it, with the model's parameters held; see
            `diagnostics.alternatives`. Where there are any and the run's guide is a mean-field normal, linear
            response is one of them.
        split: "train", "validation" or "test"; test where there are test rows, else train.
        rows: which rows of that part, the first eight by default.
        seed: the run's by default.
        progress: whether to show a progress bar on a terminal.
        complaints: see `files.collected_errors`: what could not be written.
        options: the fields of `ReferenceOptions`.

    Raises:
        InputError: if there is no exact posterior, or no such rows.
    """
    file = Path(against) if against not in ("nuts", "exact") else None
    if file is not None and not file.exists():
        raise InputError(f"--against is {against!r}; it is nuts, exact, or a file of draws that exists")
    if against == "exact" and not isinstance(run.model, ExactPosterior):
        raise InputError(f"{run.settings.model} does not know its exact posterior; compare it against nuts")
    asked = ReferenceOptions(**options)
    seed = run.settings.seed if seed is None else seed
    part, index, data = chosen_rows(run, split, rows)
    full = run.tensors(part)
    independent = max(4000, (asked.chains or 4) * asked.draws)
    stage("draws of the guide", show=progress)
    answer = guide.draws(run.pair, *full, num_draws=independent, index=index, seed=seed)
    coords = {} if index is None else {"data": index.tolist()}
    if file is not None:
        reference = foreign_draws(file, like=answer, whole=isinstance(run.model, HasIdentifiable))
    elif against == "exact":
        reference = exact.draws(run.model, *data, num_draws=independent, coords=coords, seed=seed + 1)
    else:
        reference = nuts.sample(
            run.pair,
            *data,
            num_draws=asked.draws,
            warmup=asked.warmup,
            chains=asked.chains,
            sampler=cast(Sampler, asked.sampler),
            # Global latents are few and correlated.
            mass=MASS.get(asked.sampler, "diagonal") if index is None else "diagonal",
            compile=asked.compile,
            coords=coords,
            seed=seed + 1,
            progress=progress,
        )
    answers = {"svi": answer, "reweighted": answer.resampled(derived(seed, 3))}
    if guides:
        stage("other guides", show=progress)
        if lacks_covariances(run.pair.guide):
            guides = tuple(dict.fromkeys((*guides, Response.name)))
        others = alternatives(run.model, *data, guides=guides, seed=derived(seed, 4), progress=progress)
        answers |= {name: other.map(other.draws.assign_coords(coords)) for name, other in others.items()}
    stage("distances", show=progress)
    quantities = Quantities(run.model, None, local=index is not None)
    found = beside(answers, reference, quantities)
    stage("importance weights", show=progress)
    weights = importance.log_evidence(
        run.pair, *full, num_samples=2000, index=index, seed=seed + 2, progress=False
    )
    result = {
        "guide": run.settings.guide,
        "fitted_by": _fitted_by(run),
        **_comparison_json(found, weights, part if index is not None else None, index),
    }
    if run.folder is not None:
        kept = "foreign" if file is not None else against
        with collected_errors(complaints):
            for name, posterior in (("svi", answer), (kept, reference)):
                posterior.save(run.folder / f"posterior-{name}.nc")
            write_json(run.folder / "compare.json", result)
            found.save(run.folder / "comparison.json")
    return found, result


def _fitted_by(run: Run) -> str:
    """The method that fitted a run, as its folder says; what was asked for where it has none."""
    kept = {} if run.folder is None else read_json(run.folder / "fit.json")
    asked = run.settings.fit.method
    return str(kept.get("method") or ("SVI" if asked == "auto" else NAMES[asked]))


def gaps_of_run(
    run: Run,
    *,
    split: str | None = None,
    rows: slice | None = None,
    samples: int = 2000,
    method: str = "ais",
    compile: Compile = "auto",
    seed: int | None = None,
    progress: bool = True,
    complaints: list[InputError] | None = None,
) -> tuple[Gaps, dict[str, Any]]:
    """log p(x) − ELBO of some rows, split into what the family lacks and what the network lacks.

    Args:
        run: a fitted run; where its gap has no parts, the total is given and why. ``gaps.nc``, ``gaps.json``
            and ``gaps.png`` are written.
        split: "train", "validation" or "test"; test where there are test rows, else train.
        rows: which rows of that part, the first hundred by default.
        samples: draws a row behind each ELBO.
        method: of log p(x) where the model does not know it: "ais", or "is" from the best guides.
        compile: "auto", "on" or "off".
        seed: the run's by default.
        progress: whether to show a progress bar on a terminal.
        complaints: see `files.collected_errors`: what could not be written.

    Raises:
        InputError: where log p(x) is not defined.
    """
    part, problem = part_problem(run, split)
    tensors, layout = problem.data, problem.layout
    index = row_numbers(run, layout, rows, part, default=slice(0, GAP_ROWS))
    if method not in ("ais", "is"):
        raise InputError(f"--method is {method!r}; it is ais or is")
    if samples < 2:
        raise InputError(f"--samples is {samples}; it must be at least 2")
    seed = run.settings.seed if seed is None else seed
    evidence = None
    if method == "ais" and index is not None and not isinstance(run.model, ExactEvidence):
        stage("log p(x) by ais", show=progress)
        evidence = annealing.log_evidence(
            run.pair, *tensors, index=index, compile=compile, seed=seed, progress=progress
        )
    stage("the best guides of each row", show=progress)
    found = gaps(
        run.pair,
        *tensors,
        index=index,
        evidence=evidence,
        num_samples=samples,
        seed=seed,
        compile=compile,
        progress=progress,
    )
    result = {
        "split": part,
        "num_units": found.num_units,
        "chosen_rows": rows_option(found.index.tolist(), layout.num_units),
        "num_rows": layout.num_units,
        "family": found.family,
        "amortised": found.amortised,
        "evidence_method": found.evidence_method,
        "rows": found.table.to_dict("records"),
        "notes": list(found.notes),
        "seconds": found.seconds,
    }
    if run.folder is not None:
        with collected_errors(complaints):
            found.save(run.folder / "gaps.nc")
            write_json(run.folder / "gaps.json", result)
            write_figure(run.folder / "gaps.png", gap_bars(found))
    return found, result


def row_numbers(
    run: Run, layout: Layout, rows: slice | None, part: str, *, default: slice | None = None
) -> Tensor | None:
    """The numbers of the rows that were asked for; None for all of them, and where there are no rows.

    Raises:
        InputError: if there are none of these numbers, or no rows.
    """
    if layout.unit_plate is None:
        if rows is not None:
            raise InputError(f"--rows belongs to models with a latent per row; {run.settings.model} has none")
        return None
    rows = default if rows is None else rows
    if rows is None:
        return None
    chosen = torch.arange(layout.num_units)[rows]
    if not len(chosen):
        raise InputError(f"--rows chooses none of the {layout.num_units} {part} rows")
    return chosen


def chosen_rows(
    run: Run, split: str | None, rows: slice | None
) -> tuple[str, Tensor | None, tuple[Tensor, ...]]:
    """The part, the rows of it, and the model's data for these rows alone."""
    part, problem = part_problem(run, split)
    index = row_numbers(run, problem.layout, rows, part, default=slice(0, MAX_ROWS))
    if index is None:
        return part, None, problem.data
    return part, index, tuple(values[index.to(values.device)] for values in problem.data)


def part_problem(run: Run, split: str | None) -> tuple[str, Problem]:
    """The name of a part, and the run's pair on its data, which the guide can take."""
    part = part_of(run, split)
    data = run.tensors(part)
    check_guide(run, data)
    return part, Problem.of(run.pair, *data)


def part_of(run: Run, split: str | None) -> str:
    """The name of a run's part; by default test rows where there are any that the guide can take.

    Raises:
        InputError: for a part that the run does not have.
    """
    if split is None:
        split = (
            "test" if len(run.parts.get("test", ())) and not isinstance(run.pair.guide, PerDatum) else "train"
        )
    if split not in ("train", "validation", "test"):
        raise InputError(f"--split is {split!r}; it is train, validation or test")
    run.tensors(split)
    return split


def check_guide(run: Run, data: tuple[Tensor, ...]) -> None:
    """Refuse data that the guide cannot take.

    Raises:
        InputError: as the guide says it.
    """
    if isinstance(run.pair.guide, ChecksData):
        run.pair.guide.check_data(*data)


def _comparison_json(
    found: Comparison, weights: Evidence, part: str | None, index: Tensor | None
) -> dict[str, Any]:
    columns = {
        "name": "name",
        "mean": "mean_svi",
        "mean_reference": "mean_reference",
        "sd": "sd_svi",
        "sd_reference": "sd_reference",
        "mean_error_in_sd": "mean_error_in_sd",
        "mean_error_mcse": "mean_error_mcse",
        "sd_ratio": "sd_ratio",
        "wasserstein": "wasserstein",
        "mcse": "mcse",
    }
    own = found.table[found.table["answer"] == "svi"]
    rows = own[list(columns)].rename(columns=columns).to_dict("records")
    return {
        "reference": found.reference,
        "reference_ok": found.reference_ok,
        "reference_limits": found.limits,
        "split": part,
        "data": None if index is None else index.tolist(),
        "rows": rows,
        "verdict": found.verdicts["svi"],
        "reasons": [str(reason) for reason in found.about("svi")],
        "verdicts": dict(found.verdicts),
        "all_reasons": list(found.reasons),
        "why": [reason.to_json() for reason in found.why],
        "joint": json_records(found.joint),
        "costs": json_records(found.costs),
        "pareto_k": weights.pareto_k.tolist(),
        "ess": weights.ess.tolist(),
        "num_samples": weights.num_samples,
    }


def json_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows; JSON has null for numbers that are none."""
    rows: list[dict[str, Any]] = plain(table.to_dict("records"), infinite=None)
    return rows
