"""Draws with their symmetry taken out, so that answers can be compared: functions for `compare`'s
``identifiable``.

Every function here makes a function from draws to draws. Those that need no reference (`sorted_components`,
`centred`, `rotation_free`) give the same for every symmetric copy of a draw. Those that align draws with a
reference answer (`matched_components`, `rotated`) are given that answer's draws, and bring symmetric copies
of a draw to the same place. `composed` does several in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import check_seed

if TYPE_CHECKING:
    import xarray as xr

    Identifiable = Callable[[xr.Dataset], xr.Dataset]

__all__ = [
    "centred",
    "composed",
    "matched_components",
    "rotated",
    "rotation_free",
    "sampled_entries",
    "sorted_components",
]

SAMPLES = ("chain", "draw")


def composed(*functions: Identifiable) -> Identifiable:
    """One after the other, from the left."""

    def apply(draws: xr.Dataset) -> xr.Dataset:
        for function in functions:
            draws = function(draws)
        return draws

    return apply


def sorted_components(by: str, dim: str = "component", also: tuple[str, ...] = ()) -> Identifiable:
    """Label switching: in every draw, components in ascending order of one variable.

    Args:
        by: the variable that orders, with dimensions (chain, draw, dim).
        dim: the components' dimension.
        also: other variables of the components, moved along. Where they lack ``dim``, their last dimension is
            meant, if it has the right size.

    Raises:
        InputError: (when called) if a variable is missing or has no dimension of components.
    """

    def apply(draws: xr.Dataset) -> xr.Dataset:
        key = _variable(draws, by)
        if {*key.dims} != {*SAMPLES, dim}:
            raise InputError(
                f"components are sorted by one number each: {by} has the dimensions {_words(key.dims)}, "
                f"not chain, draw and {dim}"
            )
        order = np.argsort(key.transpose(*SAMPLES, dim).to_numpy(), axis=-1, kind="stable")
        return _permuted(draws, order, dim, (by, *also), np.ones(order.shape))

    return apply


def matched_components(
    reference: xr.Dataset,
    by: str,
    dim: str = "component",
    also: tuple[str, ...] = (),
    signs: bool = True,
    each_draw: bool = False,
) -> Identifiable:
    """Permutation and sign: components brought to those of a reference answer.

    The permutation (and signs) minimise the sum of squares between the components of ``by`` and the
    reference's posterior mean: the best assignment by the Hungarian method of Kuhn (1955). It is chosen once
    for all draws, from their mean, or for each draw.

    Args:
        reference: draws of the reference answer, with the variable ``by``.
        by: the variable that decides: a latent over (chain, draw, data, component), or a mixture's
            means.
        dim: the components' dimension.
        also: other variables of the components, moved along, and with their sign turned if ``signs``.
        signs: whether components are determined up to their sign. (A mixture's are not.)
        each_draw: choose for each draw, for chains that switch labels as they run.

    Raises:
        InputError: (when called) if a variable is missing, or the two answers differ in shape.
    """

    def apply(draws: xr.Dataset) -> xr.Dataset:
        values, target = _components(draws, by, dim), _components(reference, by, dim)
        goal = target.mean(axis=(0, 1))
        if goal.shape != values.shape[2:]:
            raise InputError(
                f"{by} has {values.shape[2]} components of {values.shape[3]} numbers, the reference "
                f"{goal.shape[0]} of {goal.shape[1]}"
            )
        source = values if each_draw else values.mean(axis=(0, 1), keepdims=True)
        order = np.empty(source.shape[:3], dtype=int)
        turn = np.ones(source.shape[:3])
        for at in np.ndindex(*source.shape[:2]):
            # Least squares: ‖±a − r‖² is least where ±a·r is largest, for norms that are given.
            products = goal @ source[at].T
            gains = np.abs(products) if signs else products
            order[at] = linear_sum_assignment(gains, maximize=True)[1]
            if signs:
                turn[at] = np.where(products[np.arange(len(goal)), order[at]] < 0, -1.0, 1.0)
        shape = values.shape[:3]
        return _permuted(draws, np.broadcast_to(order, shape), dim, (by, *also), np.broadcast_to(turn, shape))

    return apply


def rotated(
    reference: xr.Dataset, by: str, dim: str = "component", also: tuple[str, ...] = ()
) -> Identifiable:
    """Rotation: every draw of the loadings turned onto the reference answer's mean loadings.

    W ↦ W Q with the orthogonal Q that minimises ‖W Q − W_ref‖ (Procrustes: Schönemann 1966); reflections
    are included. The reference's own mean is taken after two rounds of turning its draws onto one of them, so
    that it may have rotated freely itself.

    Args:
        reference: draws of the reference answer.
        by: the loadings; all dimensions but chain, draw and ``dim`` are rows.
        dim: the dimension that is rotated.
        also: other variables over ``dim`` that turn along: scores z ↦ z Q.

    Raises:
        InputError: (when called) if a variable is missing, or the two answers differ in shape.
    """

    def apply(draws: xr.Dataset) -> xr.Dataset:
        values = _components(draws, by, dim)
        theirs = _components(reference, by, dim)
        if theirs.shape[2:] != values.shape[2:]:
            raise InputError(
                f"{by} has {values.shape[2]} components of {values.shape[3]} rows, the reference "
                f"{theirs.shape[2]} of {theirs.shape[3]}"
            )
        goal = theirs[0, 0]
        for _ in range(2):
            goal = (_procrustes(theirs, goal) @ theirs).mean(axis=(0, 1))
        turn = _procrustes(values, goal)
        found = {}
        for name in (by, *also):
            variable = _variable(draws, name)
            rest = [other for other in variable.dims if other not in (*SAMPLES, dim)]
            ordered = variable.transpose(*SAMPLES, dim, *rest)
            rows = ordered.to_numpy().reshape(*ordered.shape[:3], -1)
            turned = ordered.copy(data=(turn @ rows).reshape(ordered.shape))
            found[name] = turned.transpose(*variable.dims)
        return draws.assign(found)

    return apply


def rotation_free(by: str, dim: str = "component", to: xr.DataArray | None = None) -> Identifiable:
    """Functions of loadings W that no rotation changes: W Wᵀ, singular values, principal angles.

    Args:
        by: the loadings, over (chain, draw, dim, feature) in any order.
        dim: the dimension that may be rotated.
        to: loadings over (dim, feature) whose column space W's is compared with; the angles between the two
            are in degrees, ascending. None for no angles.

    Returns:
        A function that gives the draws without ``by`` and with ``{by}_product`` over pairs of features (the
        upper triangle), ``{by}_singular_value`` and perhaps ``{by}_angle``.

    Raises:
        InputError: (when called) if the variable is missing or has not one dimension of features.
    """

    def apply(draws: xr.Dataset) -> xr.Dataset:
        import xarray as xr

        variable = _variable(draws, by)
        features = [other for other in variable.dims if other not in (*SAMPLES, dim)]
        if len(features) != 1 or dim not in variable.dims:
            raise InputError(
                f"{by} has the dimensions {_words(variable.dims)}, not {dim} and one of features"
            )
        (feature,) = features
        columns = variable.transpose(*SAMPLES, dim, feature).to_numpy()
        size = columns.shape[-1]
        rows, others = np.triu_indices(size)
        labels = variable[feature].to_numpy() if feature in variable.coords else np.arange(size)
        pairs = [f"{labels[i]} × {labels[j]}" for i, j in zip(rows, others, strict=True)]
        product = np.swapaxes(columns, -1, -2) @ columns
        spectrum = np.linalg.svd(columns, compute_uv=False)
        ranks = np.arange(1, spectrum.shape[-1] + 1)
        found = {
            f"{by}_product": xr.DataArray(
                product[..., rows, others], dims=(*SAMPLES, "pair"), coords={"pair": pairs}
            ),
            f"{by}_singular_value": xr.DataArray(spectrum, dims=(*SAMPLES, "rank"), coords={"rank": ranks}),
        }
        if to is not None:
            angles = _principal_angles(columns, to.transpose(dim, feature).to_numpy())
            found[f"{by}_angle"] = xr.DataArray(
                angles, dims=(*SAMPLES, "angle"), coords={"angle": np.arange(1, angles.shape[-1] + 1)}
            )
        return draws.drop_vars(by).assign(found)

    return apply


def centred(name: str, dim: str) -> Identifiable:
    """Shift: a variable less its mean over a dimension, in every draw.

    Raises:
        InputError: (when called) if the variable or its dimension is missing.
    """

    def apply(draws: xr.Dataset) -> xr.Dataset:
        variable = _variable(draws, name)
        if dim not in variable.dims:
            raise InputError(
                f"{name} has the dimensions {_words(variable.dims)}, and {dim} is not among them"
            )
        return draws.assign({name: variable - variable.mean(dim)})

    return apply


def _variable(draws: xr.Dataset, name: str) -> xr.DataArray:
    if name not in draws:
        raise InputError(f"there is no variable {name}; the draws have {_words(draws.data_vars)}")
    return draws[name]


def _components(draws: xr.Dataset, name: str, dim: str) -> np.ndarray:
    """Shape (chain, draw, component, everything else)."""
    variable = _variable(draws, name)
    if dim not in variable.dims:
        raise InputError(f"{name} has the dimensions {_words(variable.dims)}, and {dim} is not among them")
    rest = [other for other in variable.dims if other not in (*SAMPLES, dim)]
    values = variable.transpose(*SAMPLES, dim, *rest).to_numpy()
    return values.reshape(*values.shape[:3], -1)


def _permuted(
    draws: xr.Dataset, order: np.ndarray, dim: str, names: tuple[str, ...], turn: np.ndarray
) -> xr.Dataset:
    """Components in another order, and then times ±1; ``order`` and ``turn`` over (chain, draw, dim)."""
    found = {}
    for name in names:
        variable = _variable(draws, name)
        along = dim if dim in variable.dims else variable.dims[-1]
        if along in SAMPLES or variable.sizes[along] != order.shape[-1]:
            raise InputError(
                f"{name} has the dimensions {_words(variable.dims)}, and none of {order.shape[-1]} components"
            )
        rest = [other for other in variable.dims if other not in (*SAMPLES, along)]
        ordered = variable.transpose(*SAMPLES, along, *rest)
        deep = (..., *(None,) * len(rest))
        taken = np.take_along_axis(ordered.to_numpy(), order[deep], axis=2)
        if (turn < 0).any():
            taken = taken * turn[deep]
        found[name] = ordered.copy(data=taken).transpose(*variable.dims)
    return draws.assign(found)


def _procrustes(values: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The orthogonal R that brings R W nearest to the goal; W of shape (…, component, rows)."""
    left, _, right = np.linalg.svd(goal @ np.swapaxes(values, -1, -2))
    return np.asarray(left @ right)


def _principal_angles(columns: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Angles between row spaces, in degrees, ascending (Björck and Golub 1973)."""
    own = np.linalg.qr(np.swapaxes(columns, -1, -2))[0]
    target = np.linalg.qr(to.T)[0]
    # Sines for small angles, cosines for large ones: each is precise where the other is not.
    cosines = np.clip(np.linalg.svd(np.swapaxes(own, -1, -2) @ target, compute_uv=False), 0, 1)
    rest = own - target @ (target.T @ own)
    sines = np.clip(np.linalg.svd(rest, compute_uv=False)[..., ::-1][..., : cosines.shape[-1]], 0, 1)
    return np.asarray(np.degrees(np.where(cosines > 0.7, np.arcsin(sines), np.arccos(cosines))))


def _words(names: object) -> str:
    found: list[Hashable] = list(names)  # type: ignore[call-overload]
    return ", ".join(str(name) for name in found)


def sampled_entries(identifiable: Identifiable | None, most: int, seed: int = 0) -> Identifiable:
    """At most so many scalar quantities, the entries of large variables drawn at random, the same every time.

    Comparing thousands of quantities costs memory and finds what some hundreds of them show.

    Args:
        identifiable: the quantities; by default the draws' own variables.
        most: how many to keep, about; every variable keeps at least one.
        seed: of the choice.
    """

    import xarray as xr

    def chosen(draws: xr.Dataset) -> xr.Dataset:
        whole = draws if identifiable is None else identifiable(draws)
        sizes = {name: int(np.prod(value.shape)) for name, value in whole.isel(chain=0, draw=0).items()}
        total = sum(sizes.values())
        if total <= most:
            return whole
        generator = np.random.default_rng(check_seed(seed))
        kept = {}
        for name, size in sizes.items():
            count = min(size, max(1, most * size // total))
            kept[name] = _entries(whole[name], np.sort(generator.choice(size, count, replace=False)))
        return xr.Dataset(kept)

    return chosen


def _entries(variable: xr.DataArray, places: np.ndarray) -> xr.DataArray:
    """Some entries of a variable along one new dimension, with their old labels."""
    import xarray as xr

    rest = [dim for dim in variable.dims if dim not in ("chain", "draw")]
    if not rest:
        return variable
    ordered = variable.transpose("chain", "draw", *rest)
    values = ordered.to_numpy().reshape(*ordered.shape[:2], -1)[..., places]
    where = np.unravel_index(places, ordered.shape[2:])
    labels = [
        [str(variable.coords[dim].to_numpy()[at]) if dim in variable.coords else str(at) for at in axis]
        for dim, axis in zip(rest, where, strict=True)
    ]
    names = [", ".join(parts) for parts in zip(*labels, strict=True)]
    dim = f"{variable.name}_entry"
    return xr.DataArray(values, dims=("chain", "draw", dim), coords={dim: names})
