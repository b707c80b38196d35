"""Tobamoviruses with missing values: ``python -m benchmarks.lectures missing [--data-dir FOLDER]``.

38 viruses of 18 amino-acid counts, of which 136 of the 684 values are removed at random, as in figure 2 of
Tipping and Bishop (1999), section 4.2; here for many removals. For each model and number of latent dimensions
a row says

- how far the latent picture without these values is from that of all: root mean square distance of the
  posterior means after the best rotation, over the root mean square of the picture of all; beside it the same
  where the missing values are filled with their features' means before the fit;
- the root mean square error of the removed values' imputed ones, beside that of their features' means;
- how many of the removed values lie in their 90 % intervals, with the parameters that maximise the likelihood
  taken for true;
- how often factor analysis ends in a Heywood case.
"""

import argparse
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data import as_dataset
from ppl_vae.data.rows import IncompleteRows
from ppl_vae.models import PPCA, FactorAnalysis

FILE, REMOVED = "tobamovirus/virus3.dat", 136
NINETY = 1.6449
HEAD = ("model", "q", "picture", "picture, means filled in", "error of imputed", "error of means",
        "in 90 % intervals", "Heywood cases")  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What one removal of values showed; of each field the module's docstring says what it is."""

    picture: float
    filled: float
    imputed: float
    means: float
    covered: float
    heywood: float


def main(arguments: list[str]) -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lectures missing", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help=f"the folder that holds {FILE}; PPL_VAE_SHARED's data")
    parser.add_argument("--removals", type=int, default=20)
    given = parser.parse_args(arguments)
    folder = given.data_dir or Path(os.environ.get("PPL_VAE_SHARED", ".")) / "data"
    whole = torch.from_numpy(np.loadtxt(folder / FILE))
    print("| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD))
    for family in (PPCA, FactorAnalysis):
        for latent_dim in (1, 2, 3):
            found = [measured(family, whole, latent_dim, seed) for seed in range(given.removals)]
            cells = [_cell([getattr(one, name) for one in found]) for name in Measured.__annotations__]
            print("| " + " | ".join([family.name, str(latent_dim), *cells]) + " |", flush=True)


def measured(family: type[PPCA | FactorAnalysis], whole: Tensor, latent_dim: int, seed: int) -> Measured:
    """Remove values, fit, and compare with what was removed."""
    there = removed(whole, seed)
    x = whole.where(there, torch.nan)
    means = x.nanmean(0).expand_as(x)
    picture = _fitted(family, whole, latent_dim, None).exact_posterior(whole)["z"].mean
    model = _fitted(family, x, latent_dim, there)
    filled = torch.where(there, x, means)
    by_means = _fitted(family, filled, latent_dim, None)
    found, gone = model.impute(x, there), ~there
    errors = (found.mean - whole)[gone]
    return Measured(
        picture=distance(picture, model.exact_posterior(x, there)["z"].mean),
        filled=distance(picture, by_means.exact_posterior(filled)["z"].mean),
        imputed=_rms(errors),
        means=_rms((means - whole)[gone]),
        covered=float((errors.abs() <= NINETY * found.sd[gone]).double().mean()),
        heywood=float(isinstance(model, FactorAnalysis) and len(model.em(x, there).bounded) > 0),
    )


def removed(whole: Tensor, seed: int) -> Tensor:
    """Which values are left where so many are removed at random."""
    gone = np.random.default_rng(seed).permutation(whole.numel())[:REMOVED]
    return torch.from_numpy(~np.isin(np.arange(whole.numel()), gone).reshape(whole.shape))


def distance(one: Tensor, other: Tensor) -> float:
    """Root mean square distance after the best rotation or reflection, over the size of the first picture."""
    left, _, right = torch.linalg.svd(other.T @ one)
    return _rms(one - other @ left @ right) / _rms(one)


def _fitted(
    family: Callable[..., PPCA | FactorAnalysis], x: Tensor, latent_dim: int, there: Tensor | None
) -> PPCA | FactorAnalysis:
    model = family.from_data(IncompleteRows.of(as_dataset(x.numpy())), latent_dim=latent_dim)
    with warnings.catch_warnings():
        # Heywood cases are counted.
        warnings.simplefilter("ignore", UserWarning)
        return model.set_maximum_likelihood(x, x_observed=there)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _cell(values: list[float]) -> str:
    found: NDArray[np.float64] = np.array(values)
    return f"{found.mean():.3f} ± {found.std(ddof=1) / len(found) ** 0.5:.3f}"
