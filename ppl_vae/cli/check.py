"""The command that says whether a fit can be trusted."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ppl_vae.base.errors import InputError
from ppl_vae.cli.common import JSON, Quiet, print_json, rows_slice, say_complaints
from ppl_vae.cli.generated import with_options

__all__ = ["check"]

# Seconds of a check's budget that writing its page takes, and the most of the budget.
PAGE, PAGE_SHARE = 5.0, 0.08


@with_options("check")
def check(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="RUN|MODEL|FILE.py:MODEL", help="A fitted run; a model of the suite or FILE.py:CLASS, to fit first; or a Pyro model of your own.")],
    other: Annotated[str | None, typer.Argument(metavar="DATA|FILE.py:GUIDE", help="The model's data set or file; or your guide, or mean-field, low-rank or full-rank for one of Pyro's.")] = None,
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
    from ppl_vae.base.files import told_later
    from ppl_vae.base.options import from_shell
    from ppl_vae.cli.tables import console, say_check, say_path, say_rest
    from ppl_vae.diagnostics.verdict.check import Check
    from ppl_vae.program.user_program import is_class, is_program, load_program
    from ppl_vae.report.parts.check import write_check
    from ppl_vae.runs import check_jobs
    from ppl_vae.runs.run import Run
    from ppl_vae.runs.summary import write_report

    options, complaints = from_shell(check_jobs.CheckedOptions, asked), list[InputError]()
    seed, calibrate, steps, lr = options.seed, options.calibrate, options.steps, options.lr
    seconds = seconds_of(options.budget)
    clock = Clock(seconds, context.obj or time.perf_counter(), min(PAGE, PAGE_SHARE * seconds))
    stood: list[Check] = []

    def tell(stands: Check) -> None:
        stood.append(stands)
        say_check(console(), stands, final=False)

    write_page: Callable[[], Path]
    if is_program(what) and not is_class(what):
        if other is None or not data:
            raise InputError(
                "a model of your own needs a guide and --data: FILE.py:MODEL FILE.py:GUIDE --data x.csv"
            )
        folder = out or Path("check")
        functions = load_program(identifiable) if identifiable else None
        found = check_jobs.check_programs(
            what, other, data, folder, identifiable=functions, steps=steps, lr=lr, rows=rows_slice(rows),
            budget=clock, calibrate=calibrate, seed=seed or 0, callback=None if json_ else tell, progress=not quiet,
            complaints=complaints,
        )  # fmt: skip
        write_page = partial(
            write_check, found, folder / "report.html", title=what.rpartition(":")[2],
            identifiable=functions, seed=seed or 0,
        )  # fmt: skip
    else:
        if data or identifiable:
            raise InputError("--data and --identifiable belong to models of your own (FILE.py:MODEL)")
        folder = Path(what)
        if other is not None:
            folder = out or Path("check")
            check_jobs.fit_for_check(
                what, other, folder, steps=steps, lr=lr, budget=clock, seed=seed or 0,
                progress=not quiet,
            )  # fmt: skip
        opened = Run.open(folder)
        found = check_jobs.check_run(
            opened, split=options.split, rows=rows_slice(rows), budget=clock, calibrate=calibrate, seed=seed,
            callback=None if json_ else tell, progress=not quiet, complaints=complaints,
        )  # fmt: skip
        write_page = partial(write_report, [opened], folder / "report.html", title=folder.resolve().name)
    if not json_:
        say_rest(console(), stood[-1], found)
    result = check_jobs.check_json(found)
    # The page shows what the folder holds.
    with told_later(complaints):
        if not complaints:
            result["report"] = str(write_page())
    if json_:
        print_json(result)
    say_complaints(complaints)
    if not json_:
        say_path(console(), "Report", result["report"])
