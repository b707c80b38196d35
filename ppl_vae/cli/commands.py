"""The commands that ask a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.base.errors import InputError
from ppl_vae.cli.common import (
    JSON,
    Compiled,
    Quiet,
    RunFolder,
    RunFolders,
    Seed,
    Split,
    compile_word,
    print_json,
    rows_slice,
    say_complaints,
)
from ppl_vae.cli.generated import with_options

if TYPE_CHECKING:
    from ppl_vae.runs.evidence_of_runs import ModelsFound

__all__ = ["compare", "demo", "evidence", "export", "gaps", "report"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and report.html.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps and draws: a minute at most.")] = False,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:
    """The main job on embedded real data: three models fitted, compared and reported."""
    from ppl_vae.cli.demo import run_demo

    result = run_demo(out, quick=quick, seed=seed or 0, show=not json_, progress=not quiet)
    if json_:
        print_json(result)


@with_options("compare")
def compare(
    run: RunFolder,
    against: Annotated[str, typer.Option(help="nuts, exact, or a file of draws: NetCDF that ArviZ wrote for Stan, PyMC or NumPyro, or CmdStan's .csv.")] = "nuts",
    guides: Annotated[str | None, typer.Option(help="Other guides to fit and set beside the run's: mean-field, block, low-rank, structured, sparse, full-rank, flow, spline-flow, mixture, laplace, ep (expectation propagation), markov and sparse-precision (these three of skills), linear-response (which comes by itself where the run's is mean-field), with commas between. (default: none)")] = None,
    split: Split = None,
    rows: Annotated[str | None, typer.Option(help="Rows of that split, as FIRST:LAST; models with a latent per row only. (default: 0:8)")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
    *,
    asked: Mapping[str, Any],
) -> None:  # fmt: skip
    """Compare a run's variational posterior with NUTS, the exact posterior, or draws in a file."""
    from ppl_vae.base.options import from_shell
    from ppl_vae.runs.jobs import ReferenceOptions, compare_run
    from ppl_vae.runs.run import Run

    options, complaints = from_shell(ReferenceOptions, asked), list[InputError]()
    found, result = compare_run(
        Run.open(run), against=against, split=split, rows=rows_slice(rows),
        guides=[name.strip() for name in guides.split(",")] if guides else (),
        seed=seed, progress=not quiet, complaints=complaints, **options.keywords(),
    )  # fmt: skip
    if json_:
        print_json(result)
        say_complaints(complaints)
        return
    from ppl_vae.base.names import answer_label
    from ppl_vae.cli.tables import answers_table, comparison_table, console, sentences, styled

    out = console()
    fitted = f"the {result['guide']} guide, fitted by {result['fitted_by']},"
    title = f"{run.name}: {fitted} against {answer_label(found.reference)}"
    out.print(comparison_table(found, title, width=out.width))
    out.print(answers_table(found, width=out.width))
    out.print("Verdict:", styled(f"{result['verdict']}."), *sentences(found.about("svi")))
    say_complaints(complaints)


@with_options("evidence")
def evidence(
    runs: RunFolders,
    method: Annotated[str, typer.Option(help="One or several of exact, is (importance sampling from the guide), defensive (mixed with the prior), prior (simple Monte Carlo), iwae (bound), ais (annealed), bridge (NUTS against the guide), bdmc (bounds from both sides on simulated data), with commas between; or all that apply.")] = "is",
    data: Annotated[str | None, typer.Option(help="Another data set or file. (default: the run's)")] = None,
    split: Split = None,
    rows: Annotated[str | None, typer.Option(help="Rows of that split, as FIRST:LAST; models with a latent per row only. (default: all, or 0:100 with --method all)")] = None,
    worst: Annotated[int, typer.Option(help="How many of the worst-fitted rows to show.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted estimate: is, defensive, prior, ais.")] = False,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
    *,
    asked: Mapping[str, Any],
) -> None:  # fmt: skip
    """Estimate log p(x) of a run's data, with its standard error and diagnostics, in one way or in several.

    Of several runs on the same data, it says how probable log p(x) makes each model beside the others, such as
    mixtures of two, three and four components.
    """
    from ppl_vae.base.options import from_shell
    from ppl_vae.runs.evidence_jobs import EvidenceOptions, evidence_of_run
    from ppl_vae.runs.evidence_of_runs import evidence_of_runs
    from ppl_vae.runs.run import Run

    methods = tuple(name.strip() for name in method.split(","))
    if asked.get("defensive") and methods == ("is",):
        methods = ("defensive",)
    options = from_shell(EvidenceOptions, {**asked, "methods": methods})
    complaints = list[InputError]()
    if len(runs) > 1:
        if worst:
            raise InputError("--worst belongs to a single run")
        several = evidence_of_runs(
            [Run.open(run) for run in runs], options, data=data, split=split, rows=rows_slice(rows), seed=seed,
            resume=resume, progress=not quiet, complaints=complaints,
        )  # fmt: skip
        _say_runs(several, complaints, json_)
        return
    run = runs[0]
    found = evidence_of_run(
        Run.open(run), options, data=data, split=split, rows=rows_slice(rows), worst=worst, seed=seed, resume=resume,
        progress=not quiet, complaints=complaints,
    )  # fmt: skip
    if json_:
        print_json(found.result)
        say_complaints(complaints)
        return
    from ppl_vae.cli.tables import console, say_evidence_found

    say_evidence_found(console(), run.name, found)
    say_complaints(complaints)


