from pathlib import Path

import arviz
import numpy as np
import pytest
import xarray as xr

from ppl_vae.posterior import Posterior


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
