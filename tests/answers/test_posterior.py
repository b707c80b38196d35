from dataclasses import replace
from pathlib import Path
from types import ModuleType

import arviz
import numpy as np
import pytest
import xarray as xr

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError


@pytest.fixture
def chains() -> Posterior:
    generator = np.random.default_rng(0)
    draws = xr.Dataset(
        {
            "skill": (("chain", "draw", "player"), generator.normal(size=(2, 30, 3))),
            "scale": (("chain", "draw"), generator.gamma(2.0, size=(2, 30))),
        },
        coords={"chain": [0, 1], "draw": np.arange(30), "player": ["Ann", "Bob", "Cyd"]},
    )
    stats = xr.Dataset({"diverging": (("chain", "draw"), generator.random((2, 30)) < 0.1)})
    return Posterior(draws, "nuts", "chains", stats=stats, seconds=1.5)


@pytest.fixture
def independent() -> Posterior:
    generator = np.random.default_rng(1)
    draws = xr.Dataset(
        {"z": (("chain", "draw", "data", "component"), generator.normal(size=(1, 20, 4, 2)))},
        coords={"component": [1, 2], "data": [7, 3, 5, 9]},
    )
    weights = xr.DataArray(generator.normal(size=(1, 20, 4)), dims=("chain", "draw", "data"))
    return Posterior(draws, "guide", "independent", log_weights=weights)


