"""Right answers pass simulation-based calibration, wrong ones fail in the words that fit."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from scipy import stats
from torch import Tensor

from ppl_vae.answers.labels import to_dataset
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base import clock
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.calibration.sbc import Calibration, sbc
from ppl_vae.guides import Prior
from ppl_vae.models import PPCA, TrueSkill
from ppl_vae.program.pair import Pair
from ppl_vae.report.figures.calibration import calibration_panels

X = torch.zeros(250, dtype=torch.float64)


@pytest.fixture
def surely(oracles: ModuleType) -> float:
    """The probability with which a right answer may fail here; wrong ones must fail at that level too."""
    return oracles.LEVEL


def _model(x: Tensor) -> None:
    """z_n ~ N(0, 1), x_n ~ N(z_n, 0.5²): the posterior is N(0.8 x_n, 0.2)."""
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[i])


def _amortised(scale: float, shift: float) -> Pair:
    """The exact posterior, its sd multiplied and its mean moved by some of them."""

    def guide(x: Tensor) -> None:
        sd = np.sqrt(0.2)
        with pyro.plate("data", len(x)) as i:
            pyro.sample("z", dist.Normal(0.8 * x[i] + shift * sd, scale * sd))

    return Pair(_model, guide)


def _regression(design: Tensor, y: Tensor) -> None:
    """w ~ N(0, I₂), y_n ~ N(design_n · w, 1), with a design that makes the two hard to tell apart."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=y.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(y)) as i:
        pyro.sample("y", dist.Normal((design[i] * w).sum(-1), 1.0), obs=y[i])


DESIGN = torch.tensor([[1.0, 1.0], [1.5, 1.4], [-1.0, -1.2], [0.8, 0.8]], dtype=torch.float64)
Y = torch.zeros(4, dtype=torch.float64)


def _sum(draws: xr.Dataset) -> xr.Dataset:
    return xr.Dataset({"sum": draws["w"].sum("w_dim_0")})


def test_the_exact_posterior_passes_on_every_unit(surely: float) -> None:
    found = sbc(_amortised(1.0, 0.0), X, num_simulations=500, alpha=surely)
    assert found.num_simulations == 500
    assert found.method == "guide"
    assert found.names == ["z", "log p(x | z)", "log p(x, z)"]
    assert found.passed
    assert not found.failing
    assert "uniform as far as these can see" in found.sentence()


@pytest.mark.parametrize(
    ("scale", "shift", "shape"),
    [(0.5, 0.0, "too narrow"), (2.0, 0.0, "too wide"), (1.0, 0.5, "too high"), (1.0, -0.5, "too low")],
)
def test_broken_guides_fail_as_their_closed_form_says(
    scale: float, shift: float, shape: str, surely: float, oracles: ModuleType
) -> None:
    """The rank fraction of the truth is Φ((ε − shift)/scale), ε ~ N(0, 1): its moments by quadrature."""
    found = sbc(_amortised(scale, shift), X, num_simulations=500, num_draws=200, alpha=surely)
    assert not found.passed
    row = found.table.loc["z"]
    assert row["shape"] == shape
    assert found.failing["z"].startswith(shape)
    nodes = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    fraction = stats.norm.cdf((nodes - shift) / scale)
    # 200 draws blur a fraction by at most 0.25/200 of variance, a seventieth of 1/12.
    limit = oracles.z_limit(3) / np.sqrt(500)
    assert abs(row["shift"] - (fraction.mean() - 0.5)) < limit * fraction.std() + 0.001
    squared = 12 * (fraction - 0.5) ** 2
    assert abs(row["spread"] - squared.mean()) < limit * squared.std() + 12 * 0.25 / 200
    inside = np.abs(fraction - 0.5) < 0.45
    assert abs(row["coverage_90"] - inside.mean()) < limit * np.sqrt(0.25)


