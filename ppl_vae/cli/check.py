"""The command that says whether a fit can be trusted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.base.errors import InputError
from ppl_vae.cli.common import JSON, Quiet, print_json, rows_slice, say_complaints
from ppl_vae.cli.generated import with_options

if TYPE_CHECKING:
    from ppl_vae.base.clock import Clock
    from ppl_vae.diagnostics.verdict.check import Check
    from ppl_vae.runs.check_jobs import CheckedOptions

__all__ = ["check"]

# Seconds of a check's budget that writing its page takes, and the most of the budget.
PAGE, PAGE_SHARE = 5.0, 0.08


@with_options("check")
def check(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="RUN|MODEL|FILE.py:MODEL", help="A fitted run; a model of the suite or FILE.py:CLASS, to fit first; or a Pyro model of your own.")],
    other: Annotated[str | None, typer.Argument(metavar="DATA|FILE.py:GUIDE", help="The model's data set or file; or your guide, or a family's name: mean-field, block, low-rank, structured, sparse, full-rank, flow, spline-flow, mixture.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="With your own model: files of its arguments (.csv, .npy, .npz, .nc, .parquet), each with a --data of its own, or one whose columns have their names.")] = None,
    identifiable: Annotated[str | None, typer.Option(metavar="FILE.py:NAME", help="With your own model: a function from a data set of draws to the quantities to compare. (default: the latents)")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for what is found, and report.html. (default: the run's, or check)")] = None,
    rows: Annotated[str | None, typer.Option(help="Rows whose posteriors are compared, as FIRST:LAST; models with a latent per row only. (default: 0:8)")] = None,
    quiet: Quiet = False,
    json_: JSON = False,
    *,
    asked: Mapping[str, Any],
) -> None:  # fmt: skip
    """Can this fit be trusted? Fit or load, make every check that the budget allows, and say."""
    from ppl_vae.base.clock import Clock, seconds_of
    from ppl_vae.base.files import collected_errors
    from ppl_vae.base.options import from_shell
    from ppl_vae.cli.tables import console, say_check, say_path, say_rest
    from ppl_vae.program.user_program import is_class, is_program
    from ppl_vae.runs import check_jobs

    options, complaints = from_shell(check_jobs.CheckedOptions, asked), list[InputError]()
    seconds = seconds_of(options.budget)
    clock = Clock(seconds, context.obj or time.perf_counter(), min(PAGE, PAGE_SHARE * seconds))
    stood: list[Check] = []

    def callback(stands: "Check") -> None:
        stood.append(stands)
        say_check(console(), stands, final=False)

    shared = _Shared(options, clock, rows_slice(rows), None if json_ else callback, complaints, not quiet)
    if is_program(what) and not is_class(what):
        found, write_page = _own_programs(what, other, data, identifiable, out, shared)
    elif data or identifiable:
        raise InputError("--data and --identifiable belong to models of your own (FILE.py:MODEL)")
    else:
        found, write_page = _of_the_suite(what, other, out, shared)
    if not json_:
        say_rest(console(), stood[-1], found)
    result = check_jobs.check_json(found)
    # The page shows what the folder holds.
    with collected_errors(complaints):
        if not complaints:
            result["report"] = str(write_page())
    if json_:
        print_json(result)
    say_complaints(complaints)
    if not json_:
        say_path(console(), "Report", result["report"])


@dataclass(frozen=True)
class _Shared:
    """What a check is asked for, whatever it is of."""

    options: "CheckedOptions"
    budget: "Clock"
    rows: slice | None
    callback: "Callable[[Check], None] | None"
    complaints: list[InputError]
    progress: bool


def _own_programs(
    model: str,
    guide: str | None,
    data: list[str] | None,
    identifiable: str | None,
    out: Path | None,
    shared: _Shared,
) -> "tuple[Check, Callable[[], Path]]":
    """A user's own pair, checked, and what writes its page."""
    from ppl_vae.program.user_program import load_program
    from ppl_vae.report.parts.check import write_check
    from ppl_vae.runs.check_jobs import check_programs

    if guide is None or not data:
        raise InputError(
            "a model of your own needs a guide and --data: FILE.py:MODEL FILE.py:GUIDE --data x.csv"
        )
    folder, options = out or Path("check"), shared.options
    functions = load_program(identifiable) if identifiable else None
    found = check_programs(
        model, guide, data, folder, identifiable=functions, method=options.method, steps=options.steps, lr=options.lr,
        rows=shared.rows, budget=shared.budget, calibrate=options.calibrate, seed=options.seed or 0,
        callback=shared.callback, progress=shared.progress, complaints=shared.complaints,
    )  # fmt: skip
    title = model.rpartition(":")[2]
    page = folder / "report.html"
    return found, partial(
        write_check, found, page, title=title, identifiable=functions, seed=options.seed or 0
    )


def _of_the_suite(
    what: str, data: str | None, out: Path | None, shared: _Shared
) -> "tuple[Check, Callable[[], Path]]":
    """A run, or a model of the suite that is fitted first, checked, and what writes its page."""
    from ppl_vae.runs.check_jobs import check_run, fit_for_check
    from ppl_vae.runs.run import Run
    from ppl_vae.runs.summary import write_report

    folder, options = Path(what), shared.options
    if data is not None:
        folder = out or Path("check")
        fit_for_check(
            what, data, folder, method=options.method, steps=options.steps, lr=options.lr, budget=shared.budget,
            seed=options.seed or 0, progress=shared.progress,
        )  # fmt: skip
    run = Run.open(folder)
    found = check_run(
        run, split=options.split, rows=shared.rows, budget=shared.budget, calibrate=options.calibrate,
        seed=options.seed, callback=shared.callback, progress=shared.progress, complaints=shared.complaints,
    )  # fmt: skip
    return found, partial(write_report, [run], folder / "report.html", title=folder.resolve().name)
