"""Exact answers, from models that know them."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.labels import to_dataset
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.guides.prior import Prior
from ppl_vae.program.abilities import ExactEvidence, ExactPosterior, Joint
from ppl_vae.program.defined import about_weights
from ppl_vae.program.memory import refuse_too_many_draws
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.probe import check_data
from ppl_vae.program.problem import Problem
from ppl_vae.program.program_names import name_of

__all__ = ["draws", "log_evidence", "sampled", "summed_posterior"]


@torch.no_grad()
def draws(
    model: Program, *data: Any, num_draws: int = 1000, coords: dict[str, Any] | None = None, seed: int = 0
) -> Posterior:
    """Independent draws from the exact posterior p(z | x), the model's parameters held.

    Args:
        model: a model that is `ExactPosterior`.
        data: its data.
        num_draws: number of draws.
        coords: labels of dimensions, such as the indices of the data given.
        seed: of the draws.

    Raises:
        InputError: if the model does not know its posterior, or the draws do not fit into memory.
    """
    if not isinstance(model, ExactPosterior):
        raise InputError(f"{name_of(model)} does not know its exact posterior; sample it with NUTS")
    check_data(model, *data)
    start = time.perf_counter()
    check_whole(1, num_draws=num_draws)
    found = model.exact_posterior(*data)
    parts = [found.distribution] if isinstance(found, Joint) else [*found.values()]
    refuse_too_many_draws(num_draws, sum(map(_numbers, parts)))
    with seeded(seed):
        values = sampled(found, torch.Size([1, num_draws]))
    plates = Problem.of(Pair(model, Prior(model)), *data).layout.latents
    return Posterior(
        draws=to_dataset(values, plates, model, coords),
        method="exact",
        dependence="independent",
        seconds=time.perf_counter() - start,
    )


def sampled(
    posterior: Mapping[str, torch.distributions.Distribution] | Joint, shape: torch.Size
) -> dict[str, Tensor]:
    """Draws of an exact posterior by site.

    Args:
        posterior: as `ExactPosterior` gives it.
        shape: of the draws.
    """
    if isinstance(posterior, Joint):
        return posterior.sample(shape)
    return {name: one.sample(shape) for name, one in posterior.items()}


def summed_posterior(model: Program, data: tuple[Any, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """p(k | x) of every discrete latent k: probabilities, shape (units, values), and the values.

    Args:
        model: a model that is `ExactPosterior`.
        data: its data.

    Raises:
        InputError: if the model does not know its posterior.
    """
    if not isinstance(model, ExactPosterior):
        raise InputError(f"{name_of(model)} does not know the exact posterior of what is summed out")
    found, known = {}, model.exact_posterior(*data)
    for name, posterior in () if isinstance(known, Joint) else known.items():
        if posterior.has_enumerate_support:
            values = posterior.enumerate_support(expand=False).reshape(-1)
            logs = posterior.log_prob(values.reshape(-1, *[1] * len(posterior.batch_shape)))
            found[name] = (logs.exp().T, values)
    return found


def _numbers(posterior: torch.distributions.Distribution) -> int:
    """In one draw."""
    return (posterior.batch_shape + posterior.event_shape).numel()


@torch.no_grad()
def log_evidence(model: Program, *data: Any) -> Evidence:
    """log p(x) by formula, the model's parameters held.

    Args:
        model: a model that is `ExactEvidence`.
        data: its data.

    Raises:
        InputError: if the model does not know its evidence.
    """
    if not isinstance(model, ExactEvidence):
        raise InputError(
            f"{name_of(model)} does not know its exact evidence; estimate it by importance sampling"
        )
    check_data(model, *data)
    start = time.perf_counter()
    values = model.exact_log_evidence(*data).double().cpu().numpy()
    zeros = np.zeros_like(values)
    layout = Problem.of(Pair(model, Prior(model)), *data).layout
    return Evidence(
        log_evidence=values,
        method="exact",
        unit=layout.unit,
        kind="exact",
        std_error=zeros,
        bias=zeros,
        notes=about_weights(layout),
        seconds=time.perf_counter() - start,
    )
