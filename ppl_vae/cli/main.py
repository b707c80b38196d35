"""The application: its commands in their order, and how bad input and Ctrl-C end."""

import os
import signal
import sys
import time
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ppl_vae.base.errors import InputError
from ppl_vae.base.letters import plain_letters
from ppl_vae.cli import check, commands, describe, fit, games

__all__ = ["app", "main"]

ORDER = (
    "demo",
    "fit",
    "check",
    "compare",
    "evidence",
    "gaps",
    "export",
    "report",
    "predict",
    "score",
    "leaderboard",
    "update",
    "choose",
    "datasets",
    "models",
)


class _Commands(TyperGroup):
    """The commands in the order of their use; Typer puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="ppl-vae",
    cls=_Commands,
    help="Fit a latent-variable model by variational inference, and know how wrong the answer is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"ppl-vae {version('ppl-vae')}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="The version, and nothing else."),
    ] = False,
) -> None:
    """Fit a latent-variable model by variational inference, and know how wrong the answer is."""


app.command()(commands.demo)
app.add_typer(fit.app, name="fit")
for command in (
    commands.compare,
    commands.evidence,
    commands.gaps,
    check.check,
    commands.export,
    commands.report,
):
    app.command()(command)
for command in (games.predict, games.score, games.leaderboard, games.update, games.choose):
    app.command()(command)
app.command()(describe.datasets)
app.command()(describe.models)

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
    program = sys.modules.get("ppl_vae.program.user_program")
    if program is not None and (line := program.blamed(error)) is not None:
        return line
    if isinstance(error, OSError):
        return error
    if isinstance(error, MemoryError | RuntimeError):
        from ppl_vae.program.memory import shortage_in_words

        if (line := shortage_in_words(error)) is not None:
            return line
    raise error


def _note(message: Warning | str, *_: object) -> None:
    """A warning as one line, without the source line that raised it."""
    print(f"note: {message}", file=sys.stderr)


def _interrupt(_signal: int, _frame: object) -> None:
    raise _Interrupted
