"""The commands for runs of models of games: what will happen, how good such forecasts were, and who leads."""

from pathlib import Path
from typing import Annotated

import typer

from ppl_vae.cli.common import JSON, Quiet, RunFolder, Seed, column_words, print_json

__all__ = ["choose", "leaderboard", "predict", "score", "update"]

Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="PART=NAME", help="Which column of the table plays a part, such as home=Team1; several times for several. (default: by their names)"),
]  # fmt: skip
Out = Annotated[Path | None, typer.Option(help="FILE.csv for the whole table. (default: none)")]


def predict(
    run: RunFolder,
    fixtures: Annotated[Path, typer.Argument(metavar="FIXTURES", help="Games to come, as a table like the one that was fitted; how they ended may be missing.")],
    out: Out = None,
    scores: Annotated[bool, typer.Option("--scores", help="The likeliest scores too, where the model knows them.")] = False,
    column: Column = None,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Win, draw and loss of games to come, or who will win a race, at any date and for players never seen."""
    from ppl_vae.runs.game_jobs import predict_run
    from ppl_vae.runs.game_tables import check_csv, predictions_json, write_table
    from ppl_vae.runs.run import Run

    check_csv(out)
    found = predict_run(
        Run.open(run), str(fixtures), columns=column_words(column), seed=seed, progress=not quiet
    )
    if out is not None:
        write_table(found.table, out)
    if json_:
        print_json(predictions_json(found, scores=scores))
        return
    from ppl_vae.cli.game_tables import say_predictions

    say_predictions(found, scores=scores)


def score(
    run: RunFolder,
    later: Annotated[Path, typer.Argument(metavar="LATER", help="Games that came after those of the run, with how they ended.")],
    walk_forward: Annotated[bool, typer.Option("--walk-forward", help="Learn every date's games before the next date's are forecast.")] = False,
    out: Annotated[Path | None, typer.Option(help="FILE.csv for the calibration curve. (default: none)")] = None,
    column: Column = None,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Score forecasts of later games: log loss, Brier, accuracy and calibration, beside base rates."""
    from ppl_vae.runs.game_jobs import score_run
    from ppl_vae.runs.game_tables import check_csv, scored_json, write_table
    from ppl_vae.runs.run import Run

    check_csv(out)
    found = score_run(
        Run.open(run), str(later), walk_forward=walk_forward, columns=column_words(column), seed=seed,
        progress=not quiet,
    )  # fmt: skip
    if out is not None:
        write_table(found.results.curve, out)
    if json_:
        print_json(scored_json(found))
        return
    from ppl_vae.cli.game_tables import say_scores

    say_scores(found)


def leaderboard(
    run: RunFolder,
    date: Annotated[str | None, typer.Option(help="When, such as 2024-05-01. (default: the last game's)")] = None,
    top: Annotated[int, typer.Option(help="How many players to show.")] = 25,
    between: Annotated[str | None, typer.Option(help="Players to compare in pairs, with commas between: P(the row's is better). (default: none)")] = None,
    out: Out = None,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Who leads, how sure that is, and which ranks are possible, by the joint posterior."""
    from ppl_vae.runs.game_jobs import leaderboard_of_run
    from ppl_vae.runs.game_tables import check_csv, leaderboard_json, write_table
    from ppl_vae.runs.run import Run

    check_csv(out)
    found = leaderboard_of_run(Run.open(run), date, seed=seed)
    names = [name.strip() for name in between.split(",")] if between else []
    above = found.above(names) if names else None
    if out is not None:
        write_table(found.table.reset_index(), out)
    if json_:
        print_json(leaderboard_json(found, above))
        return
    from ppl_vae.cli.game_tables import say_leaderboard

    say_leaderboard(found, above, top=top)


def update(
    run: RunFolder,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Games after the last of the run, with how they ended.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the updated run. (default: the run's own)")] = None,
    column: Column = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Learn games that came later: a few iterations from what is known already, the model's numbers held."""
    from ppl_vae.runs.run import Run
    from ppl_vae.runs.update_job import update_run

    result = update_run(Run.open(run), str(new), out=out, columns=column_words(column), progress=not quiet)
    if json_:
        print_json(result)
        return
    from ppl_vae.cli.game_tables import say_update

    say_update(result)


def choose(
    games: Annotated[Path, typer.Argument(metavar="GAMES", help="A table of games with dates.")],
    later: Annotated[float, typer.Option(help="Share of the games, the last ones, to forecast.")] = 0.2,
    drift: Annotated[str, typer.Option(help="Units of time to try, with commas between; none for skills at rest.")] = "none,1y",
    link: Annotated[str | None, typer.Option(help="Links to try, with commas between. (default: probit,logistic, and davidson where games are drawn)")] = None,
    out: Out = None,
    column: Column = None,
    seed: Seed = None,
    quiet: Quiet = False,
    json_: JSON = False,
) -> None:  # fmt: skip
    """Which model of skills: evidence of the earlier games, beside the log loss on later ones."""
    from ppl_vae.runs.choose_job import choose_model
    from ppl_vae.runs.game_tables import check_csv, write_table

    check_csv(out)
    found = choose_model(
        str(games), later=later, drifts=_words(drift), links=_words(link) if link else None, columns=column_words(column),
        seed=seed or 0, progress=not quiet,
    )  # fmt: skip
    if out is not None:
        write_table(found.table.reset_index(), out)
    if json_:
        print_json(found.to_json())
        return
    from ppl_vae.cli.game_tables import say_choice

    say_choice(found)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
