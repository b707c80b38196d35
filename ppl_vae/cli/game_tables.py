"""What commands say of games, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ppl_vae.base.wording import counted, with_error
from ppl_vae.cli.tables import console, fitted_table, say_warnings

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.diagnostics.forecasting.leaderboard import Leaderboard
    from ppl_vae.diagnostics.forecasting.scoring import ForecastScores
    from ppl_vae.runs.choose_job import Choice
    from ppl_vae.runs.game_jobs import Predictions, ScoredRun

__all__ = ["say_choice", "say_leaderboard", "say_predictions", "say_scores", "say_update"]

# Rows of a table, beyond which --out is for.
MOST_ROWS = 60


def say_predictions(found: Predictions, *, scores: bool = False) -> None:
    """Probabilities of every fixture, a row a game or a side."""
    from ppl_vae.runs.game_tables import likeliest

    out, shown = console(), found.table.head(MOST_ROWS)
    rows = [{name: _cell(name, value) for name, value in row.items()} for row in shown.to_dict("records")]
    if scores and found.scores:
        for row, table in zip(rows, found.scores.values(), strict=False):
            row["likeliest"] = ", ".join(f"{score} {chance:.0%}" for score, chance in likeliest(table)[:3])
    title = "What is expected"
    out.print(fitted_table(title, rows, ("date", "sd", "mean"), width=out.width))
    if (rest := len(found.table) - len(shown)) > 0:
        out.print(f"{rest} more rows; --out FILE.csv has them all.")
    for note in found.notes:
        out.print(f"Note: {note}.")


def _cell(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if name in ("mean", "sd", "place") else f"{value:.3f}"
    return str(value)


def say_scores(found: ScoredRun) -> None:
    """Scores beside base rates, the calibration curve, and what both say."""
    out = console()
    _say_one(found.results, "Results of later games", out)
    if found.pairs is not None:
        _say_one(found.pairs, "Who was ahead of whom", out)
    for note in (*found.notes, *found.results.notes):
        out.print(f"Note: {note}.")


def _say_one(scores: ForecastScores, title: str, out: Any) -> None:
    rows = []
    for name, row in scores.table.to_dict("index").items():
        rows.append(
            {
                "score": str(name),
                "forecasts": with_error(row["value"], row["std_error"], 4),
                "5 % to 95 %": f"{row['low']:.4f} to {row['high']:.4f}",
                "base rates": "–" if row["base"] != row["base"] else f"{row['base']:.4f}",
                "better by": with_error(row["better"], row["better_std_error"], 4, sign="+"),
            }
        )
    headed = f"{title}: {scores.num_events:,}, {scores.mode}"
    out.print(fitted_table(headed, rows, ("5 % to 95 %", "base rates"), width=out.width))
    curve = [
        {
            "forecast": f"{row['forecast']:.3f}",
            "happened": f"{row['observed']:.3f}",
            "5 % to 95 %": f"{row['low']:.3f} to {row['high']:.3f}",
            "if right": f"{row['right_low']:.3f} to {row['right_high']:.3f}",
            "count": f"{row['count']:,}",
        }
        for row in scores.curve.to_dict("records")
    ]
    out.print(fitted_table("Calibration", curve, ("count", "if right"), width=out.width))
    out.print(scores.sentence())


def say_leaderboard(found: Leaderboard, above: pd.DataFrame | None, *, top: int) -> None:
    """The first so many players, and pairs that were asked for."""
    out = console()
    rows = [
        {
            "player": str(name),
            "mean": f"{row['mean']:.2f}",
            "sd": f"{row['sd']:.2f}",
            "5 % to 95 %": f"{row['low']:.2f} to {row['high']:.2f}",
            "conservative": f"{row['conservative']:.2f}",
            "P(first)": f"{row['p_first']:.3f}",
            "rank": f"{row['rank_median']:.0f} ({row['rank_low']:.0f} to {row['rank_high']:.0f})",
        }
        for name, row in found.table.head(max(top, 1)).iterrows()
    ]
    of = f" on {found.date}" if found.date else ""
    title = f"The leaderboard{of}: {len(rows)} of {len(found.table):,} players"
    out.print(fitted_table(title, rows, ("conservative", "5 % to 95 %"), width=out.width))
    out.print(
        f"Ranks, 5 % to 95 %, are of {found.num_draws:,} joint draws; {found.open_neighbours} pairs of neighbours "
        "are in no sure order (5 to 1)."
    )
    if above is not None:
        pairs = [
            {"": str(name), **{str(k): _chance(v) for k, v in row.items()}} for name, row in above.iterrows()
        ]
        out.print(fitted_table("P(the row's is better)", pairs, (), width=out.width))
    for note in found.notes:
        out.print(f"Note: {note}.")


def _chance(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"


def say_update(result: Mapping[str, Any]) -> None:
    """What was learnt, in a line or two."""
    out = console()
    new = result["new_players"]
    last = f", the last of {result['last_date']}" if "last_date" in result else ""
    out.print(
        f"{counted(result['new_games'], 'game')} learnt in {counted(result['steps'], 'iteration')} and {result['seconds']:.1f} s: "
        f"{result['num_games']:,} in all{last}; ELBO {result['elbo']:.2f} nats."
    )
    if new:
        out.print(f"New: {', '.join(new[:12])}{', …' if len(new) > 12 else ''}.")
    if not result["converged"]:
        say_warnings([f"the update did not come to rest: {result['reason']}"])
    out.print(f"Run: {result['out']}", soft_wrap=True)


def say_choice(found: Choice) -> None:
    """Models by evidence, with the log loss on later games beside it."""
    out = console()
    rows = [
        {
            "model": str(name),
            "evidence": f"{row['evidence']:.2f}",
            "below the best": f"{row['below']:.2f}",
            "gap": "–" if row["gap"] != row["gap"] else f"{row['gap']:.2f}",
            "log loss": with_error(row["log_loss"], row["log_loss_std_error"], 4),
            "numbers": str(row["numbers"]),
        }
        for name, row in found.table.iterrows()
    ]
    title = f"{counted(found.num_games, 'game')}, and {found.num_later:,} later (ELBO in nats: a bound on log p(x))"
    out.print(fitted_table(title, rows, ("numbers", "below the best", "gap"), width=out.width))
    for sentence in found.sentences():
        out.print(sentence)
