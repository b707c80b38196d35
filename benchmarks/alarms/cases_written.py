"""Programs as users write them, where the right answer is not that of the program run naively.

Each problem has a plain form, from which guides and truth are made, and the program and data that are
checked: one that subsamples or tempers itself, data that broadcast, files of large numbers, networks left in
training.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from benchmarks.alarms.cases_exact import linear_problem
from benchmarks.alarms.cases_modes import on_a_grid
from benchmarks.alarms.guides import moments, normal_guide
from benchmarks.alarms.problems import Problem, Refusal
from ppl_vae.base.seeds import seeded
from ppl_vae.data.user_data import read_arguments
from ppl_vae.program.pair import Program

__all__ = ["PROBLEMS"]

DRAWS = 10_000
DOUBLE = torch.float64
X = torch.from_numpy(np.random.default_rng(51).normal(1.0, 1.0, 20))
FEW = ("full-rank", "narrow", "AutoDelta")


def _mean(x: Tensor) -> None:
    """μ ~ N(0, 1), x_n ~ N(μ, 1)."""
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def _of_mean(
    name: str, family: str, asked: Callable[[], tuple[Program, tuple[Tensor, ...]]], refusal: Refusal,
    plain: Program = _mean, scale: float = 1.0,
) -> Problem:  # fmt: skip
    """The mean of 20 numbers: N(Σx/21, scale/21)."""
    exact = dist.Normal(X.sum() / 21, torch.tensor(math.sqrt(scale / 21), dtype=DOUBLE))
    with seeded(52):
        mu = exact.sample(torch.Size([DRAWS]))
    return Problem(name, family, plain, (X,), {"mu": mu}, FEW, asked=asked, refusal=refusal)


# Programs that take a part of the data themselves, or temper their density.


def _subsample_size(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x), subsample_size=5) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def _subsample_given(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    some = torch.tensor([3, 1, 7, 8, 2])
    with pyro.plate("data", len(x), subsample=some):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[some])


def _scaled_by_hand(x: Tensor) -> None:
    """The first five data stand for all twenty."""
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with poutine.scale(scale=len(x) / 5), pyro.plate("data", 5):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[:5])


def _tempered_mean(x: Tensor) -> None:
    """The density that half the log density of `_mean` is: every variance doubled."""
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), math.sqrt(2)))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, math.sqrt(2)), obs=x)


def _tempered() -> Problem:
    program: Program = poutine.scale(_mean, scale=0.5)
    return _of_mean("tempered", "subsampling", lambda: (program, (X,)), "allowed", _tempered_mean, 2.0)


# Data that broadcast against a plate: the likelihood would be counted twenty times.


def _column_errors(x: Tensor, error: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, error), obs=x)


def _column_mean(x: Tensor, ones: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu * ones, 1.0), obs=x)


def _ignoring(x: Tensor, ones: Tensor) -> None:
    _mean(x)


def _with_column(name: str, program: Program) -> Problem:
    ones = torch.ones(20, dtype=DOUBLE)
    found = _of_mean(name, "broadcasting", lambda: (program, (X, ones[:, None])), "required", _ignoring)
    return Problem(
        name, found.family, _ignoring, (X, ones), found.reference, ("full-rank", "narrow"),
        asked=found.asked, refusal="required",
    )  # fmt: skip


# Columns of files whose values float32 cannot tell apart.


def _line(time: Tensor, y: Tensor) -> None:
    """β = (b, c): y_n ~ N(c + b (t_n − min t), 1), with sd 1 and 10 before."""
    start = torch.tensor([1.0, 10.0], dtype=time.dtype)
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(start), start).to_event(1))
    elapsed = time - time.min()
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(beta[..., 0] * elapsed + beta[..., 1], 1.0), obs=y)


def _read(columns: Mapping[str, Sequence[float]], model: Program) -> tuple[Program, tuple[Tensor, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        pd.DataFrame(columns).to_csv(path, index=False, float_format="%.17g")
        return model, read_arguments([str(path)], model)


def _times(name: str, start: float, step: float) -> Problem:
    """A straight line through values of a quantity that is large and moves little."""
    generator = np.random.default_rng(53)
    elapsed = np.arange(20) * step
    time = start + elapsed
    y = (3 + 0.5 * elapsed + generator.normal(size=20)).round(3)
    exact = _line_answer(time - time.min(), y)
    rounded = time.astype(np.float32).astype(float)

    def of_the_rounded(problem: Problem) -> Program:
        wrong = _line_answer(rounded - rounded.min(), y)
        return normal_guide(problem, moments(wrong.reference["beta"][:, None]))

    return Problem(
        name, "large numbers", _line, (torch.from_numpy(time), torch.from_numpy(y)), exact.reference,
        ("full-rank", "almost", "narrow", "AutoDelta"), {"of the rounded": of_the_rounded},
        asked=lambda: _read({"time": time.tolist(), "y": y.tolist()}, _line), refusal="allowed",
    )  # fmt: skip


def _line_answer(elapsed: np.ndarray, y: np.ndarray) -> Problem:
    design = torch.stack([torch.from_numpy(elapsed), torch.ones(len(y), dtype=DOUBLE)], -1)
    return linear_problem("", "", design, torch.from_numpy(y), torch.tensor([1.0, 10.0], dtype=DOUBLE), 1.0)


# Networks left in training: a row's density must not depend on the rows beside it, nor on chance.


class Layered(PyroModule):
    """z ~ N(0, I₂) for every row, and x of six numbers around what a network makes of it."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 12), middle, nn.Tanh(), nn.Linear(12, 6))
        self.double()
        with torch.no_grad():
            self.network[0].weight.mul_(2)
            self.network[3].weight.mul_(4)

    def mean(self, z: Tensor) -> Tensor:
        """Of x, for any leading dimensions of z."""
        found: Tensor = self.network(z.reshape(-1, 2))
        return found.reshape(*z.shape[:-1], 6)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.mean(z), 0.7).to_event(1), obs=x[i])


