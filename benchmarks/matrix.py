"""Every model by every method, as a shell user meets them: ``python -m benchmarks.matrix [MODEL …]``.

Each model is fitted to a small data set that the package has, and every command is run on the run's folder.
A cell is what came out (log p(x) a unit with its error, the worst difference from a reference, a verdict), or
the number of a sentence below the table, a refusal. A traceback is neither: it ends the study, status 1.
"""

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from ppl_vae.base.errors import InputError
from ppl_vae.cli import app
from ppl_vae.models.base import SuiteModel
from ppl_vae.models.suite import SUITE

RESULTS = Path(__file__).parent / "MATRIX.md"
# What a model is fitted to where it is not a matrix of reals.
DATA: Mapping[str, tuple[str, ...]] = {
    "conditional-vae": ("digits", "--latent-dim", "2"),
    "hierarchical-vae": (
        "digits", "--latent-dims", "3,2", "--hidden", "50", "--between", "20", "--guide", "ladder"
    ),
    "skills": ("al-east-1987",),
    "trueskill": ("al-east-1987",),
    "vae": ("digits", "--latent-dim", "2"),
}  # fmt: skip
USUAL = ("iris",)
ROWS = ("--rows", "0:4")


@dataclass(frozen=True)
class Method:
    """A column.

    Attributes:
        name: its head.
        command: arguments after the run's folder.
        cell: what to show of what it printed as JSON.
        by_row: whether a model with latents of each row is asked about a few of them.
    """

    name: str
    command: tuple[str, ...]
    cell: Callable[[dict[str, Any]], str]
    by_row: bool = True


def _evidence(found: dict[str, Any]) -> str:
    return f"{found['log_evidence_mean']:.3f} ± {found['std_error_mean']:.1g}"


def _bounds(found: dict[str, Any]) -> str:
    return f"{found['simulated']['width_mean']:.2g} wide"


def _difference(found: dict[str, Any]) -> str:
    worst = max(abs(row["mean_error_in_sd"]) for row in found["rows"])
    return f"{worst:.2f} sd"


def _gap(found: dict[str, Any]) -> str:
    return next(f"{row['mean']:.3f}" for row in found["rows"] if row["name"] == "gap")


def _verdict(found: dict[str, Any]) -> str:
    return str(found["verdict"])


def _runs(found: dict[str, Any]) -> str:
    return "runs"


SHORT = ("--draws", "200", "--warmup", "200", "--chains", "4")
METHODS = (
    Method("NUTS", ("compare", "--against", "nuts", *SHORT), _difference),
    Method("exact posterior", ("compare", "--against", "exact"), _difference),
    Method("exact", ("evidence", "--method", "exact"), _evidence),
    Method("importance", ("evidence", "--method", "is"), _evidence),
    Method("IWAE bound", ("evidence", "--method", "iwae"), _evidence),
    Method("annealing", ("evidence", "--method", "ais", "--temperatures", "100"), _evidence),
    Method("bridge", ("evidence", "--method", "bridge"), _evidence),
    Method("bounds on simulated data", ("evidence", "--method", "bdmc", "--temperatures", "100"), _bounds),
    Method("gaps", ("gaps",), _gap),
    Method("check", ("check", "--budget", "30s"), _verdict, by_row=False),
    Method("report", ("report",), _runs, by_row=False),
    *(
        Method(f"export {what}", ("export", "--what", what), _runs, by_row=False)
        for what in (
            "codes",
            "draws",
            "samples",
            "reconstructions",
            "imputed",
            "log-evidence",
            "leaderboard",
            "win-probability",
        )
    ),
)


@dataclass
class Refusals:
    """Sentences, each once and numbered."""

    sentences: list[str] = field(default_factory=list)

    def mark(self, sentence: str) -> str:
        """The number of a sentence, in brackets."""
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return f"[{self.sentences.index(sentence) + 1}]"


def main() -> None:
    """Read the command line, print the table, and keep it where that is asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="MODEL", help="names of models, all by default")
    parser.add_argument("--results", action="store_true", help=f"write the table to {RESULTS.name}")
    parser.add_argument("--steps", default="2000", help="steps of SVI (default: 2000)")
    given = parser.parse_args()
    models = [model for model in SUITE if not given.only or model.name in given.only]
    refusals, columns = Refusals(), {}
    for model in models:
        columns[model.name] = dict(_column(model, given.steps, refusals))
    lines = list(_table(columns, {model.name: model.oracle for model in models}, refusals))
    print("\n".join(lines))
    if given.results:
        told = (__doc__ or "").split("\n")[2:5]
        RESULTS.write_text("\n".join(["# Every model by every method", "", *told, "", *lines, ""]))


def _column(model: type[SuiteModel], steps: str, refusals: Refusals) -> Iterator[tuple[str, str]]:
    """A model's cells by method."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        data = DATA.get(model.name, USUAL)
        yield "data", data[0]
        fit = ("fit", model.name, *data, "--out", str(run), "--steps", steps)
        for method in ("svi", "natural", "em", "ep"):
            chosen = (*fit, "--method", method) if method == "svi" else (
                "fit", model.name, *data, "--out", f"{run}-{method}", "--method", method
            )  # fmt: skip
            yield f"fit, {method}", _cell(chosen, lambda found: f"ELBO {found['elbo_mean']:.3f}", refusals)
        for method in METHODS:
            command = [method.command[0], str(run), *method.command[1:]]
            if method.by_row and model.unit == "datum":
                command += ROWS
            if method.command[0] == "export":
                command += ["--out", str(run.with_suffix(f".{method.command[-1]}.nc"))]
            yield method.name, _cell(command, method.cell, refusals)
            print(f"{model.name}: {method.name}", file=sys.stderr, flush=True)


def _cell(
    command: tuple[str, ...] | list[str], cell: Callable[[dict[str, Any]], str], refusals: Refusals
) -> str:
    """What a command says, or the number of its refusal."""
    done = CliRunner().invoke(app, [*command, "--json", "--quiet"])
    if isinstance(done.exception, InputError):
        return refusals.mark(str(done.exception))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        traceback.print_exception(done.exception)
        raise SystemExit(f"{' '.join(command)} ended in a traceback")
    if done.exit_code == 2:
        return refusals.mark(_sentence(done.stderr))
    return cell(json.loads(done.stdout))


def _sentence(text: str) -> str:
    last = [line for line in text.strip().splitlines() if line.startswith("ppl-vae: ")]
    return (last[-1] if last else text.strip()).removeprefix("ppl-vae: ")


def _table(
    columns: Mapping[str, Mapping[str, str]], oracles: Mapping[str, str], refusals: Refusals
) -> Iterator[str]:
    names = list(columns)
    yield f"| | {' | '.join(names)} |"
    yield "| --- " * (len(names) + 1) + "|"
    told = [oracles[name].replace("|", "\\|") for name in names]
    yield f"| tested against | {' | '.join(told)} |"
    for row in next(iter(columns.values())):
        yield f"| {row} | {' | '.join(columns[name][row] for name in names)} |"
    yield ""
    yield from (f"{number}. {sentence}" for number, sentence in enumerate(refusals.sentences, 1))


if __name__ == "__main__":
    main()
