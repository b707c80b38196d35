"""Results as Rich tables, for a terminal of any width."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ppl_vae.diagnostics import Comparison

__all__ = [
    "comparison_table",
    "console",
    "evidence_table",
    "fit_table",
    "plain_table",
    "say_warnings",
]

MAX_ROWS = 12


def console() -> Console:
    """Stdout, as wide as the terminal is."""
    return Console(highlight=False)


def say_warnings(warnings: Iterable[str]) -> None:
    """Warnings go to stderr, each once."""
    err = Console(stderr=True, highlight=False)
    for warning in warnings:
        err.print(f"[yellow]note:[/yellow] {warning}")


def fit_table(fits: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """The fits' ELBOs per unit: name and the result of a fit."""
    columns = ("run", "ELBO", "reconstruction", "KL", "steps", "s", "converged")
    table = _table("Fit by SVI (nats a unit)", columns)
    for name, fit in fits:
        units = fit["num_units"]
        table.add_row(
            name,
            f"{fit['elbo_mean']:.3f} ± {fit['elbo_std_error'] / units:.3f}",
            f"{fit['reconstruction'] / units:.3f}",
            f"{fit['kl'] / units:.3f}",
            str(fit["steps"]),
            f"{fit['seconds']:.0f}",
            "yes" if fit["converged"] else "no",
        )
    return table


def comparison_table(found: "Comparison", title: str, max_rows: int = MAX_ROWS) -> Table:
    """The quantities that differ most, worst first."""
    rest = len(found.table) - max_rows
    shown = found.worst(max_rows)
    table = _table(
        title + (f" (the worst {max_rows} of {len(found.table)})" if rest > 0 else ""),
        ("quantity", "svi", found.reference, "error / sd", "sd ratio", "W1"),
    )
    for row in shown.to_dict("records"):
        table.add_row(
            str(row["name"]),
            f"{row['mean']:.2f} ({row['sd']:.2f})",
            f"{row['mean_reference']:.2f} ({row['sd_reference']:.2f})",
            f"{row['mean_error_in_sd']:+.2f} ± {row['mean_error_mcse']:.2f}",
            f"{row['sd_ratio']:.2f}",
            f"{row['wasserstein']:.3f} ± {row['mcse']:.3f}",
        )
    table.caption = "posterior mean (sd); W1 is the 1-Wasserstein distance; ± is one Monte Carlo error"
    table.caption_justify = "left"
    return table


def evidence_table(results: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """log p(x) per unit beside the ELBO."""
    columns = ("run", "units", "log p(x)", "ELBO", "ESS min", "k̂ max", "alarms")
    table = _table("log p(x) (nats a unit)", columns)
    for name, result in results:
        sampled = result["method"] == "is"
        error = f" ± {result['std_error_mean']:.4f}" if sampled else ""
        table.add_row(
            f"{name}, {result['method']}",
            str(result["num_units"]),
            f"{result['log_evidence_mean']:.4f}{error}",
            f"{result['elbo_mean']:.3f}" if sampled else "",
            f"{result['ess']['min']:.0f}" if sampled else "",
            _number(result["pareto_k"]["max"]) if sampled else "",
            str(result["num_alarms"]) if sampled else "",
        )
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


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
