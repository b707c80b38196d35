"""Rivals' forecasts of the games that ours were scored on, scored by the same functions in the same run."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.skills._rivals import (
    Choix,
    OpenSkill,
    Rival,
    ThroughTime,
    TrueSkill,
    draw_rate,
    installed,
    lineups,
)  # fmt: skip
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.forecasts import Forecasts, base_rates, pairs_of_rankings
from ppl_vae.diagnostics.forecasting.scoring import ForecastScores, score_forecasts

__all__ = ["beside_frozen", "beside_races", "beside_walk"]

Made = tuple[type[Rival], Callable[[], Rival]]


def beside_frozen(before: Games, after: Games) -> None:
    """Forecasts of all later games of two sides from the earlier ones alone."""
    drawn = draw_rate(before)
    rivals: list[Made] = [
        (TrueSkill, TrueSkill),
        (TrueSkill, lambda: TrueSkill(drawn)),
        (OpenSkill, OpenSkill),
        (OpenSkill, lambda: OpenSkill(draws=drawn)),
        (OpenSkill, lambda: OpenSkill("ThurstoneMostellerFull", drawn)),
        (ThroughTime, lambda: ThroughTime(drawn)),
    ]
    if before.covariates:
        rivals.append((ThroughTime, lambda: ThroughTime(drawn, home=True)))
    for rival in _made(rivals):
        begun = time.process_time()
        rival.learn(before)
        chances = rival.results(after)
        _print(rival, _scored(chances, before, after), time.process_time() - begun)


def beside_walk(before: Games, after: Games) -> None:
    """Games of two sides, every date from all before it."""
    drawn = draw_rate(before)
    rivals: list[Made] = [
        (TrueSkill, lambda: TrueSkill(drawn)), (OpenSkill, lambda: OpenSkill(draws=drawn)),
        (ThroughTime, lambda: ThroughTime(drawn)), (ThroughTime, lambda: ThroughTime(drawn, home=True)),
    ]  # fmt: skip
    for rival in _made(rivals):
        begun = time.process_time()
        chances = np.empty((after.num_games, 3))
        for at in rival.walk(before, after):
            chances[at] = rival.results(after.take(at))
        _print(rival, _scored(chances, before, after), time.process_time() - begun)


def beside_races(before: Games, after: Games) -> None:
    """Who is ahead of whom in races of single players, every date from all before it."""
    rivals: list[Made] = [
        (TrueSkill, TrueSkill),
        (TrueSkill, lambda: TrueSkill(0.0)),
        (OpenSkill, OpenSkill),
        (OpenSkill, lambda: OpenSkill("ThurstoneMostellerFull")),
        (ThroughTime, ThroughTime),
        (Choix, Choix),
    ]
    for rival in _made(rivals):
        begun, found = time.process_time(), []
        for at in rival.walk(before, after):
            found += [(places, rival.ahead(sides, when)) for sides, places, when in lineups(after.take(at))]
        _print(rival, _pairs(found), time.process_time() - begun)


def _made(rivals: Sequence[Made]) -> Sequence[Rival]:
    """Those that are installed; the others are named."""
    missing = sorted({rival.package for rival, _ in rivals if not installed(rival)})
    if missing:
        print(f"    not installed and left out: {', '.join(missing)}", flush=True)
    return [make() for rival, make in rivals if installed(rival)]


def _outcomes(games: Games) -> np.ndarray:
    """0 for a win of the first of two sides, 1 for a draw, 2 for a loss."""
    first, second = games.place[games.side_ptr[:-1]], games.place[games.side_ptr[:-1] + 1]
    return 1 + np.sign(first - second).astype(np.int64)


def _scored(chances: np.ndarray, before: Games, after: Games) -> ForecastScores:
    forecasts = Forecasts.of(chances, _outcomes(after))
    return score_forecasts(forecasts, base=base_rates(_outcomes(before), 3))


def _pairs(found: Sequence[tuple[Sequence[int], np.ndarray]]) -> ForecastScores:
    """Scores of all pairs of sides, the one that is listed first for it to win or to lose."""
    chances, outcome, race = [], [], []
    for number, (places, ahead) in enumerate(found):
        _, better, worse = pairs_of_rankings(np.array(places)[None])
        first, second = np.minimum(better, worse), np.maximum(better, worse)
        chances.append(ahead[first, second])
        outcome.append((first != better).astype(np.int64))
        race.append(np.full(len(first), number))
    forecasts = Forecasts.of(*map(np.concatenate, (chances, outcome)), cluster=np.concatenate(race))
    return score_forecasts(forecasts, base=[0.5, 0.5])


def _print(rival: Rival, scores: ForecastScores, seconds: float) -> None:
    loss, error = scores.table.loc["log loss", ["value", "std_error"]]
    rest = ", ".join(f"{score} {scores[score]:.3f}" for score in ("accuracy", "Brier", "calibration error"))
    print(f"    {rival.said}: log loss {loss:.4f} ± {error:.4f}; {rest}; {seconds:.1f} s", flush=True)
