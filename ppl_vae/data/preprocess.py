"""What is done to features before a fit: standardisation, binarisation and splits, each recorded.

Rows and data sets are taken alike; of a data set the features are changed, which become its matrix x, and
nothing else.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, listed
from ppl_vae.base.seeds import check_seed
from ppl_vae.data.dataset import Dataset, Variable
from ppl_vae.data.matching import features_of
from ppl_vae.data.rows import Floats, Integers, Rows, kind_of, split_variable

__all__ = [
    "NoGreys",
    "assign_split",
    "binarise",
    "dequantise",
    "dynamic_binarise",
    "grid_step",
    "split",
    "standardise",
]

Data = TypeVar("Data", Rows, Dataset)

_NAMED_AT_MOST = 10
_BLOCK = 2**16
# Values that are looked at for a grid, and how many levels one may have: a byte's.
_LOOKED_AT, _MOST_LEVELS = 100_000, 257


def standardise(data: Data, fit_on: Integers | None = None) -> Data:
    """Centre each feature and divide it by its 1/N standard deviation; missing values stay missing.

    Constant features are centred, left unscaled and named in `warnings`.

    Args:
        data: rows, or a data set with features.
        fit_on: indices of the rows that mean and deviation are computed on, usually the training split;
            all rows by default. They are applied to every row.

    Raises:
        InputError: `fit_on` is empty or points outside the rows, or a feature is too large to be squared.
    """
    if isinstance(data, Dataset):
        return _changed(data, lambda rows: standardise(rows, fit_on))
    rows: Rows = data
    index = np.arange(rows.num_rows) if fit_on is None else np.asarray(fit_on)
    _check_index(rows, index)
    reference = rows.values if fit_on is None else rows.values[index]
    whole = not np.isnan(reference.sum())
    average, lowest, highest = (np.mean, np.min, np.max) if whole else (np.nanmean, np.nanmin, np.nanmax)
    if not whole and (empty := np.isnan(reference).all(axis=0)).any():
        names = listed([rows.feature_names[place] for place in np.flatnonzero(empty)])
        raise InputError(f"{rows.name} has no value of {names} in the rows that it is standardised on.")
    # By comparison: the computed deviation of a constant such as 0.1 need not be exactly zero.
    least = lowest(reference, axis=0)
    constant = least == highest(reference, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.where(
            constant, reference[0] if whole else least, average(reference, axis=0, dtype=np.float64)
        )
        values = rows.values - mean.astype(rows.values.dtype)
        deviations = values if fit_on is None else values[index]
        scale = np.sqrt(average(np.square(deviations), axis=0, dtype=np.float64))
    scale[constant] = 1.0
    if not np.all(np.isfinite(scale) & (scale > 0)):
        name = rows.feature_names[int(np.argmin(np.isfinite(scale) & (scale > 0)))]
        raise InputError(f"The feature {name} of {rows.name} is too large or too small to be standardised.")
    values /= scale.astype(values.dtype)
    fitted = "" if fit_on is None else f" (mean and deviation of {len(index)} of {rows.num_rows} rows)"
    return replace(
        rows,
        values=values,
        kind="real",
        history=(*rows.history, "standardised" + fitted),
        warnings=rows.warnings + _constant_warning(rows, constant),
    )


class NoGreys(InputError):
    """Values that cannot be binarised, for they are no probabilities."""


def binarise(data: Data, how: Literal["static"], seed: int) -> Data:
    """Replace each grey value v by one draw of Bernoulli(v), the same for every later use.

    As in Salakhutdinov and Murray (2008), "On the quantitative analysis of deep belief networks".

    Args:
        data: grey or binary rows, or a data set with such features.
        how: "static"; for a fresh draw in every epoch, call `dynamic_binarise` on the values.
        seed: of the draw.

    Raises:
        InputError: the rows are real, so that their values are no probabilities, or `how` is unknown.
    """
    if isinstance(data, Dataset):
        return _changed(data, lambda rows: binarise(rows, how, seed))
    rows: Rows = data
    if how != "static":
        raise InputError(f"Rows cannot be binarised '{how}': 'static' is accepted here.")
    if rows.kind == "real":
        raise NoGreys(
            f"{rows.name} cannot be binarised: its values are not all in [0, 1], as probabilities are."
        )
    if np.isnan(rows.values.sum()):
        raise InputError(f"{rows.name} cannot be binarised: some of its values are missing.")
    values = _bernoulli(rows.values, np.random.SeedSequence(check_seed(seed)))
    return replace(
        rows, values=values, kind="binary", history=(*rows.history, f"binarised (static, seed {seed})")
    )


def dequantise(data: Data, seed: int) -> Data:
    """Add uniform noise of one step of the values' grid, the same for every later use.

    Values on a grid of step Δ become draws from cells of width Δ that begin at them; values in [0, 1] are
    shrunk so that they stay there. A density of the result is then a lower bound, in expectation, on the
    probability of the discrete values (Theis, van den Oord and Bethge 2016, section 3.1).

    Args:
        data: rows, or a data set with features, whose values lie on a grid: grey values, or whole numbers.
        seed: of the noise.

    Raises:
        InputError: the values do not lie on a grid.
    """
    if isinstance(data, Dataset):
        return _changed(data, lambda rows: dequantise(rows, seed))
    rows: Rows = data
    step = grid_step(rows.values)
    if step is None:
        raise InputError(
            f"{rows.name} cannot be dequantised: its values do not lie on a grid of whole numbers or of grey "
            "levels."
        )
    generator = np.random.default_rng(np.random.SeedSequence(check_seed(seed), spawn_key=(1,)))
    noise = generator.random(rows.values.shape, dtype=np.float32).astype(rows.values.dtype)
    values = rows.values + step * noise
    if rows.kind != "real":
        values /= 1 + step
    return replace(
        rows,
        values=values,
        kind=kind_of(values),
        history=(*rows.history, f"dequantised (step {step:.4g}, seed {seed})"),
    )


def grid_step(values: Floats) -> float | None:
    """The distance between neighbouring levels, if values are whole numbers or few evenly spaced greys.

    Args:
        values: any shape; a hundred thousand of them are looked at.

    Returns:
        The step, or None where there is no such grid.
    """
    levels = np.unique(np.ravel(values)[:_LOOKED_AT].astype(np.float64))
    if not 2 <= len(levels) <= _MOST_LEVELS or not np.all(np.isfinite(levels)):
        return None
    whole = bool(np.all(levels == np.round(levels)))
    if not whole and (levels[0] < 0 or levels[-1] > 1):
        return None
    step = 1.0 if whole else float(np.diff(levels).min())
    places = levels / step
    return step if np.all(np.abs(places - np.round(places)) < 1e-3) else None


def dynamic_binarise(values: Floats, seed: int, epoch: int) -> Floats:
    """One epoch's draw of Bernoulli(values), as in Burda, Grosse and Salakhutdinov (2016).

    Args:
        values: probabilities, any shape.
        seed: the run's.
        epoch: counts from 0; the draw is a function of values, seed and epoch alone, so that a resumed
            run sees the same draws.

    Returns:
        Zeros and ones, of the shape and dtype of `values`.

    Raises:
        InputError: a value is outside [0, 1] or NaN.
    """
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise InputError("Only values in [0, 1] can be binarised: they are taken for probabilities.")
    # A spawn key keeps (seed, epoch) apart from every bare seed, zero padding included.
    return _bernoulli(values, np.random.SeedSequence(check_seed(seed), spawn_key=(epoch,)))


def _changed(dataset: Dataset, change: Callable[[Rows], Rows]) -> Dataset:
    """A data set with its features changed as rows are; its columns of features become the matrix x."""
    used, x = features_of(dataset)
    narrow = x.image_shape is not None and x.values.dtype == np.float32
    values = x.values if narrow else x.values.astype(np.float64, copy=False)
    kind = x.kind if x.kind in ("grey", "binary") else kind_of(values)
    names = next(iter(x.labels.values()))
    before = Rows(
        dataset.name, values, names, kind, x.image_shape, None, {}, dataset.history, dataset.warnings
    )
    after = change(before)
    kept = {name: variable for name, variable in dataset.variables.items() if name not in used}
    changed = Variable(after.values, after.kind, labels={"feature": names}, image_shape=x.image_shape)
    return replace(dataset, variables={"x": changed, **kept}, history=after.history, warnings=after.warnings)


def assign_split(dataset: Dataset, fractions: tuple[float, float, float], seed: int) -> Dataset:
    """A data set with the variable "split", which says of each unit to which part it belongs (see "
    "`split`)."""
    parts = split(dataset, fractions, seed)
    shown = ", ".join(f"{name} {len(units)}" for name, units in parts.items())
    noted = replace(dataset, history=(*dataset.history, f"split ({shown}; seed {seed})"))
    return noted.having(split=split_variable(parts, dataset.num_units))


def split(
    rows: Rows | Dataset, fractions: tuple[float, float, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Divide the rows at random into training, validation and test parts.

    An official test split is kept as the test part, whatever its fraction; validation is then carved out
    of the other rows, in the ratio that the first two fractions have to each other.

    Args:
        rows: the data, rows or a data set.
        fractions: of training, validation and test; they sum to 1.
        seed: of the permutation.

    Returns:
        "train", "validation" and "test": sorted row indices, disjoint and together all rows.

    Raises:
        InputError: a fraction is negative, that of training is zero, they do not sum to 1, or a part with a
            positive fraction would be empty.
    """
    _check_fractions(fractions)
    count, official = _official(rows)
    train, validation, test = fractions
    permuted = np.random.default_rng(check_seed(seed)).permutation(count)
    if official is not None:
        held_out = np.asarray(official, dtype=np.int64)
        permuted = permuted[~np.isin(permuted, held_out)]
        validation, test = validation / (train + validation), 0.0
    else:
        num_test = round(count * test)
        held_out, permuted = permuted[:num_test], permuted[num_test:]
        validation = validation / (train + validation)
    num_validation = round(len(permuted) * validation)
    parts = {"train": permuted[num_validation:], "validation": permuted[:num_validation], "test": held_out}
    for (name, part), fraction in zip(parts.items(), (train, validation, test), strict=True):
        if fraction > 0 and len(part) == 0:
            raise InputError(
                f"{rows.name} has {count} rows, too few for a {name} part of {fraction:.3g} of them."
            )
    return {name: np.sort(part).astype(np.int64) for name, part in parts.items()}


def _official(rows: Rows | Dataset) -> tuple[int, Integers | None]:
    """The number of units, and those of the official test part if there is one."""
    if isinstance(rows, Rows):
        return rows.num_rows, rows.splits.get("test")
    units = rows.parts().get("test")
    return rows.num_units, units if units is not None and len(units) else None


def _bernoulli(values: Floats, seed: np.random.SeedSequence) -> Floats:
    generator = np.random.default_rng(seed)
    flat = np.ascontiguousarray(values).reshape(-1)
    drawn = np.empty_like(flat)
    # Block by block, so that the uniforms stay in the cache: twice as fast for MNIST.
    uniform = np.empty(min(_BLOCK, flat.size), dtype=np.float32)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        u = generator.random(out=uniform[: block.size], dtype=np.float32)
        # u lies in [0, 1): never below 0 and always below 1, so that zeros and ones stay what they are.
        np.less(u, block, out=drawn[start : start + _BLOCK])
    return drawn.reshape(values.shape)


def _constant_warning(rows: Rows, constant: NDArray[np.bool_]) -> tuple[str, ...]:
    names = [rows.feature_names[i] for i in np.flatnonzero(constant)]
    if not names:
        return ()
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return (f"constant features are centred and left unscaled: {', '.join(names[:_NAMED_AT_MOST])}{more}",)


def _check_index(rows: Rows, index: Integers) -> None:
    if index.ndim != 1 or index.size == 0 or index.dtype.kind not in "iu":
        raise InputError(f"{rows.name} must be standardised on a list of row indices that is not empty.")
    if index.min() < 0 or index.max() >= rows.num_rows:
        raise InputError(
            f"{rows.name} has rows 0 to {rows.num_rows - 1}; it cannot be standardised on others."
        )


def _check_fractions(fractions: tuple[float, float, float]) -> None:
    shown = ", ".join(f"{fraction:g}" for fraction in fractions)
    if len(fractions) != 3 or not all(0 <= fraction <= 1 for fraction in fractions):
        raise InputError(
            f"Split fractions must be three numbers in [0, 1] (train, validation, test), not {shown}."
        )
    if not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise InputError(f"Split fractions must sum to 1; {shown} sum to {sum(fractions):g}.")
    if fractions[0] == 0:
        raise InputError(f"The training part cannot be empty: its fraction in {shown} must be above 0.")
