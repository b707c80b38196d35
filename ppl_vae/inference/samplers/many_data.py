"""NUTS on one data set after another: the density is compiled once, and its data are changed in place."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.base.precision import cast_data, default_dtype
from ppl_vae.base.seeds import keep_generator
from ppl_vae.base.threads import one_thread
from ppl_vae.engine.density import density
from ppl_vae.engine.gradients import Gradient, engine_of_chains, gradient
from ppl_vae.engine.graph import Compile, Untraceable
from ppl_vae.guides.prior import Prior
from ppl_vae.inference.samplers.chains import ChainSettings
from ppl_vae.inference.samplers.nuts import nuts_positions
from ppl_vae.inference.samplers.starts import drawn_from, starting_points
from ppl_vae.inference.samplers.unconstrained import without_padding
from ppl_vae.program.improper import Feasible
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["Chained", "ManyData", "thinning"]

Data = tuple[Any, ...]

# The data sets on which the graph is compared with the program, besides the one it was traced on.
COMPARED = 3
MOST_THINNING = 20
# Coordinates whose effective draws are counted.
LOOKED_AT = 50


@dataclass(frozen=True, eq=False)
class Chained:
    """Draws of one data set's posterior.

    Attributes:
        draws: by site, each of shape (chains, draws, *plates, *event), in float64.
        positions: the same in unconstrained space, (chains, draws, dim).
        log_density: of each position, its Jacobian included, (chains, draws).
        divergences: number of diverging transitions.
    """

    draws: dict[str, Tensor]
    positions: np.ndarray
    log_density: np.ndarray
    divergences: int


class ManyData:
    """Chains of NUTS on data sets of one shape, in float64.

    Args:
        pair: its model is sampled.
        data: the first data set.
        settings: of the chains on every data set; the seed is given anew for each.
        num_data_sets: how many are to come; decides whether the gradient is compiled.
        compile: as in `nuts.sample`.

    Attributes:
        seconds: what compiling took.

    Raises:
        Untraceable: if a latent site is discrete, or the graph of the first data set is not that of others.
    """

    def __init__(
        self, pair: Pair, *data: Any, settings: ChainSettings, num_data_sets: int, compile: Compile = "auto"
    ) -> None:
        start = time.perf_counter()
        self.settings = settings
        with default_dtype(torch.float64), one_thread(), pyro.validation_enabled(False), keep_generator():
            self.data = tuple(_own(values) for values in cast_data(data, torch.float64))
            self.pair = pair.cast_model(torch.float64, Prior)
            with Feasible():
                self.layout = Problem.of(self.pair, *self.data).layout
            self.density = density(self.pair, *self.data)
            engine = engine_of_chains(compile, settings.iterations * num_data_sets)
            each = settings.iterations * num_data_sets // settings.chains
            self.gradient: Gradient = gradient(
                self.density, engine, chains=settings.chains, native=True,
                iterations=each if compile == "auto" else None,
            )  # fmt: skip
        self.seconds = time.perf_counter() - start
        self._compared = 0

    def __call__(self, data: Sequence[Any], seed: int, num_draws: int | None = None) -> Chained:
        """Sample the posterior given one data set.

        Args:
            data: the model's data, of the first one's shapes.
            seed: of the chains.
            num_draws: kept draws a chain, if other than the settings'.

        Raises:
            InputError: if no starting point of finite density is found.
            Untraceable: if the program computes something else on these data than its graph.
        """
        settings = replace(self.settings, seed=seed % 2**32, num_draws=num_draws or self.settings.num_draws)
        with default_dtype(torch.float64), one_thread(), pyro.validation_enabled(False), keep_generator():
            self._take(tuple(data))
            prior = drawn_from(self.pair.guide, self.pair, self.data)
            starts = starting_points(
                self.density, self.gradient.of_each, settings.chains, settings.seed, proposals=[prior]
            )
            positions, stats = nuts_positions(
                self.gradient, starts, settings, correlated=False, advance=lambda n, text: check_time()
            )
            with torch.no_grad():
                values = self.density.constrain(positions)
        draws = {name: without_padding(values[name], name, self.layout) for name in self.layout.latents}
        divergences = int(stats["diverging"].sum()) if "diverging" in stats else 0
        return Chained(draws, positions.numpy(), stats["lp"].to_numpy(), divergences)

    def _take(self, data: Data) -> None:
        with torch.no_grad():
            for own, values in zip(self.data, cast_data(data, torch.float64), strict=True):
                if isinstance(own, Tensor):
                    own.copy_(values)
                elif own is not values and own != values:
                    raise Untraceable("data that are no tensors change from one data set to the next")
        if self._compared < COMPARED and self.gradient.engine != "pyro":
            self._compared += 1
            self._compare()

    def _compare(self) -> None:
        """Program and graph at a random point, on the data that are in place."""
        at = torch.randn(self.density.dim)
        expected = self.density.value_and_gradient(at)
        values, slopes = self.gradient.of_each(at.expand(self.settings.chains, -1), [0])
        found = values[0], slopes[0]
        for a, b in zip(expected, found, strict=True):
            if not torch.allclose(a, b, rtol=1e-6, atol=1e-6 * (1.0 + float(a.abs().max()))):
                raise Untraceable("the program computes something else on other data, so its graph is theirs")


def thinning(chained: Sequence[Chained]) -> int:
    """Every how manieth draw is to be kept, for the kept ones to be nearly independent.

    The rule is the ratio of draws to effective draws (bulk and tail) of the slowest coordinate or log
    density, in the median data set. At least 2: neighbouring draws of NUTS are often negatively
    correlated, and ranks among such draws are too even.
    """
    from arviz_stats.base import array_stats

    ratios = []
    for one in chained:
        apart = max(1, one.positions.shape[-1] // LOOKED_AT)
        columns = [one.log_density, *np.moveaxis(one.positions, -1, 0)[::apart]]
        sizes = [
            min(
                float(array_stats.ess(column, method="bulk")),
                float(array_stats.ess(column, method="tail", prob=(0.05, 0.95))),
            )
            for column in columns
        ]
        ratios.append(one.log_density.size / max(min(sizes), 1.0))
    return int(np.clip(math.ceil(float(np.median(ratios)) - 0.1), 2, MOST_THINNING))


def _own(values: Any) -> Any:
    return values.detach().clone().contiguous() if isinstance(values, Tensor) else values