def _posterior(model: Layered, x: Tensor) -> Tensor:
    """Draws of z given every row of x on a grid, in the mode that the model is in."""
    axis = torch.linspace(-4.5, 4.5, 226, dtype=DOUBLE)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        means = model.mean(points)
    log_prior = -0.5 * points.square().sum(-1)
    width = (axis[1] - axis[0]).expand(2)
    drawn = [
        on_a_grid(log_prior - 0.5 * ((row - means) / 0.7).square().sum(-1), points, width, DRAWS, 60 + k)
        for k, row in enumerate(x)
    ]
    return torch.stack(drawn, 1)


def _layered(name: str, middle: nn.Module) -> Problem:
    with seeded(54), torch.no_grad():
        model = Layered(middle)
        # Statistics settled over what the prior makes; the rows at hand lie in one corner of it.
        for _ in range(100):
            model.train().mean(torch.randn(500, 2, dtype=DOUBLE))
        truly = torch.tensor([1.0, -0.6], dtype=DOUBLE) + 0.3 * torch.randn(8, 2, dtype=DOUBLE)
        x = model.eval().mean(truly) + 0.7 * torch.randn(8, 6, dtype=DOUBLE)
    own: dict[str, Callable[[Problem], Program]] = {}
    if isinstance(middle, nn.BatchNorm1d):
        own["batch statistics"] = lambda p: _by_batch_statistics(p, model, truly, x)
    guides = ("full-rank", "almost", "narrow", "wide", "shifted")
    return Problem(
        name, "training mode", model, (x,), {"z": _posterior(model, x)}, guides, own,
        asked=lambda: (deepcopy(model).train(), (x,)),
    )  # fmt: skip


def _by_batch_statistics(problem: Problem, model: Layered, truly: Tensor, x: Tensor) -> Program:
    """The posterior that a network normalised over these very rows would have."""
    other = deepcopy(model)
    with torch.no_grad():
        before = other.network[0](truly)
        other.network[1].running_mean.copy_(before.mean(0))
        other.network[1].running_var.copy_(before.var(0))
    return normal_guide(problem, moments(_posterior(other.eval(), x)))


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "subsample_size": lambda: _of_mean(
        "subsample_size", "subsampling", lambda: (_subsample_size, (X,)), "allowed"
    ),
    "subsample_given": lambda: _of_mean(
        "subsample_given", "subsampling", lambda: (_subsample_given, (X,)), "allowed"
    ),
    "scaled_by_hand": lambda: _of_mean(
        "scaled_by_hand", "subsampling", lambda: (_scaled_by_hand, (X,)), "allowed"
    ),
    "tempered": _tempered,
    "column": lambda: replace(
        _of_mean("column", "broadcasting", lambda: (_mean, (X[:, None],)), "required"),
        guides=("full-rank", "narrow"),
    ),
    "column_errors": lambda: _with_column("column_errors", _column_errors),
    "column_mean": lambda: _with_column("column_mean", _column_mean),
    "unix_times": lambda: _times("unix_times", 1.7e9, 1.0),
    "milliseconds": lambda: _times("milliseconds", 1.7e12, 0.5),
    "far_coordinates": lambda: _times("far_coordinates", 5.6e7, 0.25),
    "batch_norm": lambda: _layered("batch_norm", nn.BatchNorm1d(12)),
    "dropout": lambda: _layered("dropout", nn.Dropout(0.5)),
}