def test_the_log_likelihood_sees_an_answer_that_never_looked_at_the_data(surely: float) -> None:
    """The prior's ranks of z are uniform: only quantities of the data tell (Modrák et al. 2023)."""
    found = sbc(Pair(_model, Prior(_model)), X, num_simulations=250, alpha=surely)
    assert found.table.loc["z", "passed"]
    assert not found.table.loc["log p(x | z)", "passed"]
    assert found.table.index[0] == "log p(x | z)"


def test_guides_of_free_parameters_are_refitted(surely: float) -> None:
    """Full rank contains the posterior; mean-field is too narrow along the direction that data leave open."""
    options: dict[str, Any] = {"num_steps": 250, "num_particles": 8, "lr": 0.1, "functions": _sum}
    full = Pair(_regression, AutoMultivariateNormal(_regression))
    found = sbc(full, DESIGN, Y, num_simulations=100, alpha=surely, **options)
    assert found.method == "guide, refitted"
    assert found.names == ["w[0]", "w[1]", "sum", "log p(x | z)", "log p(x, z)"]
    assert found.passed
    field = Pair(_regression, AutoNormal(_regression))
    before = field.initialise(DESIGN, Y).state_dict()
    found = sbc(field, DESIGN, Y, num_simulations=200, **options)
    assert found.table.loc["w[0]", "shape"] == found.table.loc["w[1]", "shape"] == "too narrow"
    assert all(torch.equal(value, before[name]) for name, value in field.state_dict().items())


def test_per_datum_guides_are_refitted_to_whole_data_sets(surely: float) -> None:
    """A free normal for every datum contains this posterior."""
    pair = Pair(_model, AutoNormal(_model))
    found = sbc(pair, X[:60], num_simulations=120, alpha=surely, num_steps=250, num_particles=8, lr=0.1)
    assert (found.method, found.num_simulations) == ("guide, refitted", 120)
    assert found.passed


def test_nuts_passes_with_one_density_for_all_data(surely: float) -> None:
    options: dict[str, Any] = {"answer": "nuts", "functions": _sum, "alpha": surely}
    found = sbc(_regression, DESIGN, Y, num_simulations=100, **options)
    assert (found.method, found.num_simulations) == ("nuts", 100)
    assert found.passed
    assert any("every" in note and "draw" in note for note in found.notes)


def test_quantities_of_the_same_ranks_are_one_test(oracles: ModuleType) -> None:
    """Skills relative to their mean are half the difference, or its negative."""
    model = TrueSkill(2)
    pair = Pair(model, Prior(model))
    skills = sbc(pair, *oracles.won([[0, 1], [1, 0], [0, 1]]), num_simulations=60)
    assert skills.names == ["difference[0 − 1]", "log p(x | z)", "log p(x, z)"]


def test_exact_formulas_pass_and_nuts_takes_all_units_together(surely: float, oracles: ModuleType) -> None:
    torch.manual_seed(2)
    model = PPCA(4, 2)
    x = torch.zeros(100, 4, dtype=torch.float64)
    found = sbc(model, x, answer="exact", num_simulations=240, alpha=surely)
    assert found.names == ["z[1]", "z[2]", "log p(x | z)", "log p(x, z)"]
    assert (found.num_simulations, found.passed) == (240, True)
    assert sbc(model, x, answer="nuts", num_simulations=100, alpha=surely).passed
    with pytest.raises(InputError, match="does not know its exact posterior"):
        sbc(TrueSkill(2), *oracles.won([[0, 1]]), answer="exact")


def _conjugate(x: Tensor, *, num_draws: int, seed: int, scale: float = 1.0) -> Posterior:
    """Twice the draws that are asked for: calibration takes every second one."""
    rng = np.random.default_rng(seed)
    sd = scale * np.sqrt(0.2)
    draws = torch.from_numpy(rng.normal(0.8 * x.numpy(), sd, (1, 2 * num_draws, len(x))))
    return Posterior(
        draws=to_dataset({"z": draws}, {"z": ("data",)}, _model), method="own", dependence="independent"
    )


