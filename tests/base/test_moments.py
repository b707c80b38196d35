"""What does not move has a standard deviation of exactly zero."""

import numpy as np
import pytest
import xarray as xr

from ppl_vae import Posterior
from ppl_vae.base.moments import standard_deviation
from ppl_vae.diagnostics import compare
from ppl_vae.diagnostics.comparison.mixing import judge_reference
from ppl_vae.report.figures.common import _density_panel

# NumPy gives more than zero for each of them.
CONSTANTS = [(0.1, 7), (-40.3, 7), (1 / 3, 11), (1e-300, 3), (1e300, 7)]


@pytest.mark.parametrize(("value", "size"), CONSTANTS)
@pytest.mark.parametrize("ddof", [0, 1])
def test_of_copies_of_one_number_is_zero(value: float, size: int, ddof: int) -> None:
    copies = np.full((2, size), value)
    assert standard_deviation(copies, ddof=ddof) == 0
    assert standard_deviation(copies, axis=1, ddof=ddof).tolist() == [0, 0]
    assert standard_deviation(copies, axis=0).tolist() == [0] * size


def test_of_anything_else_is_numpys() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5, 4))
    values[0, :, 1] = 0.1
    for axis in (0, 1, 2, None):
        expected = values.std(axis, ddof=1)
        if axis == 1:
            expected[0, 1] = 0.0
        np.testing.assert_array_equal(standard_deviation(values, axis, ddof=1), expected)
    assert standard_deviation(values[0, :, 1]) == 0
    broken = np.array([1.0, np.nan, np.inf])
    assert np.isnan(standard_deviation(broken))
    assert np.isnan(standard_deviation(np.full(3, np.nan)))


def _constant(value: float, chains: int) -> Posterior:
    moving = np.random.default_rng(1).normal(size=(chains, 600))
    draws = xr.Dataset(
        {"still": (("chain", "draw"), np.full(moving.shape, value)), "moving": (("chain", "draw"), moving)}
    )
    return Posterior(draws, "nuts", "chains")


@pytest.mark.parametrize("value", [0.1, 1 / 3, -40.3])
def test_a_quantity_that_stands_still_fails_no_check_of_chains(value: float) -> None:
    answer = _constant(value, 4)
    summary = answer.summary()
    assert summary.loc["still", "sd"] == 0
    assert judge_reference(answer) == (True, ())
    found = compare({"same": answer}, reference=answer)
    assert found.verdicts["same"] == "agrees"
    assert found.table.set_index("name").loc["still", "sd_ratio"] == 1


def test_a_density_of_copies_is_left_out() -> None:
    from matplotlib.figure import Figure

    copies = np.full(20_000, 0.1)
    copies[1] = 0.3  # not among those that are drawn
    panel = Figure().subplots()
    draws = {"copies": copies, "others": np.random.default_rng(2).normal(size=20_000)}
    _density_panel(panel, draws, {"copies": "red", "others": "blue"})
    assert len(panel.lines) == 1
