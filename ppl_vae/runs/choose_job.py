"""What `choose` does: models of the same games by their evidence, beside their log loss on later games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.base.arguments import check_real
from ppl_vae.base.errors import InputError
from ppl_vae.base.plain import plain
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.wording import in_words, with_error
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.standing import Standing, states_of
from ppl_vae.guides.joint_normal import JointNormal
from ppl_vae.inference.fitting import natural
from ppl_vae.models.base import OffersChoices, SuiteModel
from ppl_vae.program.pair import Pair
from ppl_vae.runs.later_games import games_of_results
from ppl_vae.runs.registry import find_model, suite_models

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Choice", "choose_model"]

# States up to which the best joint Gaussian says how much of the evidence independent chains miss.
MOST_JOINT = 1500
# Nats of evidence between models that are as good as each other.
NOTHING = 3.0


@dataclass(frozen=True, eq=False)
class Choice:
    """Models of the same games.

    Attributes:
        table: a row a model, the largest ``evidence`` first: the ELBO of the earlier games in nats, a bound
            on log p(x) at the learnt numbers; ``gap``, by how much the best joint Gaussian raises it (NaN
            above 1,500 states, where it would take too long); ``below``, how far it lies below the best; the
            ``log_loss`` on later games with its ``log_loss_std_error``; and the model's ``numbers`` in words.
        num_games, num_later: how many games each is of.
        base_log_loss: that of base rates on the later games.
    """

    table: pd.DataFrame
    num_games: int
    num_later: int
    base_log_loss: float

    def to_json(self) -> dict[str, Any]:
        """What ``choose --json`` prints."""
        return {
            "models": plain(self.table.reset_index().to_dict("records")), "num_games": self.num_games,
            "num_later": self.num_later, "base_log_loss": self.base_log_loss, "sentences": self.sentences(),
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """What the table says, and whether its two columns agree."""
        best, later = str(self.table.index[0]), str(self.table["log_loss"].idxmin())
        close = [str(name) for name in self.table.index[1:] if self.table.loc[name, "below"] < NOTHING]
        found = [
            f"By evidence: {best}" + (f" (within {NOTHING:g} nats: {'; '.join(close)})." if close else ".")
        ]
        if later == best:
            found.append(f"It forecasts later games best, too (base rates: {self.base_log_loss:.4f}).")
        else:
            worse = self.table.loc[best, "log_loss"] - self.table.loc[later, "log_loss"]
            error = float(self.table.loc[best, "log_loss_std_error"])
            found.append(
                f"Later games were forecast best by {later}: the log loss of {best} is "
                f"{with_error(worse, None, 4)} higher (either has an error of about {error:.4f}; base rates: "
                f"{self.base_log_loss:.4f}). Both can be right: a model that does not let skills change may "
                "fit the past better than it predicts, and the bound favours models in which the guide is "
                "tight."
            )
        if (self.table["gap"] > NOTHING).any():
            found.append("Where the gap is larger than differences of evidence, these say nothing.")
        if self.table["gap"].isna().any():
            found.append(
                f"No gap is known of models of more than {MOST_JOINT:,} states, one for every player and "
                "date: differences of evidence may be less than what independent chains miss of it."
            )
        return found


def choose_model(
    source: Any,
    *,
    model: str | None = None,
    later: float = 0.2,
    drifts: Sequence[str] = ("none", "1y"),
    links: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Choice:
    """Fit models to the earlier games and score each on the later ones.

    Args:
        source: games with dates and outcomes: `Games`, a table, or a file.
        model: the family; the first of the suite that offers choices by default.
        later: share of the games that are forecast, the last ones; games of one date stay together.
        drifts: units of time over which skills drift; "none" for skills at rest.
        links: how performances vary, and with them draws; the family's usual ones by default.
        columns: which column plays which part.
        seed: of bands.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for games without dates, or a model that offers no choices.
    """
    check_real(lambda share: 0 < share < 1, "is a share between 0 and 1", later=later)
    offering = [name for name, each in suite_models().items() if isinstance(each, OffersChoices)]
    cls = find_model(model or offering[0])
    if not isinstance(cls, OffersChoices):
        raise InputError(f"{model} offers no choices; {in_words(offering)} does")
    games = games_of_results(source, columns)
    before, after = _split(games, later)
    asked = cls.choices(before, drifts=drifts, links=links)
    rows, base = {}, float("nan")
    with progress_bar("models", len(asked), show=progress) as advance:
        for name, options in asked.items():
            rows[name], base = _tried(cls, before, after, options, seed)
            advance(1, name)
    import pandas as pd

    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    table = table.sort_values("evidence", ascending=False, kind="stable")
    table.insert(1, "below", table["evidence"].max() - table["evidence"])
    return Choice(table, before.num_games, after.num_games, base)


def _split(games: Games, share: float) -> tuple[Games, Games]:
    """The earlier games and the later ones, by date."""
    if games.time is None:
        raise InputError(f"{games.name} has no dates, by which later games are told from earlier ones")
    times = np.sort(games.time)
    cut = times[min(int((1 - share) * len(times)), len(times) - 1)]
    late = games.time >= cut
    if late.all():
        raise InputError(f"{games.name} has too few dates: all its games would be later ones")
    return games.take(np.flatnonzero(~late)), games.take(np.flatnonzero(late))


def _tried(
    cls: type[SuiteModel], before: Games, after: Games, options: Any, seed: int
) -> tuple[dict[str, Any], float]:
    """A row of the table, and the log loss of base rates."""
    from ppl_vae.runs.game_jobs import score_expected

    model: Any = cls.from_data(before, options)
    data = model.arguments_of(before)
    pair = Pair(model, cls.guides["markov"](model, *data))
    fit = natural.fit(pair, *data, train="both", progress=False)
    standing = Standing(model, states_of(pair, *data, seed=seed), before)
    scored = score_expected(standing.expect(after), standing, seed=seed).results
    row = scored.table.loc["log loss"]
    return {
        "evidence": fit.final.value,
        "gap": _gap(model, data, fit.final.value),
        "log_loss": float(row["value"]),
        "log_loss_std_error": float(row["std_error"]),
        "numbers": ", ".join(
            f"{name.replace('_', ' ')} {value:.3g}" for name, value in model.numbers.items()
        ),
    }, float(row["base"])


def _gap(model: Any, data: tuple[Any, ...], elbo: float) -> float:
    """How many nats the best joint Gaussian finds above independent chains, the model's numbers held."""
    if model.normal_prior()[1].num_states > MOST_JOINT:
        return float("nan")
    pair = Pair(model, JointNormal(model))
    return natural.fit(pair, *data, progress=False).final.value - elbo