def test_any_function_can_be_calibrated(surely: float) -> None:
    def narrow(x: Tensor, *, num_draws: int, seed: int) -> Posterior:
        return _conjugate(x, num_draws=num_draws, seed=seed, scale=0.6)

    assert sbc(_model, X, answer=_conjugate, num_simulations=250, alpha=surely).passed
    found = sbc(_model, X, answer=narrow, num_simulations=250)
    assert (found.method, found.table.loc["z", "shape"]) == ("narrow", "too narrow")


def test_seeds_reproduce(oracles: Any) -> None:
    pair = Pair(_regression, AutoNormal(_regression))
    options: dict[str, Any] = {"num_simulations": 20, "num_steps": 50, "lr": 0.1}
    with oracles.nothing_global_changes():
        one, again = (sbc(pair, DESIGN, Y, seed=3, **options) for _ in range(2))
        other = sbc(pair, DESIGN, Y, seed=4, **options)
    xr.testing.assert_equal(one.ranks, again.ranks)
    assert not one.ranks.equals(other.ranks)


@pytest.mark.parametrize(("each", "kept"), [(0.8, 100), (1.2, 50), (2.2, None)])
def test_a_budget_keeps_fixed_counts_and_not_below_fifty(
    monkeypatch: pytest.MonkeyPatch, each: float, kept: int | None
) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(x: Tensor, *, num_draws: int, seed: int) -> Posterior:
        now[0] += each
        return _conjugate(x, num_draws=num_draws, seed=seed)

    if kept is None:
        with pytest.raises(InputError, match=r"only \d+ of the 50 simulations .* fit into 100 s"):
            sbc(_model, X[:1], answer=slow, num_simulations=1000, budget=100.0)
        return
    found = sbc(_model, X[:1], answer=slow, num_simulations=1000, budget=100.0)
    assert found.num_simulations == kept
    assert any(f"the budget allowed {kept} of 1000" in note for note in found.notes)


def test_it_is_kept_and_shown(tmp_path: Path) -> None:
    found = sbc(_amortised(0.5, 0.0), X, num_simulations=250, alpha=0.1)
    found.save(tmp_path / "sbc.nc")
    loaded = Calibration.load(tmp_path / "sbc.nc")
    xr.testing.assert_identical(loaded.ranks, found.ranks)
    for name in ("num_draws", "method", "alpha", "notes", "seconds", "cpu_seconds"):
        assert getattr(loaded, name) == getattr(found, name)
    assert loaded.sentence() == found.sentence()
    at, difference, low, high = found.ecdf_difference("z")
    assert ((difference < low) | (difference > high)).any()
    assert (low < 0).all()
    assert (high > 0).all()
    assert len(at) == len(low)
    figure = calibration_panels(found, most=2)
    titles = [panel.get_title() for panel in figure.axes if panel.get_visible()]
    assert len(titles) == 2
    assert titles[0] == "z\ntoo narrow"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"answer": "stan"}, "'stan' is not known; it is 'guide', 'nuts', 'exact' or a function"),
        ({"num_simulations": 1}, "num_simulations is 1; it must be at least 2"),
        ({"num_draws": 2}, "num_draws is 2; it must be at least 4"),
        ({"alpha": 1.0}, "it is a probability between 0 and 1"),
        ({"budget": 0.0}, "it must be a positive number"),
    ],
)
def test_bad_arguments_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        sbc(_amortised(1.0, 0.0), X, **options)


def test_bad_pairs_get_a_sentence() -> None:
    with pytest.raises(InputError, match="needs a pair of model and guide"):
        sbc(_model, X)
    with pytest.raises(InputError, match="does not look at its data"):
        sbc(Pair(_regression, AutoNormal(_regression)), DESIGN, Y, refit=False)
    with pytest.raises(InputError, match="not the rows of one data tensor"):
        sbc(_regression, DESIGN, Y, answer="nuts", index=torch.arange(2))

    def short(x: Tensor, *, num_draws: int, seed: int) -> Posterior:
        return _conjugate(x, num_draws=2, seed=seed)

    with pytest.raises(InputError, match="short gave 4 draws; calibration asked it for 100"):
        sbc(_model, X, answer=short)
