"""The study of arriving: distances with a known answer, the races' rules, and the densities of its peers."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.arriving.__main__ import document
from benchmarks.arriving.cases import NOISE_SD, PRIOR_SD, exact_log_evidence, made_regression
from benchmarks.arriving.judge import Judge, judge_of
from benchmarks.arriving.races import LEAST, MOST, best_race, race
from benchmarks.posteriors import Target, posteriors
from ppl_vae.inference.fitting.gaussians.gaussian import Block, Family, Gaussian

FAMILY = Family((Block(torch.arange(1), "diagonal"),))


@pytest.fixture(scope="module")
def judge() -> Judge:
    case = made_regression()
    with judge_of(case.pair("full-rank"), case.data) as found:
        found.search(1)
    return found


def test_evidence_is_the_normal_density_of_the_data() -> None:
    x, y = (each.numpy() for each in made_regression().data)
    covariance = PRIOR_SD**2 * x @ x.T + NOISE_SD**2 * np.eye(len(y))
    expected = stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)
    # Both lose digits by the condition of the covariance, about 10⁸.
    assert exact_log_evidence(*made_regression().data) == pytest.approx(expected, rel=1e-8)


def test_best_of_a_normal_posterior_is_the_posterior(judge: Judge) -> None:
    assert float(judge.elbo(judge.best, 512).mean()) == pytest.approx(
        exact_log_evidence(*made_regression().data), abs=1e-6
    )


def test_nats_below_are_half_the_squared_distance(judge: Judge) -> None:
    # KL between normals of one covariance: ½ |δ|², δ in units of it.
    shift = torch.tensor([0.2, -0.1, 0.3, 0.4], dtype=torch.float64)
    (root,) = judge.best.roots
    away = judge.best.replaced(judge.best.loc + root @ shift, judge.best.roots)
    found = judge.below(away, 512)
    assert found.value == pytest.approx(0.5 * float(shift @ shift), abs=1e-6)
    turned = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    same = away.replaced(away.loc, [root @ turned])  # the same covariance by another root
    assert judge.difference(away, same, 512).value == pytest.approx(0, abs=1e-6)


@dataclass
class Falling:
    """A racer whose distance falls from 1 to 0 in so many steps."""

    needs: int
    runs: list[int] = field(default_factory=list)

    def run(self, steps: int) -> None:
        self.runs.append(steps)

    def gaussian(self) -> Gaussian:
        at = torch.tensor([max(0.0, 1 - sum(self.runs) / self.needs)])
        return Gaussian(FAMILY, at, (torch.ones(1),))


def below(at: Gaussian) -> float:
    return float(at.loc)


def test_race_ends_at_the_first_look_that_is_near_enough() -> None:
    found = race(lambda: Falling(1000), below, near=0.35, cap=60)
    assert (found.arrived, found.steps) == (True, 700)


def test_race_without_end_stops_at_the_most_steps() -> None:
    racer = Falling(10**9)
    found = race(lambda: racer, below, near=0.05, cap=60)
    assert not found.arrived
    assert MOST <= found.steps < 1.11 * MOST + LEAST
    assert set(racer.runs) == {LEAST}  # of one length, or a scan would be compiled anew


def test_best_race_is_the_one_that_arrives() -> None:
    needs = {0.1: 10**9, 0.03: 300, 0.01: 10**8}
    found = best_race(lambda rate: Falling(needs[rate]), below, near=0.05, cap=60, rates=tuple(needs))
    assert (found.rate, found.arrived) == (0.03, True)
    nearest = best_race(lambda rate: Falling(needs[rate]), below, near=0.05, cap=0, rates=(0.1, 0.01))
    assert (nearest.rate, nearest.arrived) == (0.01, False)


def test_document_holds_every_row_that_is_known() -> None:
    rows = {name: [["a cell", name], {"below": k / 100, "near": True, "met": k == 1, "seconds": k}]
            for k, name in enumerate(("one", "two", "three"), 1)}  # fmt: skip
    text = document({"full-rank": rows})
    assert [line for line in text.splitlines() if line.startswith("| a cell")] == [
        "| a cell | one |", "| a cell | three |", "| a cell | two |",
    ]  # fmt: skip
    assert "Largest distance from the best: 0.0300 nats (target 0.05); 3 of 3 within it." in text
    assert "1 of 3 near normals" in text


@pytest.mark.parametrize("name", posteriors())
def test_numpyro_has_the_same_density(name: str, shared) -> None:
    pytest.importorskip("numpyro", reason="the peer's densities need NumPyro")
    import jax.numpy as jnp
    from numpyro.infer.util import potential_energy

    from benchmarks.peers.numpyro_posteriors import PROGRAMS
    from benchmarks.peers.numpyro_runs import prepare

    prepare()
    shared(f"data/posteriordb/{name}")
    target = Target.of(posteriors()[name])
    data = tuple(jnp.asarray(np.asarray(each)) for each in target.data)
    at = 0.5 * torch.randn(3, target.density.dim, generator=torch.Generator().manual_seed(1)).double()
    ours = target.evaluate(at)[0].tolist()
    for row, expected in zip(at, ours, strict=True):
        sites = {site: jnp.asarray(value.numpy()) for site, value in target.density.unflatten(row).items()}
        # A density sums thousands of rounded terms.
        assert -float(potential_energy(PROGRAMS[name], data, {}, sites)) == pytest.approx(expected, rel=1e-10)
