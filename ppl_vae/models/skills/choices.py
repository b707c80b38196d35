"""Which models of skills may be tried on the same games.

Evidence compares models of the same data, and all of these are given wins, draws and losses. What differs in
draws is their law: with probit and logistic links games within a margin are drawn (Rao and Kupper), while
Davidson's draws are the geometric mean of both sides' chances, which fall off half as fast as one side gets
ahead. The margin is learnt in each. A margin that is held is no model beside them: the learnt one is as good
or better by construction. Games without their draws, or with draws counted as half a win, are other data.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from ppl_vae.models.skills.options import SkillsOptions

if TYPE_CHECKING:
    from ppl_vae.data.games import Games

__all__ = ["choices"]

AT_REST = "none"
LINKS = ("probit", "logistic")


def choices(
    games: Games, drifts: Sequence[str], links: Sequence[str] | None = None
) -> dict[str, SkillsOptions]:
    """See `Skills.choices`."""
    two = bool((games.sides == 2).all())
    draws = two and games.has_ties
    home = games.covariates.get("home")
    at_home = (True, False) if home is not None and home.any() and not home.all() else (False,)
    found = {}
    tried = links or (*LINKS, *(["davidson"] if draws else []))
    for link, drift, has_home in product(tried, drifts, at_home):
        rests = drift == AT_REST
        words = [link, "at rest" if rests else f"drift {drift}", *(["home"] if has_home else [])]
        # Of more sides, the same law of performances is called by its own name.
        law = "gumbel" if link == "logistic" and not two else link
        options = SkillsOptions(link=law, draws=draws, drift="" if rests else drift, home=has_home)
        found[", ".join(words)] = options
    return found
