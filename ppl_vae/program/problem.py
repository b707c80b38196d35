"""What a method works on: a pair with its data and its layout."""

from dataclasses import dataclass
from typing import Any

from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A pair with its data.

    Attributes:
        pair: model and guide.
        data: the programs' full data.
        layout: what the pair's programs look like on these data.
    """

    pair: Pair
    data: tuple[Any, ...]
    layout: Layout
