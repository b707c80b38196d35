"""What commands say of games, as JSON and CSV hold it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import write_text
from ppl_vae.base.plain import plain

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.diagnostics.forecasting.leaderboard import Leaderboard
    from ppl_vae.diagnostics.forecasting.scoring import ForecastScores
    from ppl_vae.runs.game_jobs import Predictions, ScoredRun

__all__ = [
    "check_csv",
    "leaderboard_json",
    "likeliest",
    "predictions_json",
    "records",
    "scored_json",
    "write_table",
]

# Scores of a game that are told.
LIKELIEST = 5


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows by column, as JSON holds them."""
    content: list[dict[str, Any]] = plain(table.to_dict("records"))
    return content


def predictions_json(found: Predictions, *, scores: bool = False) -> dict[str, Any]:
    """What ``predict --json`` prints.

    Args:
        found: what is expected of fixtures.
        scores: whether to tell the likeliest scores too.
    """
    content: dict[str, Any] = {"games": records(found.table), "notes": list(found.notes)}
    if scores:
        content["scores"] = [
            [{"score": score, "probability": chance} for score, chance in likeliest(table)]
            for table in found.scores.values()
        ]
    return content


def likeliest(scores: pd.DataFrame) -> list[tuple[str, float]]:
    """The likeliest scores of a game with their probabilities, such as 2:1."""
    ordered = scores.stack().sort_values(ascending=False, kind="stable").head(LIKELIEST)
    return [(f"{first}:{second}", float(chance)) for (first, second), chance in ordered.items()]


def scored_json(found: ScoredRun) -> dict[str, Any]:
    """What ``score --json`` prints."""
    content = {"results": _scores_json(found.results), "notes": [*found.notes, *found.results.notes]}
    if found.pairs is not None:
        content["pairs"] = _scores_json(found.pairs)
    return content


def _scores_json(found: ForecastScores) -> dict[str, Any]:
    table = {name: plain(row) for name, row in found.table.to_dict("index").items()}
    return {
        "scores": table, "curve": records(found.curve), "num_events": found.num_events, "mode": found.mode,
        "right_error": found.right_error, "right_error_high": found.right_error_high,
    }  # fmt: skip


def leaderboard_json(found: Leaderboard, above: pd.DataFrame | None = None) -> dict[str, Any]:
    """What ``leaderboard --json`` prints.

    Args:
        found: the leaderboard.
        above: P(the row's level is above the column's), where it was asked for.
    """
    content: dict[str, Any] = {
        "date": found.date, "players": records(found.table.reset_index()), "num_draws": found.num_draws,
        "notes": list(found.notes),
    }  # fmt: skip
    if above is not None:
        content["above"] = {name: plain(row) for name, row in above.to_dict("index").items()}
    return content


def check_csv(path: Path | None) -> None:
    """Refuse a file to write that is no CSV, before any work is done.

    Raises:
        InputError: for another ending.
    """
    if path is not None and path.suffix.lower() != ".csv":
        raise InputError(f"--out is {str(path)!r}; it ends in .csv")


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """A table as CSV, whole or not at all.

    Raises:
        InputError: for another ending than .csv, or where it cannot be written.
    """
    check_csv(path)
    write_text(path, table.to_csv(index=False))
    return path
