import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from scipy import stats
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides import PerDatumNormal
from ppl_vae.inference import elbo, svi
from ppl_vae.inference.fitting.schedule import cosine
from ppl_vae.inference.fitting.svi import convergence
from ppl_vae.models import PPCA
from ppl_vae.program.batches import Batches
from ppl_vae.program.pair import Pair


def _ppca(seed: int = 0) -> tuple[Pair, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(30, 4, dtype=torch.float64)
    model = PPCA(4, 2)
    return Pair(model, PPCA.guides["linear"](model, x)), x


def _same(a: Pair, b: Pair) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# Minibatches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_data", "batch_size"), [(10, 3), (10, 7), (12, 4), (5, 4)])
def test_batches_are_concatenated_permutations_of_constant_size(num_data: int, batch_size: int) -> None:
    batches = Batches(num_data, batch_size, seed=3)
    stream = [batches.index(step) for step in range(2 * num_data)]
    assert all(index.shape == (batch_size,) for index in stream)
    joined = torch.cat(stream)
    orders = set()
    for epoch in range(len(joined) // num_data):
        part = joined[epoch * num_data : (epoch + 1) * num_data]
        assert sorted(part.tolist()) == list(range(num_data))
        orders.add(tuple(part.tolist()))
    assert len(orders) > 1
    # A resumed fit asks for a step without having asked for those before it.
    for step in (2 * num_data - 1, 7, 0):
        assert torch.equal(Batches(num_data, batch_size, seed=3).index(step), stream[step])
    assert not torch.equal(torch.cat([Batches(num_data, batch_size, 4).index(s) for s in range(9)]),
                           torch.cat(stream[:9]))  # fmt: skip


def test_a_batch_of_everything_is_no_batch() -> None:
    for size in (None, 10, 11):
        assert Batches(10, size, 0).index(3) is None
    assert [Batches(10, 3, 0).epoch(step) for step in range(8)] == [0, 0, 0, 0, 1, 1, 1, 2]
    assert Batches(10, None, 0).epoch(5) == 5


def test_minibatch_elbo_estimates_the_full_one(conjugate: Any, x: Tensor, oracles: Any) -> None:
    """With the learning rate at nothing, steps on batches average to the ELBO of all the data."""
    pair = Pair(conjugate.model, conjugate.guide)
    fit = svi.fit(pair, x, num_steps=400, batch_size=8, lr=1e-12, num_particles=4, progress=False)
    truth = elbo(pair, x, num_particles=2000, seed=1)
    # Eighty epochs of five batches: epochs are independent, batches of one epoch are not.
    epochs = fit.elbo.reshape(80, 5).mean(1)
    error = np.hypot(epochs.std(ddof=1) / np.sqrt(80), truth.std_error)
    assert abs(epochs.mean() - truth.value) < oracles.z_limit() * error
    # A wrong N/B scale would be off by a factor of five in the sum.
    assert error < 0.02 * abs(truth.value)


def test_minibatches_train_a_conjugate_guide_to_the_exact_posterior(conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    svi.fit(pair, x, num_steps=600, batch_size=10, lr=0.05, num_particles=4, progress=False)
    with pair.scope():
        slope, scale = pyro.param("slope").item(), pyro.param("scale").item()
    assert slope == pytest.approx(0.8, abs=0.02)
    assert scale == pytest.approx(np.sqrt(0.2), abs=0.02)


# Resuming ----------------------------------------------------------------------------------------


class _Killed(Exception):
    pass


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("killed_at", [3, 13])
def test_a_killed_fit_resumes_to_the_numbers_of_an_unbroken_one(
    batch_size: int | None, killed_at: int, tmp_path: Path
) -> None:
    """Killed before the first checkpoint, and between two."""

    def run(pair: Pair, x: Tensor, folder: Path, kill: int | None, resume: bool) -> svi.Fit:
        def refresh(epoch: int) -> tuple[Tensor]:
            if epoch == kill:
                raise _Killed
            return (x + 0.1 * epoch,)

        return svi.fit(pair, x, num_steps=40, batch_size=batch_size, lr=0.02, num_particles=2, kl_warmup=20,
                       refresh=refresh, held_out=(x,), check_every=7, checkpoint=folder, checkpoint_every=5,
                       clip_norm=50.0, resume=resume, seed=3, progress=False)  # fmt: skip

    unbroken, x = _ppca()
    expected = run(unbroken, x, tmp_path / "unbroken", None, resume=False)
    killed, x = _ppca()
    epoch = killed_at if batch_size is None else max(1, killed_at * batch_size // 30)
    with pytest.raises(_Killed):
        run(killed, x, tmp_path / "killed", epoch, resume=False)
    assert not _same(killed, unbroken)
    # A new process starts from other parameters and another generator state.
    fresh, _ = _ppca(seed=99 if killed_at > 5 else 0)
    resumed = run(fresh, x, tmp_path / "killed", None, resume=True)
    np.testing.assert_array_equal(resumed.elbo, expected.elbo)
    np.testing.assert_array_equal(resumed.held_out, expected.held_out)
    assert _same(fresh, unbroken)
    assert (resumed.final, resumed.converged, resumed.reason) == (
        expected.final,
        expected.converged,
        expected.reason,
    )


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from ppl_vae.inference import svi
from ppl_vae.models import PPCA
from ppl_vae.program import Pair

torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(30, 4, dtype=torch.float64)
model = PPCA(4, 2)

def refresh(epoch):
    if epoch == 18:
        os.kill(os.getpid(), signal.SIGKILL)
    return (x,)

svi.fit(Pair(model, PPCA.guides["linear"](model, x)), x, num_steps=30, refresh=refresh,
        checkpoint=Path(sys.argv[1]), checkpoint_every=4)
"""


@pytest.mark.usefixtures("plain_seeds")
def test_a_fit_killed_with_sigkill_resumes_to_the_numbers_of_an_unbroken_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["checkpoint.safetensors"]
    unbroken, x = _ppca()
    expected = svi.fit(unbroken, x, num_steps=30, progress=False)
    resumed, _ = _ppca(seed=7)
    found = svi.fit(resumed, x, num_steps=30, checkpoint=tmp_path, resume=True, progress=False)
    np.testing.assert_array_equal(found.elbo, expected.elbo)
    assert found.final == expected.final
    assert _same(resumed, unbroken)


def test_resuming_a_finished_fit_changes_nothing(tmp_path: Path) -> None:
    pair, x = _ppca()
    first = svi.fit(pair, x, num_steps=10, checkpoint=tmp_path, progress=False)
    again, _ = _ppca(seed=5)
    second = svi.fit(again, x, num_steps=10, checkpoint=tmp_path, resume=True, progress=False)
    np.testing.assert_array_equal(first.elbo, second.elbo)
    assert _same(pair, again)


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    pair, x = _ppca()
    svi.fit(pair, x, num_steps=10, checkpoint=tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()

    def resume(pair: Pair, x: Tensor, num_steps: int = 10) -> None:
        svi.fit(pair, x, num_steps=num_steps, checkpoint=tmp_path, resume=True, progress=False)

    for damaged in (whole[: len(whole) // 2], b"", b"\x80\x04K\x01.", whole[:8] + b"!" * (len(whole) - 8)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged and cannot be read"):
            resume(pair, x)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="at step 10, past the 5 asked for"):
        resume(pair, x, num_steps=5)
    other = Pair(pair.model, PerDatumNormal(30, 2, dtype=torch.float64))
    with pytest.raises(InputError, match="are not this pair's"):
        resume(other, x)
    larger = torch.randn(30, 5, dtype=torch.float64)
    with pytest.raises(InputError, match="has shape"):
        resume(Pair(PPCA(5, 2), PPCA.guides["linear"](PPCA(5, 2), larger)), larger)


def test_a_full_disk_ends_in_one_sentence_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, x = _ppca()
    svi.fit(pair, x, num_steps=4, checkpoint=tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()

    def full(beside: Path, content: bytes) -> None:
        beside.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="could not be written: No space left on device"):
        svi.fit(pair, x, num_steps=8, checkpoint=tmp_path, resume=True, progress=False)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == whole


def test_a_checkpoint_that_cannot_be_written_ends_in_one_sentence(tmp_path: Path) -> None:
    pair, x = _ppca()
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(InputError, match="could not be written"):
        svi.fit(pair, x, num_steps=2, checkpoint=blocked, progress=False)
    assert blocked.read_text() == "in the way"


# Options -----------------------------------------------------------------------------------------


def test_kl_warmup_weighs_the_kl_from_its_first_step_to_one(conjugate: Any, x: Tensor) -> None:
    """With the same noise the first step's objective is linear in β = 1/warm-up steps."""

    def first(kl_warmup: int) -> float:
        pair = Pair(conjugate.model, conjugate.guide)
        return svi.fit(pair, x, num_steps=1, kl_warmup=kl_warmup, seed=1, progress=False).elbo[0]

    whole, half, tenth = first(0), first(2), first(10)
    kl = (half - whole) / 0.5
    assert (tenth - whole) / 0.9 == pytest.approx(kl, rel=1e-9)
    assert first(1) == whole
    assert abs(kl) > 1e-3

    pair = Pair(conjugate.model, conjugate.guide)
    fit = svi.fit(pair, x, num_steps=6, kl_warmup=4, lr=1e-12, seed=1, progress=False)
    plain = svi.fit(Pair(conjugate.model, conjugate.guide), x, num_steps=6, lr=1e-12, seed=1, progress=False)
    np.testing.assert_allclose(fit.elbo[3:], plain.elbo[3:])
    assert (np.abs(fit.elbo[:3] - plain.elbo[:3]) > 1e-3).all()
    # What is reported has β = 1; the parameters moved by 1e-12.
    assert fit.final.value == pytest.approx(plain.final.value, rel=1e-9)


def test_clipping_bounds_the_gradient_and_only_when_it_is_larger() -> None:
    def norm(clip_norm: float | None) -> float:
        pair, x = _ppca()
        svi.fit(pair, x, num_steps=1, clip_norm=clip_norm, seed=1, progress=False)
        return torch.cat([leaf.grad.ravel() for leaf in pair.parameters().values()]).norm().item()

    free = norm(None)
    assert free > 10
    assert norm(2.0) == pytest.approx(2.0, rel=1e-4)
    assert norm(10 * free) == pytest.approx(free)


def test_held_out_elbo_is_that_of_the_held_out_data_per_unit() -> None:
    pair, x = _ppca()
    other = torch.randn(17, 4, dtype=torch.float64)
    fit = svi.fit(pair, x, num_steps=25, held_out=(other,), check_every=10, seed=4, progress=False)
    assert fit.held_out[:, 0].tolist() == [10, 20, 25]
    assert fit.held_out[-1, 1] == elbo(pair, other, num_particles=4, seed=4).mean
    with_checks = _ppca()[0]
    plain = svi.fit(with_checks, x, num_steps=25, seed=4, progress=False)
    np.testing.assert_array_equal(fit.elbo, plain.elbo)
    assert plain.held_out.shape == (0, 2)


def test_bad_held_out_data_is_refused_before_the_first_step() -> None:
    pair, x = _ppca()
    before = pair.initialise(x).state_dict()
    bad = x.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(InputError, match="finite"):
        svi.fit(pair, x, held_out=(bad,), num_steps=300, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    model = PPCA(4, 2)
    with pytest.raises(InputError, match="knows only the data it was trained on"):
        svi.fit(Pair(model, PerDatumNormal(30, 2, dtype=torch.float64)), x, held_out=(x[:5],), progress=False)


def test_particles_divide_the_variance_of_a_step(conjugate: Any, x: Tensor, oracles: Any) -> None:
    def variance(num_particles: int) -> float:
        pair = Pair(conjugate.model, conjugate.guide)
        fit = svi.fit(pair, x, num_steps=300, num_particles=num_particles, lr=1e-12, progress=False)
        return fit.elbo.var(ddof=1)

    ratio = variance(1) / variance(8) / 8
    # The steps' ELBOs are sums over 40 data and nearly Gaussian: an F statistic.
    limit = stats.f.isf(oracles.LEVEL / 2, 299, 299)
    assert 1 / limit < ratio < limit


def test_learning_rate_falls_along_half_a_cosine() -> None:
    rates = [cosine(step, 101, 0.01) for step in range(101)]
    assert (rates[0], rates[50]) == pytest.approx((1.0, 0.505))
    assert rates[100] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert {cosine(step, 10, 1.0) for step in range(10)} == {1.0}


def test_training_the_guide_alone_leaves_the_model_as_it_is() -> None:
    pair, x = _ppca()
    model = {name: value.clone() for name, value in pair.model.state_dict().items()}
    guide = {name: value.clone() for name, value in pair.guide.state_dict().items()}
    svi.fit(pair, x, num_steps=10, lr=0.1, train="guide", progress=False)
    assert all(torch.equal(value, model[name]) for name, value in pair.model.state_dict().items())
    assert all(not torch.equal(value, guide[name]) for name, value in pair.guide.state_dict().items())
    svi.fit(pair, x, num_steps=10, lr=0.1, train="both", progress=False)
    assert all(not torch.equal(value, model[name]) for name, value in pair.model.state_dict().items())
    with pytest.raises(InputError, match="it is 'both' or 'guide'"):
        svi.fit(pair, x, num_steps=1, train="model", progress=False)


def test_another_loss_of_pyros_can_be_used() -> None:
    pair, x = _ppca()
    mean_field = Pair(pair.model, PPCA.guides["linear-mean-field"](pair.model, x))
    fit = svi.fit(mean_field, x, num_steps=5, loss=TraceMeanField_ELBO(), progress=False)
    assert np.isfinite(fit.elbo).all()


def test_a_loss_that_explodes_is_named_with_its_step() -> None:
    pair, x = _ppca()
    with torch.no_grad():
        pair.model.log_noise_scale.fill_(-800.0)
    with pytest.raises((InputError, ValueError), match=r"the loss became .* at step 0|constraint"):
        svi.fit(pair, x, num_steps=2, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"num_particles": 0}, "num_particles is 0"),
        ({"check_every": 0}, "check_every is 0"),
        ({"lr": 0.0}, "lr is 0.0; it must be a positive number"),
        ({"lr": float("nan")}, "lr is nan"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    pair, x = _ppca()
    with pytest.raises(InputError, match=words):
        svi.fit(pair, x, progress=False, **options)


# Convergence -------------------------------------------------------------------------------------


def test_convergence_tells_rising_from_flat() -> None:
    noise = torch.randn(64, 10, dtype=torch.float64)
    for rise, expected in ((0.0, True), (0.01, True), (0.5, False), (-1.0, True)):
        met, reason = convergence(noise, noise + rise, tolerance=0.02)
        assert met is expected, rise
        assert f"{rise:.2g}" in reason or rise == 0.0
        assert "tolerance 0.02" in reason


def test_a_fit_says_whether_it_converged(conjugate: Any, x: Tensor) -> None:
    done = svi.fit(Pair(conjugate.model, conjugate.guide), x, num_steps=600, lr=0.05, num_particles=4,
                   progress=False)  # fmt: skip
    # It has levelled off, which is not the rule that the README calls convergence.
    assert done.converged is None, done.reason
    rising = svi.fit(Pair(conjugate.model, conjugate.guide), x, num_steps=40, lr=0.01, lr_end=1.0,
                     progress=False)  # fmt: skip
    assert rising.converged is False, rising.reason


# Users' programs ---------------------------------------------------------------------------------


def test_plain_functions_are_trained_and_the_global_store_is_untouched(conjugate: Any, x: Tensor) -> None:
    pyro.param("someone_elses", torch.tensor([1.0, 2.0]))
    pair = Pair(conjugate.model, conjugate.guide)
    svi.fit(pair, x, num_steps=5, lr=0.1, progress=False)
    store = pyro.get_param_store()
    assert list(store.keys()) == ["someone_elses"]
    assert store["someone_elses"].tolist() == [1.0, 2.0]
    parameters = pair.parameters()
    assert set(parameters) == {"slope", "scale"}
    assert parameters["slope"].item() != 0.3
    other = Pair(conjugate.model, conjugate.guide).initialise(x)
    assert other.parameters()["slope"].item() == pytest.approx(0.3)


def test_a_pair_starts_from_a_copy_of_the_global_values(conjugate: Any, x: Tensor) -> None:
    pyro.param("slope", torch.tensor(0.75, dtype=x.dtype))
    pyro.param("scale", torch.tensor(0.5, dtype=x.dtype), constraint=pyro.distributions.constraints.positive)
    pair = Pair(conjugate.model, conjugate.guide).initialise(x)
    assert pair.parameters()["slope"].item() == 0.75
    with pair.scope():
        assert pyro.param("scale").item() == pytest.approx(0.5)
    svi.fit(pair, x, num_steps=5, lr=0.1, progress=False)
    assert pair.parameters()["slope"].item() != 0.75
    assert pyro.param("slope").item() == 0.75
    assert pyro.param("scale").item() == pytest.approx(0.5)


def test_a_users_fit_resumes_with_its_constrained_parameters(
    conjugate: Any, x: Tensor, tmp_path: Path
) -> None:
    whole, part, rest = (Pair(conjugate.model, conjugate.guide) for _ in range(3))
    svi.fit(whole, x, num_steps=12, progress=False, seed=2)

    def refresh(epoch: int) -> tuple[Tensor]:
        if epoch == 7:
            raise _Killed
        return (x,)

    with pytest.raises(_Killed):
        svi.fit(part, x, num_steps=12, refresh=refresh, checkpoint=tmp_path, checkpoint_every=3, seed=2,
                progress=False)  # fmt: skip
    svi.fit(rest, x, num_steps=12, checkpoint=tmp_path, resume=True, seed=2, progress=False)
    assert _same(whole, rest)
