"""Numbers out of range, and what is no number, are refused by name in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from ppl_vae import PPCA, Pair, annealing, bounds, check, importance, nuts, svi
from ppl_vae.base.arguments import check_real, check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.calibration.sbc import sbc
from ppl_vae.diagnostics.prediction.predictive import predictive_check
from ppl_vae.inference import elbo, exact, guide


def model(x: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


X = torch.tensor([0.5, 1.5, -0.3])
NO_COUNT = (0, -1, 1.5, "3", float("nan"), True)
NO_SIZE = (0.0, -1.0, float("nan"), "0.1", True, [1.0])
NO_SHARE = (0.0, 1.0, -0.5, 2, float("nan"), "0.8")

WAYS: dict[str, tuple[Callable[..., object], dict[str, tuple[Any, ...]]]] = {
    "svi": (
        lambda pair, **given: svi.fit(pair, X, progress=False, **{"num_steps": 2, **given}),
        {"num_steps": NO_COUNT, "batch_size": NO_COUNT, "num_particles": NO_COUNT, "check_every": NO_COUNT,
         "kl_warmup": (-1, 1.5, "3"), "lr": NO_SIZE, "tolerance": NO_SIZE, "clip_norm": NO_SIZE,
         "average": (-0.1, 1.1, float("nan"), "0.5")},
    ),
    "nuts": (
        lambda pair, **given: nuts.sample(pair, X, progress=False, **{"num_draws": 4, "warmup": 4, **given}),
        {"num_draws": NO_COUNT, "warmup": NO_COUNT, "chains": NO_COUNT, "max_tree_depth": NO_COUNT,
         "target_accept": NO_SHARE},
    ),
    "importance": (
        lambda pair, **given: importance.log_evidence(pair, X, progress=False, **{"num_samples": 4, **given}),
        {"num_samples": NO_COUNT, "defensive": (-0.1, 1.0, float("nan"), "0.5"), "tolerance": NO_SIZE},
    ),
    "annealing": (
        lambda pair, **given: annealing.log_evidence(
            pair, X, progress=False, **{"num_temperatures": 2, "num_chains": 2, **given}
        ),
        {"num_temperatures": NO_COUNT, "num_chains": NO_COUNT, "target_accept": NO_SHARE,
         "tolerance": NO_SIZE},
    ),
    "iwae": (
        lambda pair, **given: bounds.iwae(pair, X, progress=False, **given),
        {"num_particles": NO_COUNT, "num_repeats": NO_COUNT},
    ),
    "elbo": (lambda pair, **given: elbo(pair, X, **given), {"num_particles": NO_COUNT}),
    "guide": (lambda pair, **given: guide.draws(pair, X, **given), {"num_draws": NO_COUNT}),
    "predictive": (lambda pair, **given: predictive_check(pair, X, **given), {"num_draws": NO_COUNT}),
    "sbc": (
        lambda pair, **given: sbc(pair, X, **given),
        {"num_simulations": NO_COUNT, "num_draws": NO_COUNT, "alpha": NO_SHARE, "budget": NO_SIZE},
    ),
    "check": (
        lambda pair, **given: check(model, pair.guide, X, **given),
        {"budget": (-1.0, float("nan"), "2m", None)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("way", "name"), [(way, name) for way, (_, wrong) in WAYS.items() for name in wrong])
def test_what_is_out_of_range_is_refused_by_name(way: str, name: str) -> None:
    call, wrong = WAYS[way]
    for value in wrong[name]:
        with pytest.raises(InputError) as refused:
            call(Pair(model, AutoNormal(model)), **{name: value})
        assert str(refused.value).startswith(f"{name} is {value!r}"), value


def test_numbers_of_every_library_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    check_whole(1, a=1, b=numpy.int32(3), c=torch.tensor(2))
    check_real(lambda v: 0 < v < 1, "is a share", a=0.5, b=numpy.float32(0.5), c=torch.tensor(0.25))
    with pytest.raises(InputError, match="b is 0; it must be at least 1"):
        check_whole(1, a=1, b=0)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (10**12 - 9, r"keeping [\d,]+ draws of \d numbers? would need about .* GiB"),
        (10**20, "it must be at most"),
    ],
)
@pytest.mark.parametrize("way", ["guide", "exact", "draws", "chains", "hmc"])
def test_draws_that_cannot_be_kept_are_refused(way: str, count: int, words: str) -> None:
    pair, short = (
        Pair(model, AutoNormal(model)),
        {"num_draws": 4, "warmup": 4, "chains": 2, "progress": False},
    )
    rows = torch.eye(3, dtype=torch.float64)
    ways: dict[str, Callable[[], object]] = {
        "guide": lambda: guide.draws(pair, X, num_draws=count),
        "exact": lambda: exact.draws(PPCA(3, 1), rows, num_draws=count),
        "draws": lambda: nuts.sample(pair, X, **{**short, "num_draws": count}),
        "chains": lambda: nuts.sample(pair, X, **{**short, "chains": count}),
        "hmc": lambda: nuts.sample(pair, X, sampler="hmc", **{**short, "chains": count}),
    }
    with pytest.raises(InputError, match=words):
        ways[way]()


@pytest.mark.parametrize(
    "options",
    [("vae", "digits", "--latent-dim", 10**12),
     ("vae", "digits", "--hidden", 10**20), ("ppca", "iris", "--steps", 10**20)],
)  # fmt: skip
def test_what_no_machine_holds_is_one_line(options: tuple[object, ...], run: Any, tmp_path: Path) -> None:
    # 800 TB: more than a process may address, so that it is refused wherever memory is promised freely.
    code, _, said = run("fit", *options, "--out", tmp_path / "run", "--no-stop", "--quiet")
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "GiB" in said or "it must be at most" in said
