"""Models of skills for tests, and their programs' own densities."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data.games import Games
from ppl_vae.models import Skills


def tensors(model: Any, games: Games) -> tuple[Tensor, ...]:
    return games.dataset.arguments(type(model).inputs_for(model.options), torch.float64)


def made(games: Games, **options: Any) -> tuple[Any, tuple[Tensor, ...]]:
    model = Skills.from_data(games, **options)
    data = tensors(model, games)
    model.check_data(*data)
    return model, data


def log_likelihood(model: Any, data: tuple[Tensor, ...], skill: Tensor) -> Tensor:
    """log p(x | s) of many s at once, by the program, as under a plate of particles."""
    given = skill.unsqueeze(-2) if isinstance(model, Skills) else skill
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(model, data={"skill": given})).get_trace(*data)
        trace.compute_log_prob()
    (found,) = [trace.nodes[name]["log_prob"] for name in trace.observation_nodes if name != "skill"]
    return found.sum(-1)
