"""Results as Rich tables, for a terminal of any width."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ppl_vae.base.names import answer_label
from ppl_vae.base.wording import data_in_words, each_or_all, of_rows, rows_option, with_error

if TYPE_CHECKING:
    from ppl_vae.diagnostics.comparison.compare import Comparison
    from ppl_vae.diagnostics.comparison.reasons import Reason
    from ppl_vae.diagnostics.latents.gaps import Gaps
    from ppl_vae.diagnostics.verdict.check import Check
    from ppl_vae.diagnostics.verdict.rule import Finding
    from ppl_vae.runs.evidence_jobs import EvidenceFound
    from ppl_vae.runs.evidence_of_runs import ModelsFound

__all__ = [
    "answers_table",
    "comparison_table",
    "console",
    "evidence_table",
    "fit_table",
    "fitted_table",
    "gaps_table",
    "plain_table",
    "say_check",
    "say_evidence_found",
    "say_models_found",
    "say_path",
    "say_rest",
    "say_warnings",
    "sentences",
    "styled",
    "worst_table",
]

MAX_ROWS = 12
# Letters of a name's column, with the spaces beside it, below which names are not folded.
FOLDED = 16
ENDS = ("smallest", "largest")
# A line under the head, for terminals that have no other letters for it: Rich's own would put a frame around.
ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def console() -> Console:
    """Stdout, as wide as the terminal is. Names of players, features and files are text, never markup."""
    return Console(highlight=False, markup=False, emoji=False)


def say_warnings(warnings: Iterable[str]) -> None:
    """Warnings go to stderr, each once."""
    err = Console(stderr=True, highlight=False, markup=False, emoji=False)
    for warning in warnings:
        err.print(styled("note:", "yellow"), warning)


def styled(text: str, style: str = "bold") -> Text:
    """Text in a style of Rich, for a console that takes no markup."""
    return Text(text, style)


def sentences(reasons: Iterable["Reason"]) -> list[str]:
    """Reasons, each without the name of the answer that it is about, as sentences of their own."""
    plain = [reason.sentence for reason in reasons]
    return [f"{text[:1].upper()}{text[1:]}." for text in plain]


def fit_table(fits: Sequence[tuple[str, Mapping[str, Any]]], *, width: int = 80) -> Table:
    """The fits' ELBOs per unit: name and the result of a fit."""
    columns = {"run": 0, "ELBO": 0, "reconstruction": 76, "KL": 60, "steps": 0, "s": 50, "converged": 0}
    unit = each_or_all(max(fit["num_units"] for _, fit in fits))
    table, shown = _narrowed(f"The fit: the ELBO of the training data (nats {unit})", columns, width)
    for name, fit in fits:
        units = fit["num_units"]
        cells = {
            "run": name,
            "ELBO": with_error(fit["elbo_mean"], fit["elbo_std_error"] / units),
            "reconstruction": f"{fit['reconstruction'] / units:.3f}",
            "KL": f"{fit['kl'] / units:.3f}",
            "steps": str(fit["steps"]),
            "s": f"{fit['seconds']:.0f}",
            "converged": {True: "yes", False: "no", None: "–"}[fit["converged"]],
        }
        table.add_row(*(cells[column] for column in shown))
    if any(fit["converged"] is None for _, fit in fits):
        table.caption = "converged –: not judged after a fixed number of steps (--no-stop)"
        table.caption_justify = "left"
    return table


def comparison_table(found: "Comparison", title: str, max_rows: int = MAX_ROWS, *, width: int = 80) -> Table:
    """The quantities that differ most, worst first; a narrow terminal is spared what matters least."""
    found = replace(found, table=found.table[found.table["answer"] == "svi"])
    rest = len(found.table) - max_rows
    own, other = answer_label("svi"), answer_label(found.reference)
    columns = {"quantity": 0, own: 0, other: 0, "error / sd": 68, "sd ratio": 76, "W1": 84}
    table, shown = _narrowed(
        title + (f" (the worst {max_rows} of {len(found.table)})" if rest > 0 else ""), columns, width
    )
    for row in found.worst(max_rows).to_dict("records"):
        cells = {
            "quantity": str(row["name"]),
            own: f"{row['mean']:.2f} ({row['sd']:.2f})",
            other: f"{row['mean_reference']:.2f} ({row['sd_reference']:.2f})",
            "error / sd": with_error(row["mean_error_in_sd"], row["mean_error_mcse"], 2, sign="+"),
            "sd ratio": f"{row['sd_ratio']:.2f}",
            "W1": with_error(row["wasserstein"], row["mcse"]),
        }
        table.add_row(*(cells[column] for column in shown))
    distance = "; W1 is the 1-Wasserstein distance" if "W1" in shown else ""
    limits = f"; {other}: {found.limits}" if found.limits else ""
    table.caption = f"posterior mean (sd){distance}; ± is one Monte Carlo error{limits}"
    table.caption_justify = "left"
    return table


