"""`fit`: one sub-command a model, made from the catalogue, so that each shows its own options and defaults."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ppl_vae.base.errors import InputError
from ppl_vae.cli.catalogue import Entry, Option, catalogue
from ppl_vae.cli.common import JSON, Quiet, assignments, column_words, print_json, say_complaints
from ppl_vae.cli.describe import known_model
from ppl_vae.cli.generated import given_values, parameter

__all__ = ["app", "options_before_model"]

Data = Annotated[
    str,
    typer.Argument(metavar="DATA", help="A data set (`ppl-vae datasets`), or a file of data."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the run.")]
Any_ = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any option of the model, by its name. (default: none)"),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="INPUT=COLUMN",
        help="Which column of the data an input of the model is, where it is not the one of its name; several with "
        "commas between. (default: none)",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the run's last checkpoint. (default: off)")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that --out holds. (default: off)")
]


class _Models(TyperGroup):
    """The models as sub-commands, each made when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(catalogue().models)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _command(known_model(cmd_name))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, options_before_model(args))
        return rest


app = typer.Typer(
    cls=_Models,
    no_args_is_help=True,
    rich_markup_mode="rich",
    subcommand_metavar="MODEL DATA [OPTIONS]",
    help="Fit a model to data by variational inference. `ppl-vae fit MODEL --help` shows the "
    "model's options and their defaults; MODEL may be FILE.py:CLASS, a model of your own that is made like "
    "the suite's.",
)


@app.callback()
def _fit() -> None:
    """Let Typer make a group of it."""


def options_before_model(args: Sequence[str]) -> list[str]:
    """The arguments with the model first, wherever it stands among the options.

    Raises:
        InputError: for an option that belongs to other models than the one named.
    """
    at = next((at for at, kind in enumerate(_kinds(args)) if kind == "argument"), None)
    if at is None:
        if args and "--help" not in args:
            known = ", ".join(catalogue().models)
            raise InputError(
                f"fit needs a model and data: ppl-vae fit MODEL DATA --out RUN; models are {known}"
            )
        return list(args)
    rest = [*args[:at], *args[at + 1 :]]
    _refuse_foreign(
        args[at], [word for word, kind in zip(args, _kinds(args), strict=True) if kind == "option"]
    )
    return [args[at], *rest]


def _kinds(args: Sequence[str]) -> list[str]:
    """What each word is: "option", the "value" of one, or an "argument"."""
    switches = {"--resume", "--overwrite", "--quiet", "--json", "--help"}
    switches |= {
        flag for option in _every_option() if option.kind == "bool" for flag in option.flag.split("/")
    }
    found: list[str] = []
    for word in args:
        waiting = found and found[-1] == "option" and "=" not in args[len(found) - 1]
        if waiting and args[len(found) - 1] not in switches:
            found.append("value")
        else:
            found.append("option" if word.startswith("--") else "argument")
    return found


def _every_option() -> list[Option]:
    known = catalogue()
    return [*known.fit, *(option for entry in known.models.values() for option in entry.options)]


def _refuse_foreign(model: str, words: Sequence[str]) -> None:
    """Refuse options of other models by name, as `settings_for` refuses them in Python."""
    known = catalogue()
    if model not in known.models:
        return
    own = known.models[model].options
    usual = {option.flag for option in (*known.fit, *own)}
    foreign = {option.flag for option in _every_option()} - usual
    for word in words:
        if (flag := word.partition("=")[0]) in foreign:
            raise InputError(
                f"{flag} does not belong to {model}; its options are {', '.join(o.flag for o in own)}"
            )


def _command(entry: Entry) -> Any:
    """The Typer command that fits one model."""
    one = typer.Typer(pretty_exceptions_enable=False, add_completion=False, rich_markup_mode="rich")
    one.command(name=entry.name, help=f"Fit: {entry.summary}")(_function(entry))
    return typer.main.get_command(one)


def _function(entry: Entry) -> Callable[..., None]:
    """A function whose signature declares the model's options and those of every fit."""

    def fit(**given: Any) -> None:
        _fit_model(entry, given)

    by_name = inspect.Parameter.KEYWORD_ONLY
    fixed = {"data": Data, "out": Out}
    ends = {
        "column": Column,
        "set": Any_,
        "resume": Resume,
        "overwrite": Overwrite,
        "quiet": Quiet,
        "json_": JSON,
    }
    parameters = [inspect.Parameter(name, by_name, annotation=kind) for name, kind in fixed.items()]
    for panel, options in (
        (f"Options of {entry.name}", entry.options),
        ("Options of every fit", catalogue().fit),
    ):
        parameters += [parameter(option, entry.defaults.get(option.name), panel) for option in options]
    parameters += [
        inspect.Parameter(
            name, by_name, annotation=kind, default=None if name in ("set", "column") else False
        )
        for name, kind in ends.items()
    ]
    fit.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return fit


def _fit_model(entry: Entry, given: dict[str, Any]) -> None:
    from ppl_vae.runs.fit_job import fit_run
    from ppl_vae.runs.run import settings_for

    out, data, as_json = given["out"], given["data"], given["json_"]
    if given["resume"] and given["overwrite"]:
        raise InputError("--resume and --overwrite exclude each other")
    options = {**given_values(entry.options, given), **assignments(given["set"] or [])}
    asked = given_values(catalogue().fit, given)
    if given["column"]:
        asked["columns"] = column_words(given["column"])
    complaints: list[InputError] = []
    result = fit_run(
        settings_for(entry.name, data, asked, options), out,
        resume=given["resume"], overwrite=given["overwrite"], progress=not given["quiet"],
        complaints=complaints,
    )  # fmt: skip
    if as_json:
        print_json(result)
        say_complaints(complaints)
        return
    from ppl_vae.cli.tables import console, fit_table, say_path, say_warnings
    from ppl_vae.inference.fitting.fit_result import EvidenceEstimate

    say_warnings(result["warnings"])
    screen = console()
    title = f"{entry.name} on {Path(data).name}"
    screen.print(fit_table([(title, result)], width=screen.width))
    if result["estimate"]:
        screen.print(f"{EvidenceEstimate.from_json(result['estimate'])}.")
    say_complaints(complaints)
    say_path(screen, "Run", out)
    say_path(screen, "Next", f"ppl-vae check {shlex.quote(str(out))}")
