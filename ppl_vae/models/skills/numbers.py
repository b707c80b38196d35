"""The numbers of a model of skills: held where they were given, learnt where not."""

from __future__ import annotations

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.models.skills.lineup import Lineup
from ppl_vae.models.skills.options import SkillsOptions

__all__ = ["Numbers"]


class Numbers(PyroModule):  # type: ignore[misc]
    """What a model of skills has of numbers, each positive, in skill units.

    Attributes:
        lineup, options: the model's.
        weighted: whether games count by their weights.
        held: by name, whether a number is held.
    """

    lineup: Lineup
    options: SkillsOptions
    weighted: bool
    held: dict[str, bool]

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.held = {}

    def add_number(
        self, name: str, given: float | None, start: float, learns: bool, dtype: torch.dtype
    ) -> None:
        """A number that is held, or learnt on the scale of its logarithm."""
        self.held[name] = given is not None or not learns
        value = torch.tensor(start if given is None else given, dtype=dtype)
        if self.held[name]:
            self.register_buffer(f"held_{name}", value, persistent=False)
        else:
            self.register_parameter(f"log_{name}", nn.Parameter(value.log()))

    def number(self, name: str) -> Tensor:
        """One of the model's numbers, held or learnt, in skill units."""
        found: Tensor = (
            getattr(self, f"held_{name}") if self.held[name] else getattr(self, f"log_{name}").exp()
        )
        return found

    @property
    def numbers(self) -> dict[str, float]:
        """The model's numbers as they are now, by name, in skill units."""
        used = {"margin": self.options.draws, "drift_sd": bool(self.options.drift)}
        used |= {
            "group_sd": bool(self.lineup.effects.groups),
            "performance_sd": self.options.outcome != "goals",
        }
        return {name: self.number(name).item() for name in self.held if used.get(name, True)}