def answers_table(found: "Comparison", *, width: int = 80) -> Table:
    """The answers side by side: verdicts, joint distances, and what they cost."""
    columns = {
        "answer": 0,
        "verdict": 0,
        "sliced W1": 84,
        "variances": 40,
        "correlation": 72,
        "s": 50,
        "ESS / s": 60,
    }
    table, shown = _narrowed("The answers side by side", columns, width)
    joint = found.joint.set_index("answer")
    for name, cost in found.costs.set_index("answer").iterrows():
        price = (f"{cost['seconds']:.1f}", _number(_known(cost["ess_per_second"]), 0))
        if name not in joint.index:
            cells = (f"{answer_label(str(name))} (reference)", "", "", "", "", *price)
            table.add_row(*_kept(columns, cells, shown))
            continue
        row = joint.loc[name]
        together = ("–", "–", "–")
        if row["sliced_wasserstein"] == row["sliced_wasserstein"]:
            together = (
                with_error(row["sliced_wasserstein"], row["sliced_wasserstein_mcse"], 2),
                # Each is estimated on draws that did not choose its direction, so that either may be larger.
                "{:.2f} to {:.2f}".format(*sorted(float(row[f"{end}_variance_ratio"]) for end in ENDS)),
                f"{row['correlation']:+.2f} / {row['correlation_reference']:+.2f}",
            )
        cells = (answer_label(str(name)), found.verdicts[str(name)], *together, *price)
        table.add_row(*_kept(columns, cells, shown))
    table.caption = "variances: along the directions where they are most wrong, over the reference's" + (
        "; correlation: of the pair where it is most wrong, answer / reference"
        if "correlation" in shown
        else ""
    )
    table.caption_justify = "left"
    return table


def say_check(out: Console, found: "Check", *, final: bool = True) -> None:
    """The verdict, its reason, what to do, and every check in a line or two.

    Args:
        out: where to.
        found: the check.
        final: whether nothing more is to come.
    """
    _say_verdict(out, found)
    out.print(f"Next step: {found.next_step}.")
    _say_findings(out, found.findings)
    if final:
        out.print(f"{found.spent()}.")


def say_rest(out: Console, stood: "Check", found: "Check") -> None:
    """What has been found since a verdict stood, and the verdict again where its sentence has changed.

    Args:
        out: where to.
        stood: the check as it was then.
        found: as it is now.
    """
    rest = found.findings[len(stood.findings) :]
    if rest:
        _say_findings(out, rest)
    if found.reason != stood.reason:
        _say_verdict(out, found)
    out.print(f"{found.spent()}.")


def _say_verdict(out: Console, found: "Check") -> None:
    colours = {"trust": "green", "do not trust": "red"}
    colour = colours.get(found.verdict, "yellow")
    out.print(Text.assemble("Verdict: ", (found.verdict, f"bold {colour}"), f" — {found.reason}."))


def _say_findings(out: Console, findings: Sequence["Finding"]) -> None:
    table = Table(box=_head_only(), padding=(0, 1, 0, 0), show_header=False)
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("finding", overflow="fold")
    colours = {"pass": "green", "warn": "yellow", "fail": "red"}
    for finding in findings:
        shade = colours.get(finding.status, "default")
        table.add_row(finding.name, styled(finding.status, shade), f"{finding.sentence}.")
    out.print(table)


