"""What commands do with a run of a model of games: forecasts and their scores, and leaderboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.wording import in_words
from ppl_vae.data.dates import as_days, date_in_words, dates_in_words
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.forecasts import (
    Forecasts,
    base_rates,
    check_later,
    pairs_of_rankings,
    uniform_rates,
)
from ppl_vae.diagnostics.forecasting.leaderboard import NINETY, Leaderboard, leaderboard
from ppl_vae.diagnostics.forecasting.learning import walk
from ppl_vae.diagnostics.forecasting.scoring import ForecastScores, score_forecasts
from ppl_vae.diagnostics.forecasting.standing import Expected, Standing, states_of
from ppl_vae.guides.named import named_guide
from ppl_vae.program.outcomes import KnowsOutcomes, KnowsPlaces
from ppl_vae.program.pair import Program
from ppl_vae.runs.later_games import fixtures_of, games_of_results, say_understood
from ppl_vae.runs.registry import suite_models
from ppl_vae.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Predictions",
    "ScoredRun",
    "check_games",
    "leaderboard_of_run",
    "predict_run",
    "score_expected",
    "score_run",
    "skill_curves",
    "standing_of",
]

Floats = NDArray[np.float64]
# Joint draws behind a leaderboard: at most, and at least; between them, so many draws times players.
NUM_DRAWS, FEWEST_DRAWS, MOST_LEVELS = 4000, 500, 10**8


def check_games(run: Run) -> None:
    """Refuse a run of a model that is not of games.

    Raises:
        InputError: saying which models are.
    """
    if not isinstance(run.model, KnowsOutcomes) or not isinstance(run.source, Games):
        such = [name for name, each in suite_models().items() if isinstance(each, KnowsOutcomes)]
        raise InputError(
            f"{run.settings.model} is no model of games between players, such as {in_words(such)}"
        )


def standing_of(run: Run, seed: int | None = None) -> Standing:
    """What a run knows of its players.

    Args:
        run: a fitted one.
        seed: of draws, where the guide's moments are not known by formula; the run's by default.

    Raises:
        InputError: for a run of a model that is not of games.
    """
    check_games(run)
    assert isinstance(run.model, KnowsOutcomes)
    assert isinstance(run.source, Games)
    chosen = run.settings.seed if seed is None else seed
    states = states_of(run.pair, *run.tensors("train"), seed=chosen)
    return Standing(run.model, states, run.source)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is expected of fixtures.

    Attributes:
        table: a row a game: ``date``, where there is one, its sides, and a probability for each outcome; of
            games of more sides a row a side: ``game``, ``side``, the probability ``first`` and the expected
            ``place``. ``mean`` and ``sd`` are of the first side's strength less the second's, or of a side's.
        scores: by game, P(i points to j) with i and j as index and columns, where the model knows scores.
        notes: who was never seen, and what else there is to say, in sentences.
    """

    table: pd.DataFrame
    scores: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...] = ()


