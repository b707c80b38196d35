"""The command line. Importing this module loads no torch: each command imports what it needs."""

import json
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ppl_vae.errors import InputError
from ppl_vae.letters import plain_letters

__all__ = ["app", "main"]

# Seconds of a check's budget that writing its page takes, and the most of the budget.
PAGE, PAGE_SHARE = 5.0, 0.08

app = typer.Typer(
    name="ppl-vae",
    help="Fit a latent-variable model by variational inference, and know how wrong the answer is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr; notes and errors remain.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `ppl-vae fit` made.")]
Compiled = Annotated[
    str, typer.Option("--compile", help="auto (by the size of the work), on, or off for stock Pyro.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random. (default: 0, or the run's)")]
Split = Annotated[
    str | None, typer.Option(help="train, validation or test rows. (default: test where there are any, else train)")
]  # fmt: skip


# How a command that was interrupted goes on.
GO_ON = {
    "fit": "the same command with --resume goes on from its last checkpoint",
    "evidence": "the same command with --resume goes on from its last checkpoint (is, defensive, prior, ais)",
    "check": "what it found is not kept; give --budget a shorter time, or run it again",
}
NOTHING_KEPT = "run it again"


class _Interrupted(BaseException):
    """Ctrl-C, under a name that Typer does not catch and swallow."""


def main() -> None:
    """Run the command line; bad input ends in one sentence on stderr and exit code 2."""
    before = signal.signal(signal.SIGINT, _interrupt)
    plain_letters()
    warnings.showwarning = _note  # type: ignore[assignment]
    try:
        # When the command began: a budget counts from then, imports included.
        app(obj=time.perf_counter())
    except InputError as error:
        _complain(error)
    except BrokenPipeError:
        # Whoever reads the output has gone, as after `| head`; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (Exception, SystemExit) as error:
        _complain(_users_fault(error))
    except _Interrupted:
        command = sys.argv[1] if len(sys.argv) > 1 else ""
        print(f"ppl-vae: `{command}` was interrupted; {GO_ON.get(command, NOTHING_KEPT)}", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)


def _complain(text: object) -> NoReturn:
    print(f"ppl-vae: {text}", file=sys.stderr)
    sys.exit(2)


def _users_fault(error: BaseException) -> object:
    """What to say of an exception that a user's program or the system raised; any other is raised again."""
    program = sys.modules.get("ppl_vae.user_program")
    if program is not None and (line := program.blamed(error)) is not None:
        return line
    if isinstance(error, OSError):
        return error
    if isinstance(error, MemoryError | RuntimeError):
        from ppl_vae.inference.memory import told_shortage

        if (line := told_shortage(error)) is not None:
            return line
    raise error


def _note(message: Warning | str, *_: object) -> None:
    """A warning as one line, without the source line that raised it."""
    print(f"note: {message}", file=sys.stderr)


def _interrupt(_signal: int, _frame: object) -> None:
    raise _Interrupted


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and report.html.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps and draws: a minute at most.")] = False,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:
    """The main job on embedded real data: VAE, PPCA and TrueSkill, fitted, compared and reported."""
    from ppl_vae.demo import run_demo

    result = run_demo(out, quick=quick, seed=seed or 0, show=not json_, progress=not quiet)
    if json_:
        _print_json(result)