def evidence_table(
    results: Sequence[tuple[str, Mapping[str, Any]]],
    title: str = "log p(x) (nats a unit)",
    *,
    width: int = 80,
) -> Table:
    """log p(x) per unit with its diagnostics: a name and the result of an estimate a row.

    Args:
        results: by name.
        title: of the table.
        width: of the terminal; a narrow one is spared what matters least.
    """
    rows = []
    for name, result in results:
        error = result["std_error_mean"]
        sign = {"lower bound": "≥ ", "upper bound": "≤ "}.get(result["kind"], "")
        ess, tail = result.get("ess"), result.get("pareto_k")
        sampled = result["kind"] != "exact"
        cells = {
            "method": name,
            "log p(x)": sign + with_error(result["log_evidence_mean"], error if sampled else None, 4),
            "smoothed": _number(result["smoothed_mean"], 4) if "smoothed_mean" in result else "",
            "ELBO": _number(result["elbo_mean"], 3) if "elbo_mean" in result else "",
            "units": str(result["num_units"]),
            "draws": str(result["num_samples"]) if sampled else "",
            "ESS": _number(ess["min"], 0) if ess else "",
            "k̂": _tail(tail["max"]) if tail else "",
            "alarms": str(result["num_alarms"]) if ess else "",
            "s": f"{result['seconds']:.1f}",
        }
        rows.append(cells)
    table = fitted_table(title, rows, ("smoothed", "units", "draws", "s", "ELBO"), width)
    table.caption = "± is one standard error; ESS and k̂ are those of the worst unit"
    table.caption_justify = "left"
    return table


def fitted_table(
    title: str, rows: Sequence[Mapping[str, str]], expendable: Sequence[str], width: int
) -> Table:
    """A table without the first of the expendable columns, so that no number is cut off.

    Args:
        title: of the table.
        rows: cells by column, the same in every row; the first column is words, which may be folded.
        expendable: what a narrow terminal is spared, the first first.
        width: of the terminal.
    """
    columns = list(rows[0])
    sizes = {
        name: max(cell_len(text) for text in (name, *(row[name] for row in rows))) + 2 for name in columns
    }
    # The names may be folded to a few letters.
    sizes[columns[0]] = min(sizes[columns[0]], FOLDED)
    for name in expendable:
        if 1 + sum(sizes[column] for column in columns) <= width:
            break
        columns.remove(name)
    table = Table(title=title, title_justify="left", box=_head_only(), padding=(0, 1, 0, 0))
    for place, name in enumerate(columns):
        least = sizes[name] - 2 if place else cell_len(name)
        table.add_column(
            name, justify="right" if place else "left", overflow="fold", no_wrap=place > 0, min_width=least
        )
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    return table


def _tail(value: float | None) -> str:
    """k̂, which weights that are equal to rounding do not have."""
    return "–" if value is None or value <= -1 else _number(value)


def say_evidence_found(out: Console, name: str, found: "EvidenceFound") -> None:
    """Print everything that `evidence` found: table, notes, contradictions, bounds, the worst rows."""
    result = found.result
    each = result["methods"] if "methods" in result else {result["method"]: result}
    if each:
        one = next(iter(each.values()))
        unit = "a row" if one["unit"] == "datum" else "in all"
        title = f"{name}: log p(x) of {data_in_words(one)} (nats {unit})"
        out.print(evidence_table(list(each.items()), title, width=out.width))
    if (
        bits := next((one["bits_per_dim"] for one in each.values() if one.get("bits_per_dim")), None)
    ) is not None:
        out.print(f"Bits per dimension: {bits:.4f}.")
    for note in dict.fromkeys(note for one in each.values() for note in one["notes"]):
        out.print(styled("Note:", "yellow"), f"{note}.")
    for reason in (*([result["rows_note"]] if "rows_note" in result else ()), *result.get("left_out", ())):
        out.print(styled("Note:", "yellow"), f"{reason}.")
    if found.judged is not None:
        for flag in found.judged.flags:
            out.print(styled("Flag:", "yellow"), f"{flag}.")
        if len(each) > 1:
            best = found.judged.best
            told = f" ({found.judged.reason})." if best else f": {found.judged.reason}."
            out.print(Text.assemble("Believe: " if best else "Believe ", (best or "none", "bold"), told))
    if found.bracket is not None:
        out.print(f"On simulated data: {found.bracket.sentence}.")
    if "worst" in result:
        out.print(worst_table(result["worst"]))
    for picture in result.get("pictures", ()):
        say_path(out, "Picture", picture)