def predict_run(
    run: Run,
    fixtures: Any,
    *,
    columns: Mapping[str, str] | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Predictions:
    """What a run expects of fixtures.

    Args:
        run: a fitted one.
        fixtures: games without outcomes (those that there are are not read): `Games`, a table, or a file.
        columns: which column plays which part, as for `read_games`.
        seed: of draws.
        progress: whether to say which columns were read as what.

    Raises:
        InputError: for a run of another model, and for fixtures that cannot be read.
    """
    standing = standing_of(run, seed)
    games = fixtures_of(fixtures, columns)
    say_understood(games, show=progress)
    expected = standing.expect(games)
    table = _by_game(expected, standing) if expected.outcomes else _by_side(expected, standing)
    return Predictions(table, _score_tables(expected), _unseen(expected))


def _unseen(expected: Expected) -> tuple[str, ...]:
    if not expected.unseen:
        return ()
    names = in_words(expected.unseen, most=8)
    was = "was" if len(expected.unseen) == 1 else "were"
    return (f"{names} {was} never seen before, and predicted from the prior",)


def _sides(games: Games) -> list[str]:
    """The sides of all games, teams with plus signs."""
    names = [games.players[at] for at in games.player]
    ends = games.entry_ptr
    return [" + ".join(names[ends[side] : ends[side + 1]]) for side in range(len(ends) - 1)]


def _dates(games: Games, standing: Standing) -> dict[str, list[str]]:
    return {} if games.time is None else {"date": dates_in_words(games.time, standing.games.time)}


def _by_game(expected: Expected, standing: Standing) -> pd.DataFrame:
    import pandas as pd

    sides, c = _sides(expected.games), expected.covariance
    variance = (c[:, 0, 0] + c[:, 1, 1] - 2 * c[:, 0, 1]).clamp_min(0.0)
    chances = dict(zip(expected.outcomes, expected.probability.T, strict=True))
    return pd.DataFrame(
        {
            **_dates(expected.games, standing), "first": sides[::2], "second": sides[1::2], **chances,
            "mean": (expected.mean[:, 0] - expected.mean[:, 1]).numpy(), "sd": variance.sqrt().numpy(),
        }
    )  # fmt: skip


def _by_side(expected: Expected, standing: Standing) -> pd.DataFrame:
    import pandas as pd

    games = expected.games
    game = np.repeat(np.arange(games.num_games), games.sides)
    side = np.arange(len(games.place)) - games.side_ptr[game]
    own = expected.covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    # One and how many others are ahead, in expectation; nobody is ahead of itself.
    others = np.arange(expected.probability.shape[1]) < games.sides[:, None]
    place = 0.5 + ((1 - expected.pairs()) * others[:, None]).sum(-1)
    dates = {name: np.asarray(texts)[game] for name, texts in _dates(games, standing).items()}
    return pd.DataFrame(
        {
            "game": game + 1, **dates, "side": _sides(games), "first": expected.probability[game, side],
            "place": place[game, side], "mean": expected.mean.numpy()[game, side],
            "sd": own.numpy()[game, side],
        }
    )  # fmt: skip


def _score_tables(expected: Expected) -> dict[str, pd.DataFrame]:
    import pandas as pd

    scores = expected.scores()
    if scores is None:
        return {}
    sides = _sides(expected.games)
    names = [f"{number + 1}: {sides[2 * number]} – {sides[2 * number + 1]}" for number in range(len(scores))]
    return {name: pd.DataFrame(each) for name, each in zip(names, scores, strict=True)}


@dataclass(frozen=True, eq=False)
class ScoredRun:
    """How good a run's forecasts of later games were.

    Attributes:
        results: scores of the outcomes of games: win, draw and loss, or who came first.
        pairs: of games of more sides: scores of who was ahead of whom, errors between games.
        notes: what has to be said, in sentences.
    """

    results: ForecastScores
    pairs: ForecastScores | None = None
    notes: tuple[str, ...] = ()


def score_run(
    run: Run,
    later: Any,
    *,
    walk_forward: bool = False,
    columns: Mapping[str, str] | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> ScoredRun:
    """Score a run's forecasts of games that came after all those that it was fitted to.

    Args:
        run: a fitted one.
        later: games with outcomes.
        walk_forward: whether a date's games are learnt before the next date's are forecast; the model's own
            numbers are held.
        columns: which column plays which part, as for `read_games`.
        seed: of draws and of bands.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for a run of another model, for games that cannot be read, and for games of which some
            are earlier than some that the run was fitted to.
    """
    standing = standing_of(run, seed)
    games = games_of_results(later, columns)
    say_understood(games, show=progress)
    notes: tuple[str, ...] = ()
    if games.time is None or standing.games.time is None:
        notes = ("the games have no dates: that they came after those learnt from is taken on trust",)
    else:
        # Earlier ones would be scored with what their own players did later.
        first, times = float(games.time.min()), standing.games.time
        check_later(first, standing.last, shown=lambda when: date_in_words(when, times))
    if walk_forward:
        dates = 1 if games.time is None else len(np.unique(games.time))
        with progress_bar("dates", dates, show=progress) as advance:
            guided = run.pair, lambda model, *data: guide_for(run.settings.guide, model, *data)
            expected = walk(standing, games, lambda: advance(1, ""), guided=guided)
    else:
        expected = standing.expect(games)
    mode = "walk-forward" if walk_forward else "frozen"
    found = score_expected(expected, standing, mode=mode, seed=run.settings.seed if seed is None else seed)
    return replace(found, notes=(*notes, *found.notes))


def guide_for(name: str, model: Any, *data: Any) -> Program:
    """A model's guide by its name: its own, or of a family for any model."""
    own = model.guides.get(name)
    guide: Program = named_guide(name, model) if own is None else own(model, *data)
    return guide


def score_expected(
    expected: Expected, standing: Standing, *, mode: str = "frozen", seed: int = 0
) -> ScoredRun:
    """Score forecasts beside base rates: those of the games learnt from, or equal chances where any side may
    come first.

    Args:
        expected: of later games with outcomes.
        standing: what was known before them.
        mode: "frozen" or "walk-forward".
        seed: of bands.

    Raises:
        InputError: where no game had one of the outcomes.
    """
    told = np.flatnonzero(expected.outcome >= 0)
    if not len(told):
        raise InputError("no game had an outcome that the model knows: there is nothing to score")
    notes = _unseen(expected)
    if left := len(expected.outcome) - len(told):
        what = "draws, which the model has none of" if expected.outcomes else "games that nobody won alone"
        notes = (*notes, f"{left} of {len(expected.outcome)} games are left out: {what}")
    chances, size = expected.probability[told], expected.size[told]
    forecasts = Forecasts.of(chances, expected.outcome[told], size=size, labels=expected.outcomes)
    base, said = _base(expected, standing)
    if base is None:
        base = uniform_rates(size)
    found = score_forecasts(forecasts, base=base, mode=mode, seed=seed)
    pairs = None
    if isinstance(expected.model, KnowsPlaces) and not expected.outcomes:
        pairs = _score_pairs(expected, mode, seed)
    return ScoredRun(found, pairs, (*notes, *said))


def _base(expected: Expected, standing: Standing) -> tuple[Floats | None, tuple[str, ...]]:
    """How often the games learnt from had each outcome, and what is to be said of it."""
    if not expected.outcomes:
        return None, ()
    model = standing.model
    known = model.outcome_numbers(*model.arguments_of(standing.games)).numpy()
    known, last = known[known >= 0], len(expected.outcomes) - 1
    # Where the winner is always named first, its place says nothing about who will win.
    winner_first = not (known == last).any() and bool((known == 0).any())
    said = ("winners are named first: base rates give both sides the same chance",) if winner_first else ()
    return base_rates(known, last + 1, exchangeable=winner_first), said


def _score_pairs(expected: Expected, mode: str, seed: int) -> ForecastScores:
    """Who was ahead of whom, in all pairs of sides that did not tie."""
    place = expected.data[0].numpy()
    game, better, worse = pairs_of_rankings(place)
    # The side that comes first in the file is the first of a pair, for it to win or to lose.
    first, second = np.minimum(better, worse), np.maximum(better, worse)
    ahead = expected.pairs()[game, first, second]
    forecasts = Forecasts.of(ahead, (first != better).astype(np.int64), cluster=game)
    return score_forecasts(forecasts, base=[0.5, 0.5], mode=mode, seed=seed)


def leaderboard_of_run(
    run: Run, date: str | None = None, *, num_draws: int | None = None, seed: int | None = None
) -> Leaderboard:
    """A run's players, by what they are almost surely worth.

    Args:
        run: a fitted one.
        date: such as 2024-05-01; that of the last game by default. Before it, levels are those that all games
            show, later ones too; players who had not begun are left out.
        num_draws: joint draws behind ranks; 4,000 by default, of more than 25,000 players fewer.
        seed: of them; the run's by default.

    Raises:
        InputError: for a run of another model, fewer draws than one, or a date that cannot be read or that
            its games do not have.
    """
    standing = standing_of(run, seed)
    chosen = run.settings.seed if seed is None else seed
    games = standing.games
    if num_draws is None:
        num_draws = max(FEWEST_DRAWS, min(NUM_DRAWS, MOST_LEVELS // games.num_players))
    check_whole(1, num_draws=num_draws)
    if games.time is None:
        if date is not None:
            raise InputError("--date is of games that have dates, and these have none")
        mean, sd, draws = standing.levels(num_draws=num_draws, seed=chosen)
        return leaderboard(games.players, mean, sd, draws)
    when = standing.last if date is None else as_days(date, games.time)
    begun = np.flatnonzero(standing.first_games <= when)
    if not len(begun):
        first = date_in_words(float(games.time.min()), games.time)
        raise InputError(f"nobody had played by {date}: the first game is of {first}")
    mean, sd, draws = standing.curve(begun, np.full(len(begun), when), num_draws, chosen)
    names = [games.players[at] for at in begun]
    left = games.num_players - len(begun)
    notes = (f"{left} players who had not begun by then are left out",) if left else ()
    return leaderboard(names, mean, sd, draws, date=date_in_words(when, games.time), notes=notes)


def skill_curves(run: Run, players: Sequence[str] | None = None, *, seed: int | None = None) -> pd.DataFrame:
    """Levels over time, at the dates of each player's games.

    Args:
        run: a fitted one.
        players: names; all by default.
        seed: of draws, where they are needed.

    Returns:
        A row a player and date: ``player``, ``date``, ``mean``, ``sd``, and ``low`` and ``high``, 5 % and 95
        %.

    Raises:
        InputError: for a run of another model, one without dates, or a player that is not in it.
    """
    import pandas as pd

    standing = standing_of(run, seed)
    games = standing.games
    if games.time is None:
        raise InputError("levels over time are of games that have dates, and these have none")
    place = {name: at for at, name in enumerate(games.players)}
    chosen = list(games.players) if players is None else list(players)
    if missing := [name for name in chosen if name not in place]:
        raise InputError(f"{in_words(missing)} played no game of this run")
    when = np.repeat(games.time, np.diff(games.entry_ptr[games.side_ptr]))
    every = np.unique(np.stack([games.player, when], 1), axis=0)
    asked = every[np.isin(every[:, 0], [place[name] for name in chosen])]
    player, time = asked[:, 0].astype(np.int64), asked[:, 1].copy()
    mean, sd, _ = standing.curve(player, time)
    return pd.DataFrame(
        {
            "player": [games.players[at] for at in player], "date": dates_in_words(time, games.time),
            "mean": mean, "sd": sd, "low": mean - NINETY * sd, "high": mean + NINETY * sd,
        }
    )  # fmt: skip