@pytest.mark.parametrize("which", ["chains", "independent"])
def test_netcdf_round_trips_everything(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    answer: Posterior = request.getfixturevalue(which)
    path = tmp_path / "posterior.nc"
    answer.save(path)
    found = Posterior.load(path)
    assert found.draws.equals(answer.draws)
    assert (found.method, found.dependence) == (answer.method, answer.dependence)
    assert found.stats.equals(answer.stats)
    assert found.seconds == answer.seconds or np.isnan(answer.seconds)
    if answer.log_weights is None:
        assert found.log_weights is None
    else:
        assert found.log_weights is not None
        np.testing.assert_array_equal(found.log_weights, answer.log_weights)
        assert found.log_weights.dims == answer.log_weights.dims
    # The file is closed: it can be written again.
    answer.save(path)


@pytest.mark.parametrize("which", ["chains", "independent"])
def test_saved_posterior_opens_with_arviz_and_with_xarray(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    answer: Posterior = request.getfixturevalue(which)
    path = tmp_path / "posterior.nc"
    answer.save(path)
    opened = arviz.from_netcdf(path)
    name = next(iter(answer.draws.data_vars))
    np.testing.assert_array_equal(opened["posterior"][name], answer.draws[name])
    if which == "chains":
        np.testing.assert_array_equal(opened["sample_stats"]["diverging"], answer.stats["diverging"])
        summary = arviz.summary(opened, kind="stats", round_to="none")
        assert summary.loc["skill[Bob]", "mean"] == pytest.approx(answer.draws["skill"][..., 1].mean().item())
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["posterior"][name], answer.draws[name])
        assert tree["posterior"].attrs["method"] == answer.method
    with xr.open_dataset(path, group="posterior", engine="h5netcdf") as group:
        assert set(group.data_vars) == set(answer.draws.data_vars)


def test_scalars_are_named_by_their_coordinates(chains: Posterior, independent: Posterior) -> None:
    found = chains.scalars()
    assert list(found) == ["skill[Ann]", "skill[Bob]", "skill[Cyd]", "scale"]
    np.testing.assert_array_equal(found["skill[Cyd]"], chains.draws["skill"][..., 2])
    assert found["scale"].shape == (2, 30)
    assert list(independent.scalars())[:3] == ["z[7, 1]", "z[7, 2]", "z[3, 1]"]
    unnamed = xr.Dataset({"w": (("draw", "row", "chain"), np.arange(12.0).reshape(3, 2, 2))})
    scalars = Posterior(unnamed, "made", "chains").scalars()
    assert list(scalars) == ["w[0]", "w[1]"]
    np.testing.assert_array_equal(scalars["w[1]"], unnamed["w"].to_numpy()[:, 1].T)


def test_summary_is_arvizs(chains: Posterior) -> None:
    from arviz_stats.base import array_stats

    summary = chains.summary()
    for name, values in chains.scalars().items():
        row = summary.loc[name]
        assert row["mean"] == pytest.approx(values.mean())
        assert row["sd"] == pytest.approx(values.std(ddof=1))
        assert row["r_hat"] == pytest.approx(float(array_stats.rhat(values)))
        assert row["ess_bulk"] == pytest.approx(float(array_stats.ess(values, method="bulk")))
        assert row["mcse_mean"] == pytest.approx(float(array_stats.mcse(values, method="mean")))


def test_some_rows_are_taken_with_their_weights(independent: Posterior) -> None:
    part = independent.isel({"data": [0, 2]})
    assert list(part.draws.coords["data"].to_numpy()) == [7, 5]
    assert part.log_weights is not None
    assert independent.log_weights is not None
    np.testing.assert_array_equal(part.log_weights, independent.log_weights[..., [0, 2]])
    assert part.draws.sizes["component"] == 2
    assert independent.draws.sizes["data"] == 4
    assert (independent.num_chains, independent.num_draws) == (1, 20)


def test_mapping_replaces_draws_and_keeps_the_rest(chains: Posterior) -> None:
    mapped = chains.map(xr.Dataset({"twice": 2 * chains.draws["scale"]}))
    assert list(mapped.draws) == ["twice"]
    assert (mapped.method, mapped.dependence, mapped.seconds) == ("nuts", "chains", 1.5)
    assert mapped.stats.equals(chains.stats)
    assert list(chains.draws) == ["skill", "scale"]


def test_a_posterior_is_frozen(chains: Posterior) -> None:
    with pytest.raises(AttributeError):
        chains.method = "guide"


# Importance weights ------------------------------------------------------------------------------


def _proposal(shift: float, size: int, units: int, seed: int = 3) -> Posterior:
    """Draws from N(0, 1.5²) for the target N(shift, 1), one problem a unit, and a copy of each draw."""
    generator = np.random.default_rng(seed)
    z = 1.5 * generator.normal(size=(1, size, units))
    log_weights = -0.5 * (z - shift) ** 2 + 0.5 * (z / 1.5) ** 2
    draws = xr.Dataset(
        {"z": (("chain", "draw", "data"), z), "copy": (("chain", "draw", "k", "data"), z[:, :, None] * 2.0)},
        coords={"data": [f"row {n}" for n in range(units)]},
    )
    weights = xr.DataArray(log_weights + 700.0, dims=("chain", "draw", "data"))
    return Posterior(draws, "guide", "independent", log_weights=weights)


def test_resampled_draws_have_the_targets_moments_within_the_error_that_they_state(
    oracles: ModuleType,
) -> None:
    units = 100
    answer = _proposal(0.7, 4000, units)
    found = answer.resampled(seed=1)
    assert (found.method, found.dependence, found.log_weights) == ("reweighted", "independent", None)
    summary = found.summary()
    own = summary[summary.index.str.startswith("z[")]
    # Kish's size tends to E[w]²/E[w²]: ∫ p²/q = s²/√(2s² − 1) · exp(m²/(2s² − 1)) for N(m, 1) and N(0, s²).
    expected = 4000 / (2.25 / 3.5**0.5 * np.exp(0.7**2 / 3.5))
    sizes = own["ess_bulk"].to_numpy()
    assert abs(sizes.mean() / expected - 1) < oracles.z_limit(4) * sizes.std() / expected / units**0.5 + 1e-3
    scores = (own["mean"] - 0.7) / own["mcse_mean"]
    assert scores.abs().max() < oracles.z_limit(4 * units)
    low, high = oracles.spread_limits(units, 4)
    assert low < (scores**2).mean() < high
    # The sd of a normal's n draws has the error 1/√(2n).
    assert np.abs(own["sd"] - 1.0).max() < oracles.z_limit(4 * units) / np.sqrt(2 * 0.9 * expected)
    # A unit's latents stay together, and different units do not share their choices.
    np.testing.assert_array_equal(found.draws["copy"].isel(k=0), 2 * found.draws["z"])
    chosen = [np.isin(answer.draws["z"][0, :, unit], found.draws["z"][0, :, unit]) for unit in (0, 1)]
    assert (chosen[0] != chosen[1]).any()


def test_units_are_resampled_by_their_own_weights() -> None:
    values = np.tile(np.arange(50.0)[None, :, None], (1, 1, 2))
    weights = np.full((1, 50, 2), -np.inf)
    weights[0, 7, 0] = 3.0
    weights[0, :, 1] = -4.0
    draws = xr.Dataset({"z": (("chain", "draw", "data"), values)})
    answer = Posterior(draws, "guide", "independent", xr.DataArray(weights, dims=("chain", "draw", "data")))
    found = answer.resampled()
    assert (found.draws["z"][..., 0] == 7.0).all()
    np.testing.assert_array_equal(found.draws["z"][0, :, 1], np.arange(50.0))
    assert found.independent_sizes() == pytest.approx({"z[0]": 1.0, "z[1]": 50.0})
    assert answer.independent_sizes() == {"z[0]": 50.0, "z[1]": 50.0}
    assert found.isel({"data": [1]}).independent_sizes() == pytest.approx({"z[0]": 50.0})
    pooled = found.map(xr.Dataset({"sum": found.draws["z"].sum("data")}))
    assert pooled.independent_sizes() == pytest.approx({"sum": 1.0})


def test_a_resampled_answer_round_trips_and_a_seed_fixes_it(tmp_path: Path) -> None:
    found = _proposal(0.2, 300, 3).resampled(seed=5)
    assert found.draws.equals(_proposal(0.2, 300, 3).resampled(seed=5).draws)
    assert not found.draws.equals(_proposal(0.2, 300, 3).resampled(seed=6).draws)
    found.save(tmp_path / "r.nc")
    again = Posterior.load(tmp_path / "r.nc")
    assert again.effective_size is not None
    assert again.independent_sizes() == pytest.approx(found.independent_sizes())
    assert list(again.draws.coords["data"].to_numpy()) == ["row 0", "row 1", "row 2"]


def test_one_weight_a_draw_serves_all_latents(chains: Posterior) -> None:
    weights = xr.DataArray(np.zeros((2, 30)), dims=("chain", "draw"))
    found = replace(chains, log_weights=weights).resampled()
    assert found.draws.sizes["draw"] == 60
    assert found.independent_sizes()["skill[Bob]"] == pytest.approx(60.0)
    np.testing.assert_array_equal(found.draws["scale"][0], chains.draws["scale"].to_numpy().ravel())


def test_weights_that_cannot_be_used_get_a_sentence(chains: Posterior, independent: Posterior) -> None:
    with pytest.raises(InputError, match="has no importance weights"):
        chains.resampled()
    pooled = independent.map(xr.Dataset({"sum": independent.draws["z"].sum("data")}))
    with pytest.raises(InputError, match="resample before the draws are mapped"):
        pooled.resampled()
    assert independent.log_weights is not None
    with pytest.raises(InputError, match="no numbers, or all are zero"):
        replace(independent, log_weights=independent.log_weights * np.nan).resampled()