def say_models_found(out: Console, found: "ModelsFound") -> None:
    """Print log p(x) of several runs, and the probabilities of their models."""
    rows = [
        {
            "run": str(name),
            "method": str(row["method"]),
            "log p(x)": with_error(row["log_evidence"], row["std_error"] or None),
            "probability": f"{row['probability']:.3f}",
            "95 %": f"{row['low']:.3f} to {row['high']:.3f}",
        }
        for name, row in zip(found.table.index, found.table.to_dict("records"), strict=True)
    ]
    units, data = found.result["num_units"], found.result["data"]
    title = f"log p(x) of the {data} rows{f' ({units:,})' if units > 1 else ''}, in nats in all"
    table = fitted_table(title, rows, ("method", "95 %"), out.width)
    table.caption = (
        "± is one standard error; probability: of models that are equally probable beforehand, with what the "
        "errors leave possible"
    )
    table.caption_justify = "left"
    out.print(table)
    for note in found.notes:
        out.print(styled("Note:", "yellow"), f"{note}.")


def worst_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of lowest log p(x), lowest first."""
    names = {"row": "row", "label": "label", "log_evidence": "log p(x)", "elbo_gap": "− ELBO",
             "pareto_k": "k̂", "oddest": "oddest feature"}  # fmt: skip
    shown = [name for name in names if any(name in row for row in rows)]
    table = _table("The worst-fitted rows (nats)", [names[name] for name in shown])
    for row in rows:
        cells = {name: f"{row[name]:.3f}" for name in ("elbo_gap",) if name in row}
        cells["log_evidence"] = with_error(row["log_evidence"], row["std_error"])
        cells["pareto_k"] = _tail(row.get("pareto_k"))
        table.add_row(*(cells.get(name, str(row.get(name, ""))) for name in shown))
    return table


def gaps_table(found: "Gaps", title: str, *, part: str = "data", num_rows: int | None = None) -> Table:
    """log p(x), the ELBOs, and what lies between them.

    Args:
        found: the gap, taken apart.
        title: of the table.
        part: whose rows these are, such as "test".
        num_rows: how many rows it has.
    """
    columns = ("quantity", "mean", "least", "median", "most")
    rows = None if num_rows is None else rows_option(found.index.tolist(), num_rows)
    of = of_rows(part, found.num_units, rows, num_rows)
    table = _table(f"{title} over {of} (nats a row)", columns)
    for row in found.table.to_dict("records"):
        spread = (f"{row[name]:.3f}" for name in ("min", "median", "max"))
        table.add_row(str(row["name"]), with_error(row["mean"], row["std_error"], 4), *spread)
    table.caption = (
        f"log p(x): {found.evidence_method}; {found.num_samples:,} draws a row behind each ELBO; ± is one "
        "Monte Carlo standard error"
    )
    table.caption_justify = "left"
    return table


def plain_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of words; the first column is never broken."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def say_path(out: Console, what: str, path: object) -> None:
    """A file in a line of its own, which no terminal's width breaks."""
    out.print(Text.assemble(f"{what}: ", (str(path), "bold")), soft_wrap=True)


def _narrowed(title: str, columns: Mapping[str, int], width: int) -> tuple[Table, list[str]]:
    """An empty table, and which of its columns are shown: each has the narrowest terminal that it is for."""
    table = Table(title=title, title_justify="left", box=_head_only(), padding=(0, 1, 0, 0))
    shown = [column for column, least in columns.items() if width >= least]
    for place, column in enumerate(shown):
        # Names give way, for they can be folded; numbers cannot.
        table.add_column(
            column, justify="right" if place else "left", overflow="fold", no_wrap=place > 0 and width >= 60
        )
    return table, shown


def _head_only() -> box.Box:
    encoding = (sys.stdout.encoding or "ascii").lower()
    return box.SIMPLE_HEAD if encoding.startswith("utf") else ASCII_HEAD


def _kept(columns: Iterable[str], cells: Iterable[str], shown: Sequence[str]) -> list[str]:
    return [cell for column, cell in zip(columns, cells, strict=True) if column in shown]


def _known(value: float) -> float | None:
    return value if value == value else None


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