def _say_runs(found: "ModelsFound", complaints: list[InputError], as_json: bool) -> None:
    if as_json:
        print_json(found.result)
    else:
        from ppl_vae.cli.tables import console, say_models_found

        say_models_found(console(), found)
    say_complaints(complaints)


def gaps(
    run: RunFolder,
    split: Split = None,
    rows: Annotated[
        str | None, typer.Option(help="Rows of that split, as FIRST:LAST. (default: 0:100)")
    ] = None,
    samples: Annotated[int, typer.Option(help="Draws a row behind each ELBO.")] = 2000,
    method: Annotated[
        str,
        typer.Option(
            help="ais (annealed) or is (from the best guides): log p(x), where the model does not know it."
        ),
    ] = "ais",
    compile_: Compiled = "auto",
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:
    """Split log p(x) − ELBO into what the guide's family lacks and what its network lacks."""
    from ppl_vae.runs.jobs import gaps_of_run
    from ppl_vae.runs.run import Run

    complaints: list[InputError] = []
    found, result = gaps_of_run(
        Run.open(run), split=split, rows=rows_slice(rows), samples=samples, method=method, compile=compile_word(compile_),
        seed=seed, progress=not quiet, complaints=complaints,
    )  # fmt: skip
    if json_:
        print_json(result)
        say_complaints(complaints)
        return
    from ppl_vae.cli.tables import console, gaps_table, say_path

    out = console()
    title = f"{run.name}: the gap between the ELBO and log p(x)"
    out.print(gaps_table(found, title, part=result["split"], num_rows=result["num_rows"]))
    for note in found.notes:
        out.print(f"Note: {note}.")
    say_complaints(complaints)
    say_path(out, "Picture", run / "gaps.png")


def export(
    run: RunFolder,
    what: Annotated[str, typer.Option(help="codes (mean and sd of every latent of a row), draws (of the guide, with their weights), samples (of the model), reconstructions (E[x | z] at the mean of z), imputed (the data without gaps, and the sd of what was filled in), log-evidence (of every row); of games: leaderboard, win-probability (of every pair of players) or curves (of skill over time).")],
    out: Annotated[Path, typer.Option(help="FILE.csv, FILE.npz or FILE.nc.")],
    split: Split = None,
    rows: Annotated[str | None, typer.Option(help="Rows of that split, as FIRST:LAST; models with a latent per row only. (default: all)")] = None,
    draws: Annotated[int, typer.Option(help="Draws of the guide, a row.")] = 1000,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Write codes, draws, samples, reconstructions, imputed values, log p(x) or a leaderboard into a file."""
    from ppl_vae.base.progress import stage
    from ppl_vae.runs.export_files import check_ending, write
    from ppl_vae.runs.exports import export as exported
    from ppl_vae.runs.run import Run

    check_ending(out)
    opened = Run.open(run)
    stage(what, show=not quiet)
    found = exported(opened, what, split=split, rows=rows_slice(rows), num_draws=draws, seed=seed)
    path = write(found, out)
    print_json({"out": str(path), "sizes": dict(found.sizes)}) if json_ else print(path)


def report(run: RunFolder, quiet: Quiet = False, json_: JSON = False) -> None:
    """Write a run's report.html: one self-contained file."""
    from ppl_vae.base.progress import stage
    from ppl_vae.runs.run import Run
    from ppl_vae.runs.summary import write_report

    opened = Run.open(run)
    stage("the page", show=not quiet)
    path = write_report([opened], run / "report.html", title=run.resolve().name)
    print_json({"report": str(path)}) if json_ else print(path)
