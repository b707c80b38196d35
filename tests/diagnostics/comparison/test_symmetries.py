"""Symmetric copies of draws: what is compared must not change."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.linalg import subspace_angles

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import compare
from ppl_vae.diagnostics.comparison.symmetries import (
    centred,
    composed,
    matched_components,
    rotated,
    rotation_free,
    sampled_entries,
    sorted_components,
)

SHAPE = (4, 250)
DIMS = ("chain", "draw")


def _answer(draws: xr.Dataset) -> Posterior:
    return Posterior(draws, "made", "independent")


def _unchanged(
    make: Callable[[int], xr.Dataset],
    copy: Callable[[xr.Dataset, np.random.Generator], xr.Dataset],
    function: Callable[[xr.Dataset], xr.Dataset],
) -> None:
    """A comparison with symmetric copies gives the same table, and would not without the function."""
    generator = np.random.default_rng(9)
    own, truth = make(1), make(2)
    copies = _answer(copy(own, generator)), _answer(copy(truth, generator))
    plain = compare(_answer(own), reference=_answer(truth), identifiable=function)
    found = compare(copies[0], reference=copies[1], identifiable=function)
    columns = ["name", "mean", "sd", "mean_error_in_sd", "sd_ratio"]
    pd.testing.assert_frame_equal(found.table[columns], plain.table[columns], rtol=1e-6, atol=1e-7)
    assert found.verdicts == {"made": "agrees"}
    # Without the function, the copies are not what the draws were.
    assert not copies[0].draws.equals(own)
    assert np.abs(copies[0].summary()["sd"] / _answer(own).summary()["sd"] - 1).max() > 0.3


# Mixtures ----------------------------------------------------------------------------------------


def _mixture(seed: int) -> xr.Dataset:
    generator = np.random.default_rng(seed)
    location = np.array([-2.0, 0.5, 3.0]) + 0.2 * generator.normal(size=(*SHAPE, 3))
    weight = generator.dirichlet([20.0, 50.0, 30.0], SHAPE)
    shape = np.arange(6.0).reshape(3, 2) + generator.normal(size=(*SHAPE, 3, 2))
    return xr.Dataset(
        {
            "mu": ((*DIMS, "component"), location),
            "theta": ((*DIMS, "theta_dim_0"), weight),
            "shape": ((*DIMS, "component", "feature"), shape),
            "sigma": (DIMS, generator.gamma(50.0, size=SHAPE)),
        }
    )


def _relabelled(draws: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """Another permutation in every draw."""
    order = np.argsort(generator.random((*SHAPE, 3)), axis=-1)
    moved = {
        name: (draws[name].dims, np.take_along_axis(draws[name].to_numpy(), order, axis=-1))
        for name in ("mu", "theta")
    }
    shape = np.take_along_axis(draws["shape"].to_numpy(), order[..., None], axis=2)
    return draws.assign({**moved, "shape": (draws["shape"].dims, shape)})


def test_sorted_components_do_not_depend_on_labels() -> None:
    sort = sorted_components("mu", also=("theta", "shape"))
    _unchanged(_mixture, _relabelled, sort)
    found = sort(_relabelled(_mixture(1), np.random.default_rng(0)))
    assert (found["mu"].diff("component") > 0).all()
    xr.testing.assert_allclose(found["theta"], sort(_mixture(1))["theta"])


def test_labels_that_switch_between_draws_are_matched_to_the_reference() -> None:
    sort = sorted_components("mu", also=("theta", "shape"))
    truth = sort(_mixture(5))
    match = matched_components(truth, "mu", also=("theta", "shape"), signs=False, each_draw=True)
    _unchanged(_mixture, _relabelled, match)
    # Components far apart: the best assignment is the sorted one.
    xr.testing.assert_allclose(match(_mixture(1)), sort(_mixture(1)))


# VAE latents -------------------------------------------------------------------------------------


def _latents(seed: int) -> xr.Dataset:
    centre = np.random.default_rng(100).normal(size=(6, 4))
    generator = np.random.default_rng(seed)
    z = centre + 0.2 * generator.normal(size=(*SHAPE, 6, 4))
    return xr.Dataset({"z": ((*DIMS, "data", "component"), z)})


def test_latents_are_matched_up_to_permutation_and_sign() -> None:
    order, signs = np.array([2, 0, 3, 1]), np.array([1.0, -1.0, -1.0, 1.0])
    truth = _latents(2)
    own = truth.assign(z=(truth["z"].dims, (_latents(1)["z"].to_numpy() * signs)[..., order]))
    match = matched_components(truth, "z")
    xr.testing.assert_allclose(match(own), _latents(1))
    xr.testing.assert_allclose(match(truth), truth)
    found = compare(_answer(own), reference=_answer(truth), identifiable=match)
    assert found.verdicts["made"] == "agrees"
    assert compare(_answer(own), reference=_answer(truth)).verdicts["made"] == "differs"


# Loadings ----------------------------------------------------------------------------------------


def _loadings(seed: int) -> xr.Dataset:
    centre = np.random.default_rng(200).normal(size=(2, 5))
    generator = np.random.default_rng(seed)
    w = np.swapaxes(centre + 0.1 * generator.normal(size=(*SHAPE, 2, 5)), 2, 3)
    z = generator.normal(size=(*SHAPE, 3, 2)) + np.arange(6).reshape(3, 2)
    return xr.Dataset(
        {
            "w": ((*DIMS, "feature", "component"), w),
            "z": ((*DIMS, "data", "component"), z),
            "scale": (DIMS, generator.gamma(50.0, size=SHAPE)),
        },
        coords={"feature": list("abcde")},
    )


def _turned(draws: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """Another rotation or reflection in every draw."""
    turn = np.linalg.qr(generator.normal(size=(*SHAPE, 2, 2)))[0]
    return draws.assign(
        w=(draws["w"].dims, draws["w"].to_numpy() @ turn), z=(draws["z"].dims, draws["z"].to_numpy() @ turn)
    )


def test_loadings_turned_onto_a_reference_do_not_depend_on_rotation() -> None:
    turn = rotated(_turned(_loadings(5), np.random.default_rng(3)), "w", also=("z",))
    _unchanged(_loadings, _turned, turn)
    own = _loadings(1)
    found = turn(own)
    # Scores turn along: the predictions W z stay.
    before, after = (d["w"].to_numpy() @ np.swapaxes(d["z"].to_numpy(), 2, 3) for d in (own, found))
    np.testing.assert_allclose(after, before)
    assert found["w"].dims == own["w"].dims


def test_rotation_free_functions_are_numpys_and_scipys() -> None:
    to = _loadings(7)["w"].isel(chain=0, draw=0)
    functions = rotation_free("w", to=to)
    own = _loadings(1)
    found = functions(own)
    again = functions(_turned(own, np.random.default_rng(0)))
    xr.testing.assert_allclose(found.drop_vars("z"), again.drop_vars("z"))
    w = own["w"][2, 17].to_numpy()
    place = {"chain": 2, "draw": 17}
    assert float(found["w_product"].isel(place).sel(pair="b × d")) == pytest.approx((w @ w.T)[1, 3])
    np.testing.assert_allclose(found["w_singular_value"].isel(place), np.linalg.svd(w, compute_uv=False))
    expected = np.degrees(np.sort(subspace_angles(w, to.to_numpy())))
    np.testing.assert_allclose(found["w_angle"].isel(place), expected)
    same = rotation_free("w", to=own["w"][2, 17])(own)
    assert float(same["w_angle"].isel(place).max()) < 1e-6
    assert "w" not in found
    _unchanged(_loadings, _turned, composed(rotation_free("w"), lambda draws: draws.drop_vars("z")))


# Shifts ------------------------------------------------------------------------------------------


def test_centred_values_do_not_depend_on_a_shift() -> None:
    def skills(seed: int) -> xr.Dataset:
        return xr.Dataset(
            {"skill": ((*DIMS, "player"), np.random.default_rng(seed).normal(size=(*SHAPE, 4)))}
        )

    def shifted(draws: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
        return draws + xr.DataArray(3 * generator.normal(size=SHAPE), dims=DIMS)

    _unchanged(skills, shifted, centred("skill", "player"))


# Bad use -----------------------------------------------------------------------------------------


def test_what_is_missing_is_named() -> None:
    mixture, loadings = _mixture(0), _loadings(0)
    with pytest.raises(InputError, match="there is no variable nu; the draws have mu, theta"):
        sorted_components("nu")(mixture)
    with pytest.raises(InputError, match="sorted by one number each: shape has"):
        sorted_components("shape")(mixture)
    with pytest.raises(InputError, match="sigma has the dimensions chain, draw, and none of 3"):
        sorted_components("mu", also=("sigma",))(mixture)
    with pytest.raises(InputError, match="and component is not among them"):
        centred("sigma", "component")(mixture)
    with pytest.raises(InputError, match="the reference 2 of 1"):
        matched_components(mixture.isel(component=slice(2)), "mu")(mixture)
    with pytest.raises(InputError, match="the reference 1 of 5"):
        rotated(loadings.isel(component=[0]), "w")(loadings)
    with pytest.raises(InputError, match="not component and one of features"):
        rotation_free("theta")(mixture)


def test_sampled_entries_are_the_same_for_every_answer_and_keep_their_names():
    rng = np.random.default_rng(0)
    draws = xr.Dataset(
        {
            "big": (("chain", "draw", "player", "k"), rng.normal(size=(2, 30, 40, 5))),
            "small": (("chain", "draw"), rng.normal(size=(2, 30))),
        },
        coords={"player": [f"p{n}" for n in range(40)]},
    )
    few = sampled_entries(None, 20)
    one, two = (Posterior(few(each), "x", "chains").scalars() for each in (draws, 2 * draws))
    whole = Posterior(draws, "x", "chains").scalars()
    assert one.keys() == two.keys() <= whole.keys()
    assert "small" in one
    assert 15 <= len(one) <= 21
    for name, values in one.items():
        assert np.array_equal(values, whole[name])
        assert np.array_equal(2 * values, two[name])
    assert sampled_entries(None, 10_000)(draws) is draws