@app.command()
def fit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="vae, ppca, bayesian-ppca, trueskill (`ppl-vae models`).")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data set (`ppl-vae datasets`), or a .npy, .npz or .csv file.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    guide: Annotated[str | None, typer.Option(help="Guide, one of the model's. (default: its first (`ppl-vae models`))")] = None,
    steps: Annotated[int | None, typer.Option(help="The most Adam steps; with --no-stop, their number. (default: 20000; 3000)")] = None,
    stop: Annotated[bool | None, typer.Option("--stop/--no-stop", help="End where further steps are expected to gain nothing. (default: on, off with --average)")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training data, instead of --steps. (default: none)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Data a step. (default: 128 (vae), all (others))")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the first step; it falls step by step as the iterates come to rest, with --no-stop to 1 % along a cosine. (default: 0.002 (vae), 0.03 (bayesian-ppca), 0.05 (ppca, trueskill))")] = None,
    particles: Annotated[int | None, typer.Option(help="Draws of the guide a step. (default: 1 (vae, ppca), 4 (bayesian-ppca), 16 (trueskill))")] = None,
    kl_warmup: Annotated[int | None, typer.Option(help="Steps over which the weight β of the KL rises from 0 to 1. (default: 300, or a tenth of the steps with --no-stop (vae), 0 (others))")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest gradient norm, in nats. (default: none)")] = None,
    objective: Annotated[str | None, typer.Option(help="elbo, or iwae: the importance-weighted bound of --particles draws. (default: elbo)")] = None,
    doubly_reparameterised: Annotated[bool | None, typer.Option("--doubly-reparameterised", help="With --objective iwae: less noise in the guide's gradient. (default: off)")] = None,
    train: Annotated[str | None, typer.Option(help="both, or guide to hold the model's parameters. (default: both)")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Latent dimensions. (default: 10 (vae), 2 (ppca, bayesian-ppca))")] = None,
    hidden: Annotated[str | None, typer.Option(help="Widths of the VAE's hidden layers. (default: 200,200)")] = None,
    likelihood: Annotated[str | None, typer.Option(help="VAE: bernoulli, gaussian, gaussian-fixed or gaussian-pixel. (default: bernoulli)")] = None,
    activation: Annotated[str | None, typer.Option(help="VAE: relu, tanh or softplus. (default: relu)")] = None,
    link: Annotated[str | None, typer.Option(help="TrueSkill: probit or logistic. (default: probit)")] = None,
    skill_mean: Annotated[float | None, typer.Option(help="TrueSkill: prior mean, in skill units. (default: 25 (probit), 0 (logistic))")] = None,
    skill_sd: Annotated[float | None, typer.Option(help="TrueSkill: prior sd, in skill units. (default: 25/3 (probit), 1 (logistic))")] = None,
    performance_sd: Annotated[float | None, typer.Option(help="TrueSkill, probit: sd β of a performance, in skill units. (default: 25/6)")] = None,
    draw_margin: Annotated[float | None, typer.Option(help="TrueSkill, probit: margin ε of a win, in skill units. (default: 0)")] = None,
    option: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other option of the model. (default: none)")] = None,
    standardize: Annotated[bool | None, typer.Option("--standardize/--no-standardize", help="Centre and scale features by the training rows. (default: on (ppca, bayesian-ppca), off (vae))")] = None,
    binarize: Annotated[str | None, typer.Option(help="static (once), dynamic (every epoch) or none. (default: static (vae with bernoulli), none (others))")] = None,
    dequantize: Annotated[bool | None, typer.Option("--dequantize", help="Add uniform noise of one grid step to grey or whole-numbered features; needs --binarize none. (default: off)")] = None,
    split: Annotated[str | None, typer.Option(help="Fractions of train, validation and test rows; an official test split is kept. (default: 0.8,0.1,0.1 (vae), 1,0,0 (others))")] = None,
    seed: Seed = None,
    average: Annotated[float | None, typer.Option(help="Fraction of the steps, at the end, whose parameters are averaged. (default: 0)")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16. (default: float32)")] = None,
    compile_: Annotated[str | None, typer.Option("--compile", help="auto (by the number of steps), on, or off for stock Pyro. (default: auto)")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. (default: cpu)")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where torchvision's data sets are read from or downloaded to. (default: the user's cache)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint. (default: off)")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds. (default: off)")] = False,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Fit a model to data by stochastic variational inference (SVI)."""
    from ppl_vae.fit_job import fit_run
    from ppl_vae.run import settings_for

    if steps is not None and epochs is not None:
        raise InputError("--steps and --epochs exclude each other")
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    given = {
        "guide": guide, "steps": steps, "epochs": epochs, "batch_size": batch_size, "lr": lr,
        "particles": particles, "kl_warmup": kl_warmup, "clip_norm": clip_norm, "train": train,
        "objective": objective, "doubly_reparameterised": doubly_reparameterised, "dequantize": dequantize,
        "standardize": standardize, "binarize": binarize, "split": _numbers("--split", split, float),
        "stop": stop, "average": average, "precision": precision, "compile": compile_,
        "seed": seed, "device": device, "data_dir": str(data_dir.resolve()) if data_dir else None,
    }  # fmt: skip
    options = {
        "latent_dim": latent_dim, "hidden": _numbers("--hidden", hidden, int), "likelihood": likelihood,
        "activation": activation, "link": link, "skill_mean": skill_mean, "skill_sd": skill_sd,
        "performance_sd": performance_sd, "draw_margin": draw_margin, **_assignments(option or []),
    }  # fmt: skip
    complaints: list[InputError] = []
    result = fit_run(
        settings_for(model, data, given, options), out, resume=resume, overwrite=overwrite,
        progress=not quiet, complaints=complaints,
    )  # fmt: skip
    if json_:
        _print_json(result)
        _tell(complaints)
        return
    from ppl_vae.tables import console, fit_table, say_path, say_warnings

    say_warnings(result["warnings"])
    screen = console()
    screen.print(fit_table([(f"{model} on {Path(data).name}", result)], width=screen.width))
    _tell(complaints)
    say_path(screen, "Run", out)
    say_path(screen, "Next", f"ppl-vae check {shlex.quote(str(out))}")


@app.command()
def compare(
    run: RunFolder,
    against: Annotated[str, typer.Option(help="nuts, exact, or a file of draws: NetCDF that ArviZ wrote for Stan, PyMC or NumPyro, or CmdStan's .csv.")] = "nuts",
    guides: Annotated[str | None, typer.Option(help="Other guides to fit and set beside the run's: mean-field, full-rank, low-rank, flow, laplace, with commas between. (default: none)")] = None,
    split: Split = None,
    rows: Annotated[str | None, typer.Option(help="Rows of that split, as FIRST:LAST; models with a latent per row only. (default: 0:8)")] = None,
    chains: Annotated[int | None, typer.Option(help="Chains. (default: 4, or 64 of hmc)")] = None,
    draws: Annotated[int, typer.Option(help="Draws kept a chain.")] = 500,
    warmup: Annotated[int | None, typer.Option(help="Warm-up steps a chain. (default: 500, or 150 of hmc)")] = None,
    sampler: Annotated[str, typer.Option(help="nutpie, pyro (Pyro's own NUTS) or hmc (many chains in one batch).")] = "nutpie",
    compile_: Compiled = "auto",
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Compare a run's variational posterior with NUTS, the exact posterior, or draws in a file."""
    from ppl_vae.jobs import compare_run
    from ppl_vae.run import Run

    complaints: list[InputError] = []
    found, result = compare_run(
        Run.open(run), against=against, split=split, rows=_slice(rows), chains=chains, draws=draws,
        guides=[name.strip() for name in guides.split(",")] if guides else (), warmup=warmup, sampler=sampler,
        compile=compile_, seed=seed, progress=not quiet, complaints=complaints,
    )  # fmt: skip
    if json_:
        _print_json(result)
        _tell(complaints)
        return
    from ppl_vae.tables import answers_table, comparison_table, console, sentences, styled

    out = console()
    title = f"{run.name}: SVI against {found.reference}"
    out.print(comparison_table(found, title, width=out.width))
    out.print(answers_table(found, width=out.width))
    out.print("Verdict:", styled(f"{result['verdict']}."), *sentences(result["reasons"]))
    _tell(complaints)


@app.command()
def evidence(
    run: RunFolder,
    method: Annotated[str, typer.Option(help="One or several of exact, is (importance sampling from the guide), defensive (mixed with the prior), prior (simple Monte Carlo), iwae (bound), ais (annealed), bridge (NUTS against the guide), bdmc (bounds from both sides on simulated data), with commas between; or all that apply.")] = "is",
    samples: Annotated[int, typer.Option(help="Draws a unit: is, defensive, prior, iwae.")] = 1000,
    tolerance: Annotated[float | None, typer.Option(help="Add draws until the standard error of the mean is at most this, in nats: is, defensive, ais. (default: none)")] = None,
    max_samples: Annotated[int, typer.Option(help="Draws a unit at which --tolerance is given up: is, defensive.")] = 1_000_000,
    particles: Annotated[int, typer.Option(help="K of the IWAE bound.")] = 50,
    chains: Annotated[int, typer.Option(help="Chains a unit: ais, bdmc.")] = 16,
    temperatures: Annotated[int, typer.Option(help="Steps from the start to the posterior: ais, bdmc.")] = 1000,
    start: Annotated[str, typer.Option(help="guide or prior: where ais and bdmc start.")] = "guide",
    data: Annotated[str | None, typer.Option(help="Another data set or file. (default: the run's)")] = None,
    split: Split = None,
    rows: Annotated[str | None, typer.Option(help="Rows of that split, as FIRST:LAST; models with a latent per row only. (default: all, or 0:100 with --method all)")] = None,
    defensive: Annotated[float, typer.Option(help="Fraction of the samples drawn from the prior. (with --method defensive: 0.1)")] = 0.0,
    worst: Annotated[int, typer.Option(help="How many of the worst-fitted rows to show.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted estimate: is, defensive, prior, ais.")] = False,
    compile_: Compiled = "auto",
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Estimate log p(x) of a run's data, with its standard error and diagnostics, in one way or in several."""
    from ppl_vae.evidence_jobs import Asked, evidence_of_run
    from ppl_vae.run import Run

    methods = tuple(name.strip() for name in method.split(","))
    if defensive and methods == ("is",):
        methods = ("defensive",)
    asked = Asked(
        methods, samples=samples, tolerance=tolerance, max_samples=max_samples, particles=particles,
        chains=chains, temperatures=temperatures, start=start, defensive=defensive, compile=compile_,
    )  # fmt: skip
    opened, complaints = Run.open(run), list[InputError]()
    found = evidence_of_run(
        opened, asked, data=data, split=split, rows=_slice(rows), worst=worst, seed=seed, resume=resume,
        progress=not quiet, complaints=complaints,
    )  # fmt: skip
    if json_:
        _print_json(found.result)
        _tell(complaints)
        return
    from ppl_vae.tables import console, say_evidence_found

    say_evidence_found(console(), run.name, found)
    _tell(complaints)


@app.command()
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
    from ppl_vae.jobs import gaps_of_run
    from ppl_vae.run import Run

    complaints: list[InputError] = []
    found, result = gaps_of_run(
        Run.open(run), split=split, rows=_slice(rows), samples=samples, method=method, compile=compile_,
        seed=seed, progress=not quiet, complaints=complaints,
    )  # fmt: skip
    if json_:
        _print_json(result)
        _tell(complaints)
        return
    from ppl_vae.tables import console, gaps_table, say_path

    out = console()
    title = f"{run.name}: the gap between the ELBO and log p(x)"
    out.print(gaps_table(found, title, part=result["split"], num_rows=result["num_rows"]))
    for note in found.notes:
        out.print(f"Note: {note}.")
    _tell(complaints)
    say_path(out, "Picture", run / "gaps.png")


@app.command()
def check(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="RUN|MODEL|FILE.py:MODEL", help="A fitted run; a model of the suite, to fit first; or a Pyro model of your own.")],
    other: Annotated[str | None, typer.Argument(metavar="DATA|FILE.py:GUIDE", help="The model's data set or file; or your guide, or mean-field, low-rank or full-rank for one of Pyro's.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="With your own model: files of its arguments (.csv, .npy, .npz), each with a --data of its own, or one whose columns have their names.")] = None,
    identifiable: Annotated[str | None, typer.Option(metavar="FILE.py:NAME", help="With your own model: a function from a data set of draws to the quantities to compare. (default: the latents)")] = None,
    budget: Annotated[str, typer.Option(help="Time for everything, such as 90s, 2m or 1h. The important checks come first.")] = "2m",
    out: Annotated[Path | None, typer.Option(help="Folder for what is found, and report.html. (default: the run's, or check)")] = None,
    steps: Annotated[int, typer.Option(help="The most steps of SVI, where a fit is made.")] = 20_000,
    lr: Annotated[float | None, typer.Option(help="Learning rate that SVI begins with. (default: the model's, or 0.05)")] = None,
    split: Split = None,
    rows: Annotated[str | None, typer.Option(help="Rows whose posteriors are compared, as FIRST:LAST; models with a latent per row only. (default: 0:8)")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate/--no-calibrate", help="Spend what is left of the budget on simulated data.")] = True,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Can this fit be trusted? Fit or load, make every check that the budget allows, and say."""
    from ppl_vae import check_jobs
    from ppl_vae.clock import Clock, seconds_of
    from ppl_vae.diagnostics import Check
    from ppl_vae.files import told_later
    from ppl_vae.report import write_check
    from ppl_vae.run import Run
    from ppl_vae.summary import write_report
    from ppl_vae.tables import console, say_check, say_path, say_rest
    from ppl_vae.user_program import is_program, load_program

    complaints = list[InputError]()
    seconds = seconds_of(budget)
    clock = Clock(seconds, context.obj or time.perf_counter(), min(PAGE, PAGE_SHARE * seconds))
    told: list[Check] = []

    def tell(stands: Check) -> None:
        told.append(stands)
        say_check(console(), stands, final=False)

    write_page: Callable[[], Path]
    if is_program(what):
        if other is None or not data:
            raise InputError(
                "a model of your own needs a guide and --data: FILE.py:MODEL FILE.py:GUIDE --data x.csv"
            )
        folder = out or Path("check")
        functions = load_program(identifiable) if identifiable else None
        found = check_jobs.check_programs(
            what, other, data, folder, identifiable=functions, steps=steps, lr=lr, rows=_slice(rows),
            budget=clock, calibrate=calibrate, seed=seed or 0, told=None if json_ else tell, progress=not quiet,
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
            opened, split=split, rows=_slice(rows), budget=clock, calibrate=calibrate, seed=seed,
            told=None if json_ else tell, progress=not quiet, complaints=complaints,
        )  # fmt: skip
        write_page = partial(write_report, [opened], folder / "report.html", title=folder.resolve().name)
    if not json_:
        say_rest(console(), told[-1], found)
    result = check_jobs.check_json(found)
    # The page shows what the folder holds.
    with told_later(complaints):
        if not complaints:
            result["report"] = str(write_page())
    if json_:
        _print_json(result)
    _tell(complaints)
    if not json_:
        say_path(console(), "Report", result["report"])


@app.command()
def report(run: RunFolder, quiet: Quiet = False, json_: JSON = False) -> None:
    """Write a run's report.html: one self-contained file."""
    from ppl_vae.progress import stage
    from ppl_vae.run import Run
    from ppl_vae.summary import write_report

    opened = Run.open(run)
    stage("the page", show=not quiet)
    path = write_report([opened], run / "report.html", title=run.resolve().name)
    _print_json({"report": str(path)}) if json_ else print(path)


@app.command()
def datasets(json_: JSON = False) -> None:
    """List the named data sets, with their shapes and sources."""
    from dataclasses import asdict

    from ppl_vae.data import names

    known = names()
    if json_:
        _print_json({name: asdict(info) for name, info in known.items()})
        return
    from ppl_vae.tables import console, plain_table

    rows = [
        (name, info.kind, info.shape, f"{info.source} ({info.reference})") for name, info in known.items()
    ]
    console().print(plain_table("Data sets", ("name", "kind", "shape", "source"), rows))


@app.command()
def models(json_: JSON = False) -> None:
    """List the models, with their guides and options."""
    from ppl_vae.settings import model_classes, model_options

    known: dict[str, dict[str, Any]] = {
        name: {
            "summary": (cls.__doc__ or "").partition("\n")[0],
            "guides": list(cls.guides),
            "options": {
                option: _plain(parameter.default) for option, parameter in model_options(cls).items()
            },
        }
        for name, cls in model_classes().items()
    }
    if json_:
        _print_json(known)
        return
    from ppl_vae.tables import console, plain_table

    rows = [
        (
            name,
            info["summary"],
            ", ".join(info["guides"]),
            ", ".join(
                "--" + option.replace("_", "-") + ("" if value is None else f" {_shown(value)}")
                for option, value in info["options"].items()
            ),
        )
        for name, info in known.items()
    ]
    columns = ("name", "model", "guides (first is default)", "options and defaults")
    console().print(plain_table("Models", columns, rows))


def _tell(complaints: list[InputError]) -> None:
    """Say what could not be written, once everything that was found is on the screen."""
    if complaints:
        raise complaints[0]


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, allow_nan=False, default=float))


def _numbers(name: str, text: str | None, kind: Callable[[str], Any]) -> tuple[Any, ...] | None:
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{name} is {text!r}; it is numbers with commas between, such as 200,200") from None


def _slice(text: str | None) -> slice | None:
    if text is None:
        return None
    try:
        first, last = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        raise InputError(f"--rows is {text!r}; it is FIRST:LAST, such as 0:8") from None
    return slice(first, last)


def _assignments(texts: list[str]) -> dict[str, Any]:
    import ast

    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r} is no NAME=VALUE")
        try:
            found[name.strip().replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name.strip().replace("-", "_")] = value
    return found


def _plain(value: object) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
