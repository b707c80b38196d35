"""Test statistics of data, by the kind of data: what a posterior predictive check looks at.

Every function takes many data sets at once and reduces each to a number.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pyro.distributions import Categorical
from torch import Tensor
from torch.distributions import Independent, constraints

__all__ = ["MAX_FEATURES", "Kind", "binary", "categories", "counts", "distribution_kind", "real"]

# Of data; "own" where the model has statistics of its own.
Kind = Literal["real", "counts", "binary", "categories", "own"]

# Beyond so many features (or categories) each for itself says less than they do together.
MAX_FEATURES = 128
# Correlations pair by pair up to so many features.
MAX_PAIRS = 8


def distribution_kind(fn: Any) -> Kind:
    """The kind of data that a distribution draws, read off its support."""
    while isinstance(fn, Independent) or (hasattr(fn, "base_dist") and not hasattr(fn, "transforms")):
        fn = fn.base_dist
    try:
        support = fn.support
    except NotImplementedError:
        return "real"
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if not support.is_discrete:
        return "real"
    if isinstance(fn, Categorical):
        return "categories"
    return "binary" if support in (constraints.boolean, constraints.one_hot) else "counts"


def real(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Mean, sd, extremes and skewness, feature by feature and of all together; correlations.

    Args:
        values: shape (sets, rows, features), float64.
        names: of the features.

    Returns:
        By name, one value a data set: shape (sets,).
    """
    return _in_all_and_by_feature(_moments, values, names, components=True)


def binary(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """How many ones there are: in all, feature by feature, and how their number varies between rows."""
    found = {"share of ones": values.flatten(1).mean(1)}
    if len(names) == 1:
        return found
    number = values.sum(2)
    if number.shape[1] > 1:
        found["sd of the ones in a row"] = number.std(1)
    found["fewest ones in a row"] = number.amin(1)
    found["most ones in a row"] = number.amax(1)
    if len(names) <= MAX_FEATURES:
        means = values.mean(1)
        found |= {f"share of ones in {name}": means[:, k] for k, name in enumerate(names)}
    return found | _correlations(values, names, components=False)


def counts(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Mean, dispersion index (variance over mean; 1 for Poisson), zeros and maximum."""
    return _in_all_and_by_feature(_count_moments, values, names, components=False)


def _in_all_and_by_feature(
    moments: Callable[[Tensor, str], dict[str, Tensor]],
    values: Tensor,
    names: Sequence[str],
    *,
    components: bool,
) -> dict[str, Tensor]:
    found = moments(values.flatten(1), "")
    if len(names) == 1:
        return found
    if len(names) <= MAX_FEATURES:
        for k, name in enumerate(names):
            found |= moments(values[:, :, k], f" of {name}")
    return found | _correlations(values, names, components=components)


def categories(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The share of each category.

    Args:
        values: shape (sets, rows, features).
        names: of the categories.
    """
    flat = values.flatten(1)
    return {f"share of {name}": (flat == k).double().mean(1) for k, name in enumerate(names[:MAX_FEATURES])}


def _moments(flat: Tensor, suffix: str) -> dict[str, Tensor]:
    found = {"mean": flat.mean(1)}
    if flat.shape[1] > 1:
        found |= {"sd": flat.std(1), "minimum": flat.amin(1), "maximum": flat.amax(1)}
    if flat.shape[1] > 2:
        centred = flat - found["mean"][:, None]
        scale = centred.square().mean(1).sqrt()
        third = (centred / scale.clamp(min=1e-300)[:, None]).pow(3).mean(1)
        found["skewness"] = torch.where(scale > 0, third, torch.zeros_like(third))
    return {name + suffix: value for name, value in found.items()}


def _count_moments(flat: Tensor, suffix: str) -> dict[str, Tensor]:
    mean = flat.mean(1)
    found = {"mean": mean}
    if flat.shape[1] > 1:
        ratio = flat.var(1) / mean.clamp(min=1e-300)
        # A data set of zeros alone has no dispersion to speak of.
        found["dispersion index"] = torch.where(mean > 0, ratio, torch.ones_like(ratio))
        found["maximum"] = flat.amax(1)
    found["share of zeros"] = (flat == 0).double().mean(1)
    return {name + suffix: value for name, value in found.items()}


def _correlations(values: Tensor, names: Sequence[str], *, components: bool) -> dict[str, Tensor]:
    """Between features: pair by pair where there are few, else their mean size.

    Of more than 128 features as many are taken, evenly spaced: all pairs would cost more than the rest.
    """
    if values.shape[1] < 3:
        return {}
    if (number := values.shape[2]) > MAX_FEATURES:
        values = values[:, :, torch.linspace(0, number - 1, MAX_FEATURES).long()]
    features = values.shape[2]
    centred = values - values.mean(1, keepdim=True)
    covariance = centred.mT @ centred
    scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
    # A feature that does not vary correlates with nothing.
    scale = torch.where(scale > 0, scale, torch.full_like(scale, torch.inf))
    correlation = covariance / scale[:, :, None] / scale[:, None, :]
    i, j = torch.triu_indices(features, features, offset=1)
    found = {"mean |correlation|": correlation[:, i, j].abs().mean(1)}
    if features <= MAX_PAIRS:
        for a, b in zip(i.tolist(), j.tolist(), strict=True):
            found[f"correlation of {names[a]} and {names[b]}"] = correlation[:, a, b]
    if components:
        spectrum = torch.linalg.eigvalsh(correlation)
        found["share of the first principal component"] = spectrum[:, -1] / spectrum.sum(1).clamp(min=1e-300)
    return found
