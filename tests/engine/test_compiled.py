"""A few graphs compiled: steps, gradients and log weights against stock Pyro, and resuming.

Each graph is compiled once for all tests of a run: the cache folder is shared by its workers.
"""

import ctypes
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.data import Rows
from ppl_vae.engine.density import density
from ppl_vae.engine.gradients import Gradient, gradient, leapfrog
from ppl_vae.engine.graph import Untraceable
from ppl_vae.engine.native import NativeDensity
from ppl_vae.guides import Prior
from ppl_vae.inference import importance, nuts, svi
from ppl_vae.inference.fitting.steps import FEW_PARAMETERS
from ppl_vae.inference.fitting.unrolled import UNROLLED
from ppl_vae.inference.samplers import nutpie_nuts
from ppl_vae.models import PPCA, VAE, TrueSkill
from ppl_vae.program.pair import Pair

NUM_STEPS = 43


# Steps -------------------------------------------------------------------------------------------


def _ppca() -> tuple[Pair, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(60, 4, dtype=torch.float64)
    model = PPCA(4, 2)
    return Pair(model, PPCA.guides["linear"](model, x)), x


def _fit(compile: Any, **options: Any) -> tuple[svi.Fit, dict[str, Tensor]]:
    pair, x = _ppca()
    if "refresh" in options:
        refresh = options.pop("refresh")
        options["refresh"] = lambda epoch: (refresh(x, epoch),)
    settings = {"num_steps": NUM_STEPS, "batch_size": 4, "lr": 0.02, "seed": 3, "kl_warmup": 11} | options
    fit = svi.fit(pair, x, compile=compile, progress=False, **settings)
    return fit, pair.state_dict()


def _same(one: tuple[svi.Fit, dict[str, Tensor]], two: tuple[svi.Fit, dict[str, Tensor]]) -> None:
    np.testing.assert_allclose(one[0].elbo, two[0].elbo, rtol=1e-9)
    for name, value in one[1].items():
        torch.testing.assert_close(value, two[1][name], rtol=1e-8, atol=1e-10, msg=name)


REFRESHES = {
    "new rows": lambda x, epoch: x + 0.1 * epoch,
    "strided rows": lambda x, epoch: (x + epoch).T.contiguous().T,
}


def test_unrolled_steps_on_minibatches_are_those_of_stock_pyro() -> None:
    compiled = _fit(True)
    assert compiled[0].engine == "compiled"
    assert compiled[0].compile_seconds > 0
    _same(compiled, _fit(False))
    # The remainder of a call of several steps runs too.
    assert NUM_STEPS % UNROLLED
    _same(_fit(True, num_steps=3), _fit(False, num_steps=3))


@pytest.mark.parametrize("refresh", REFRESHES.values(), ids=REFRESHES)
def test_unrolled_steps_read_data_drawn_anew(refresh: Any) -> None:
    _same(_fit(True, refresh=refresh), _fit(False, refresh=refresh))


def test_data_may_lie_anyhow_in_memory() -> None:
    pair, x = _ppca()
    settings = {"num_steps": NUM_STEPS, "batch_size": 4, "lr": 0.02, "seed": 3, "kl_warmup": 11}
    fit = svi.fit(pair, x.T.contiguous().T, compile=True, progress=False, **settings)
    assert fit.engine == "compiled"
    _same((fit, pair.state_dict()), _fit(False))


def test_compiled_fits_stop_as_traced_ones_do() -> None:
    """The same graph as above, so that nothing is compiled for it."""
    options: dict[str, Any] = {"stop": True, "num_steps": 2000, "lr": 0.1}
    fits = [_fit(compile, **options)[0] for compile in (True, "auto")]
    assert [fit.engine for fit in fits] == ["compiled", "traced"]
    first, second = ([check.action for check in fit.stopping.checks] for fit in fits if fit.stopping)
    assert first == second
    assert "lower" in first
    np.testing.assert_allclose(fits[0].elbo, fits[1].elbo, rtol=1e-5)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("killed_at", [1, 2])
def test_a_killed_fit_resumes_to_the_bytes_of_an_unbroken_one(killed_at: int, tmp_path: Path) -> None:
    def kill(x: Tensor, epoch: int) -> Tensor:
        if epoch == killed_at:
            raise _Killed
        return x

    options = {"checkpoint_every": 7, "average": 0.4}
    unbroken = _fit(True, checkpoint=tmp_path / "unbroken", refresh=lambda x, epoch: x, **options)
    with pytest.raises(_Killed):
        _fit(True, checkpoint=tmp_path / "killed", refresh=kill, **options)
    resumed = _fit(True, checkpoint=tmp_path / "killed", refresh=lambda x, epoch: x, resume=True, **options)
    assert resumed[0].engine == "compiled"
    assert resumed[0].elbo.tobytes() == unbroken[0].elbo.tobytes()
    assert all(torch.equal(value, unbroken[1][name]) for name, value in resumed[1].items())
    assert resumed[0].final == unbroken[0].final
    # The whole state is the same, Adam's moments and the generator included.
    files = [(tmp_path / name / "checkpoint.safetensors") for name in ("unbroken", "killed")]
    whole = [file.read_bytes() for file in files]
    start = [8 + int.from_bytes(bytes_[:8], "little") for bytes_ in whole]
    assert whole[0][start[0] :] == whole[1][start[1] :]


def _vae(features: int, **options: Any) -> tuple[Pair, Tensor]:
    generator = np.random.default_rng(1)
    values = (generator.random((24, features)) < 0.4).astype(float)
    rows = Rows("tiny", values, tuple(f"f{k}" for k in range(features)), "binary")
    torch.manual_seed(0)
    model = VAE.from_data(rows, **options)
    (x,) = rows.tensors(torch.float32)
    pair = Pair(model, next(iter(VAE.guides.values()))(model, x))
    return pair, x


def test_steps_of_a_large_model_take_pytorchs_fused_adam() -> None:
    """The graph gives loss and gradients alone; float32 rounding grows with the number of steps."""
    fits, states = [], []
    for compile in (False, True):
        pair, x = _vae(60)
        pair.initialise(x)
        assert sum(leaf.numel() for leaf in pair.parameters().values()) > FEW_PARAMETERS
        fits.append(svi.fit(pair, x, num_steps=12, batch_size=8, lr=1e-3, compile=compile, progress=False))
        states.append(pair.state_dict())
    assert [fit.engine for fit in fits] == ["pyro", "compiled"]
    np.testing.assert_allclose(fits[1].elbo, fits[0].elbo, rtol=2e-5)
    # Where a gradient is all but zero, Adam's steps have the sign of its rounding: at most lr each.
    for name, value in states[0].items():
        assert (states[1][name] - value).abs().max() < 12 * 2e-3, name
        assert (states[1][name] - value).abs().mean() < 1e-5, name


# The gradient of a log density --------------------------------------------------------------------


@pytest.fixture
def skills() -> Gradient:
    """Six players, thirty games, compiled in float64 on one thread."""
    generator = torch.Generator().manual_seed(2)
    games = torch.stack([torch.randperm(6, generator=generator)[:2] for _ in range(30)])
    return _compiled(TrueSkill(6, link="logistic"), torch.ones(30).double(), games)


def _compiled(model: Any, *data: Tensor) -> Gradient:
    """As `nuts.sample` compiles it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        pair = Pair(model, model).initialise(*data).cast_model(torch.float64, Prior).initialise(*data)
        with pyro.validation_enabled(False):
            return gradient(density(pair, *data), "compiled")
    finally:
        torch.set_default_dtype(before)


def test_the_compiled_gradient_is_pyros(skills: Gradient) -> None:
    assert skills.engine == "compiled"
    assert skills.compiled is not None
    with pyro.validation_enabled(False):
        for position in torch.randn(5, skills.density.dim, dtype=torch.float64):
            expected = skills.density.value_and_gradient(position)
            for a, b in zip(skills(position), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        # Any memory layout will do.
        wide = torch.randn(skills.density.dim, 3, dtype=torch.float64)
        value, _ = skills(wide[:, 1])
        assert value.item() == pytest.approx(skills.density.value(wide[:, 1]).item(), rel=1e-12)


class _C:
    """The C function, called as a sampler calls it."""

    def __init__(self, native: NativeDensity, dim: int) -> None:
        double = ctypes.POINTER(ctypes.c_double)
        kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, double, double, double, ctypes.c_void_p)
        self.function, self.context, self.dim = kind(native.gradient), native.context, dim

    def __call__(self, position: np.ndarray) -> tuple[int, float, np.ndarray]:
        double = ctypes.POINTER(ctypes.c_double)
        slope, value = np.full(self.dim, np.nan), ctypes.c_double(np.nan)
        status = self.function(
            self.dim, position.ctypes.data_as(double), slope.ctypes.data_as(double), ctypes.byref(value),
            self.context,
        )  # fmt: skip
        return status, value.value, slope


def test_the_c_function_is_the_gradient_from_any_thread(skills: Gradient) -> None:
    assert skills.compiled is not None
    dim = skills.density.dim
    positions = np.random.default_rng(0).normal(size=(4, 200, dim))
    found = np.full((4, 200, dim + 1), np.nan)
    with NativeDensity(skills.compiled, skills.density.tensors, threads=2) as native:
        call = _C(native, dim)

        def work(k: int) -> None:
            for n, position in enumerate(positions[k]):
                status, value, slope = call(position)
                assert status == 0
                found[k, n] = [value, *slope]

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Not finite is recoverable, and said by the status.
        for bad in (np.nan, np.inf):
            assert call(np.full(dim, bad))[0] == 1
    for k in range(4):
        for n in (0, 57, 199):
            value, slope = skills(torch.from_numpy(positions[k, n]))
            np.testing.assert_array_equal(found[k, n], [value.item(), *slope.tolist()])


def test_the_c_function_reads_held_tensors_where_they_are(skills: Gradient) -> None:
    """Other games, written into the same tensor, are other data: nothing is frozen."""
    assert skills.compiled is not None
    _, games = skills.density.data
    position = np.linspace(-1, 1, skills.density.dim)
    with NativeDensity(skills.compiled, skills.density.tensors, threads=1) as native:
        call = _C(native, skills.density.dim)
        first = call(position)
        games.copy_(games.flip(1))
        second = call(position)
    assert first[1] != second[1]
    with pyro.validation_enabled(False):
        value, slope = skills.density.value_and_gradient(torch.from_numpy(position))
    assert second[1] == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(second[2], slope, rtol=1e-11)


def test_chains_on_the_compiled_gradient_agree_with_those_on_the_graph(
    skills: Gradient, oracles: ModuleType
) -> None:
    """Two samplers on one density; one seed of the compiled one gives one set of numbers."""
    model, games = skills.density.pair.model, skills.density.data
    options: Any = {"num_draws": 200, "warmup": 150, "chains": 4, "seed": 1, "progress": False}
    compiled, again, traced = (
        nuts.sample(model, *games, compile=compile, **options) for compile in (True, True, "auto")
    )
    assert compiled.draws.equals(again.draws)
    tables = [run.summary() for run in (compiled, traced)]
    error = np.hypot(*(table["mcse_mean"] for table in tables))
    z = (tables[0]["mean"] - tables[1]["mean"]) / error
    assert np.abs(z).max() < oracles.z_limit(len(z))


def test_a_compiled_leapfrog_step_is_the_traced_one(skills: Gradient) -> None:
    with pyro.validation_enabled(False):
        many = gradient(skills.density, "traced", chains=5)
        steps = [leapfrog(many, 5, compiled=compiled) for compiled in (False, True)]
    dim = skills.density.dim
    state = [torch.randn(5, dim, dtype=torch.float64) for _ in range(3)]
    size, mass = torch.rand(5, 1, dtype=torch.float64), torch.rand(dim, dtype=torch.float64) + 0.5
    for a, b in zip(*(step(*state, size, mass) for step in steps), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_ctrl_c_ends_compiled_chains_at_once(skills: Gradient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is closed only when no thread is in it any more."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    model, games = skills.density.pair.model, skills.density.data
    with monkeypatch.context() as patch:
        patch.setattr(nutpie_nuts, "time", SimpleNamespace(sleep=interrupt))
        for _ in range(3):
            start = time.perf_counter()
            with pytest.raises(KeyboardInterrupt):
                nuts.sample(model, *games, num_draws=20_000, warmup=20_000, compile=True, progress=False)
            assert time.perf_counter() - start < 20
    drawn = nuts.sample(model, *games, num_draws=4, warmup=4, compile=True, progress=False)
    assert drawn.stats.attrs["sampler"] == "nutpie"


def test_a_density_of_many_tensors_is_sampled() -> None:
    def model(*data: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.stack(data).sum())

    data = torch.linspace(-0.02, 0.03, 70, dtype=torch.float64).unbind()
    drawn = nuts.sample(model, *data, num_draws=4, warmup=4, compile=True, progress=False)
    assert np.isfinite(drawn.draws["z"]).all()


def _correlated(x: Tensor) -> None:
    factor = (0.9 * torch.ones(6, 6, dtype=torch.float64)).tril().fill_diagonal_(0.5)
    z = pyro.sample("z", dist.MultivariateNormal(x.mean(0), scale_tril=factor))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.MultivariateNormal(z, scale_tril=factor), obs=x)


def test_multivariate_normals_of_more_than_a_few_dimensions_are_compiled_but_not_for_threads() -> None:
    """PyTorch's C interface has no triangular solve, which a library calls through Python's library."""
    compiled = _compiled(_correlated, torch.randn(7, 6, dtype=torch.float64))
    assert compiled.compiled is not None
    with pyro.validation_enabled(False):
        for position in torch.randn(3, 6, dtype=torch.float64):
            value, slope = compiled.density.value_and_gradient(position)
            found, also = compiled(position)
            torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(also, slope, rtol=1e-12, atol=1e-12)
    with pytest.raises(Untraceable, match="without a C interface"):
        NativeDensity(compiled.compiled, compiled.density.tensors, threads=1)


# Log weights -------------------------------------------------------------------------------------


def test_compiled_log_weights_of_a_vae_are_those_of_stock_pyro() -> None:
    """With the same draws, float32 rounding apart."""
    pair, x = _vae(9)
    pair.initialise(x)
    stock, compiled = (
        importance.log_evidence(pair, x, num_samples=60, compile=compile, seed=4, progress=False)
        for compile in (False, True)
    )
    np.testing.assert_allclose(compiled.log_evidence, stock.log_evidence, rtol=1e-5)
    np.testing.assert_allclose(compiled.elbo, stock.elbo, rtol=1e-5)


def test_compiled_log_weights_estimate_the_same_evidence(oracles: Any) -> None:
    pair, x = _vae(9)
    pair.initialise(x)
    stock, compiled = (
        importance.log_evidence(pair, x, num_samples=60, compile=compile, seed=4, progress=False)
        for compile in (False, True)
    )
    error = np.hypot(stock.total_std_error, compiled.total_std_error)
    assert abs(stock.total - compiled.total) < oracles.z_limit() * error
