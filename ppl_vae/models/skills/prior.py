"""What the prior of each state is made of, before the model's numbers are known."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.models.skills.lineup import Lineup
from ppl_vae.models.skills.options import SkillsOptions
from ppl_vae.models.skills.starts import Starts, unit_of_time

__all__ = ["prior_parts"]


def prior_parts(lineup: Lineup, options: SkillsOptions, starts: Starts) -> dict[str, Tensor]:
    """Parts of the prior, each of shape (N,).

    Args:
        lineup: states, players and effects.
        options: as they were asked for.
        starts: numbers that the games suggest.

    Returns:
        ``prior_mean``; the prior sd of a chain's first state, which is ``given_sd``, plus the model's
        ``skill_sd`` where ``own_sd`` is 1, plus its ``group_sd`` where ``by_group`` is 1; and ``gap``, the
        time since the state before, in units of the drift's.
    """
    states, roster, kinds = lineup.schedule.states_by_rounds, lineup.roster, lineup.effects.kinds
    mean, sd = torch.as_tensor(roster.mean), torch.as_tensor(roster.sd)
    base = mean.new_tensor([starts.base * (kind == "base") for kind in kinds])
    given = {"effect": options.covariate_sd or starts.performance_sd, "group": 0.0, "base": 1.0}
    groups = mean.new_tensor([float(kind == "group") for kind in kinds])
    parts = {
        "prior_mean": torch.cat([mean.nan_to_num(options.skill_mean or 0.0), base]),
        "given_sd": torch.cat([sd.nan_to_num(0.0), mean.new_tensor([given[kind] for kind in kinds])]),
        "own_sd": torch.cat([sd.isnan().to(sd), torch.zeros_like(groups)]),
        "by_group": torch.cat([torch.zeros_like(sd), groups]),
    }
    chain = torch.as_tensor(states.chain)
    gap = torch.as_tensor(states.gap / unit_of_time(options))
    return {name: values[chain] for name, values in parts.items()} | {"gap": gap}
