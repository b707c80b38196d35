"""How far a guide is from the best of its family: against closed forms, and never said of an optimum."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoGuide,
    AutoIAFNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from ppl_vae.diagnostics.verdict.check import check_pair
from ppl_vae.diagnostics.verdict.checks import family
from ppl_vae.diagnostics.verdict.listed import CHECKS
from ppl_vae.diagnostics.verdict.outcome import Check
from ppl_vae.inference import natural
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.inference.fitting.gaussians.target import Target, target_of
from ppl_vae.program.pair import Pair, Program

ALONE = tuple(each for each in CHECKS if each.name == "family")
# Standard errors by which a number may miss its closed form.
Z = 4.5

# y ~ N(X b, 1), b ~ N(0, I): covariates that are correlated and of unlike scales.
X = torch.tensor([[1.0, 10 + k % 5, 0.3 * (k % 5) + 0.1 * (k % 3)] for k in range(15)], dtype=torch.float64)
Y = X @ torch.tensor([0.5, -0.2, 1.0], dtype=torch.float64) + 0.4 * torch.sin(torch.arange(15.0).double())
PRECISION = X.T @ X + torch.eye(3, dtype=torch.float64)
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ Y
INDEPENDENT = torch.diag(1 / PRECISION.diagonal())


def line(x: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(b @ x.T, 1.0).to_event(1), obs=y)


def placed(make: type[AutoGuide], loc: Tensor, covariance: Tensor) -> Pair:
    """A guide of the regression that is this normal, as far as its family can be."""
    pair = Pair(line, make(line))
    with target_of(pair, X, Y) as target:
        family_of = target.guide.family
        root = torch.linalg.cholesky(covariance)
        kind = family_of.blocks[0].kind
        target.guide.write(Gaussian(family_of, loc, (root if kind == "dense" else root.diagonal(),)))
    return pair


def alone(pair: Pair, *data: Any, **options: Any) -> Check:
    return check_pair(pair, *data, checks=ALONE, progress=False, **{"budget": 600.0, **options})


def kl(loc: Tensor, covariance: Tensor) -> float:
    """KL(q ‖ posterior)."""
    q, p = (torch.distributions.MultivariateNormal(*each) for each in ((loc, covariance), (MEAN, COVARIANCE)))
    return float(torch.distributions.kl_divergence(q, p))


@pytest.mark.parametrize("size", [0.5, 5.0], ids=["near", "far"])
@pytest.mark.parametrize(
    ("make", "best"), [(AutoMultivariateNormal, COVARIANCE), (AutoNormal, INDEPENDENT)], ids=["full", "mean"]
)
def test_a_guide_that_was_moved_is_short_of_its_best_by_the_difference_of_two_divergences(
    make: type[AutoGuide], best: Tensor, size: float
) -> None:
    sd = best.diagonal().sqrt()
    loc, wide = MEAN + size * sd * torch.tensor([1.0, 0, 0], dtype=torch.float64), best * 1.3**2
    pair = placed(make, loc, wide)
    before = {name: leaf.detach().clone() for name, leaf in pair.parameters("guide").items()}
    found = alone(pair, X, Y)
    assert all(torch.equal(leaf, before[name]) for name, leaf in pair.parameters("guide").items())
    values = found.measures.others
    gap, error = values["optimisation_gap"], values["optimisation_gap_error"]
    assert found.findings[0].status == "warn"
    # The climb ends within a fifth of the limit.
    expected = kl(loc, wide) - kl(MEAN, best)
    assert expected - family.LIMIT / 5 - Z * error <= gap <= expected + Z * error
    far, its_error = values["approximation_gap"], values["approximation_gap_error"]
    # Weights of a mean-field optimum have heavy tails: what they tell is a lower bound.
    if make is AutoMultivariateNormal:
        assert far == pytest.approx(0.0, abs=family.LIMIT / 5 + Z * its_error)
    else:
        assert 0.2 * kl(MEAN, best) < far < kl(MEAN, best) + Z * its_error + family.LIMIT / 5


def counts(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 2.0))
    b = pyro.sample("b", dist.Gamma(y.new_tensor(2.0), 1.0))
    pyro.sample("y", dist.Poisson(torch.exp(a.unsqueeze(-1)) * b.unsqueeze(-1)).to_event(1), obs=y)


@pytest.mark.parametrize("make", [AutoMultivariateNormal, AutoNormal])
def test_it_is_never_said_of_an_optimum(
    make: Callable[[Program], AutoGuide], monkeypatch: pytest.MonkeyPatch
) -> None:
    y = torch.tensor([0.0, 1, 1, 3], dtype=torch.float64)
    pair = Pair(counts, make(counts))
    reached = natural.fit(pair, y, start="mode", progress=False).distance
    assert reached is not None
    with target_of(pair, y) as target:

        @contextmanager
        def once(*_: Any) -> Iterator[Target]:
            yield target

        monkeypatch.setattr(family, "target_of", once)
        for seed in range(10):
            found = alone(pair, y, seed=seed)
            values = found.measures.others
            most = reached.upper + Z * values["optimisation_gap_error"]
            assert abs(values["optimisation_gap"]) <= most + family.LIMIT / 5
            assert found.findings[0].status == "pass"


@pytest.mark.parametrize(("scale", "status"), [(1.2, "pass"), (1.5, "warn")])
def test_of_latents_of_every_row_the_limit_is_a_row_s(scale: float, status: str) -> None:
    def rows(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0)), 1.0), obs=x)

    x = torch.linspace(-2, 2, 20, dtype=torch.float64)
    pair, sd = Pair(rows, AutoNormal(rows)), torch.full((20,), 0.5**0.5, dtype=torch.float64)
    with target_of(pair, x) as target:
        target.guide.write(Gaussian(target.guide.family, x / 2, (scale * sd,)))
    found = alone(pair, x)
    assert found.findings[0].status == status
    lost = 20 * (0.5 * (scale**2 - 1) - math.log(scale))
    gap, error = (found.measures.others[f"optimisation_gap{name}"] for name in ("", "_error"))
    assert gap == pytest.approx(lost, abs=Z * error + 20 * family.LIMIT / 5)


def test_of_guides_that_are_no_normals_nothing_is_said() -> None:
    def written(x: Tensor, y: Tensor) -> None:
        pyro.sample("b", dist.MultivariateNormal(MEAN, COVARIANCE))

    assert not alone(Pair(line, written), X, Y).findings
    assert not alone(Pair(line, AutoIAFNormal(line)), X.float(), Y.float()).findings


class _Once(torch.autograd.Function):
    """−½ z², which can be differentiated once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return -0.5 * z * z

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return -slope * z


def once(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(y, 1.0))
    pyro.factor("f", _Once.apply(z))


def test_no_second_derivatives_are_needed() -> None:
    y = torch.tensor(3.0, dtype=torch.float64)
    pair = Pair(once, AutoNormal(once))
    # The posterior is N(y/2, 1/2); a mean three of its sd off costs 4.5 nats.
    with target_of(pair, y) as target:
        half = torch.tensor([0.5], dtype=torch.float64)
        target.guide.write(Gaussian(target.guide.family, y / 2 + 3 * half.sqrt(), (half.sqrt(),)))
    values = alone(pair, y).measures.others
    error = values["optimisation_gap_error"]
    assert 4.5 - family.LIMIT / 5 - Z * error <= values["optimisation_gap"] <= 4.5 + Z * error + 1e-6


def test_it_keeps_to_its_share_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []

    def slow(x: Tensor, y: Tensor) -> None:
        calls.append(None)
        time.sleep(0.3)
        line(x, y)

    def begun(*given: Any) -> AbstractContextManager[Target]:
        calls.clear()
        return target_of(*given)

    monkeypatch.setattr(family, "target_of", begun)
    found = alone(Pair(slow, AutoNormal(slow)), X, Y, budget=10.0)
    assert found.findings[0].status == "skipped"
    assert found.cut == ("family",)
    # However slow the machine is, no call begins after the time, and none is shorter than its sleep.
    assert 0 < len(calls) <= family.SHARE * 10.0 / 0.3 + 1


# Neal's funnel, as centred schools have it: no normal follows it.
SIGMA = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)
EFFECTS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)


def schools(sigma: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def test_centred_schools_want_another_form_and_no_more_steps() -> None:
    pair = Pair(schools, AutoNormal(schools))
    natural.fit(pair, SIGMA, EFFECTS, start="prior", tolerance=0.03, progress=False)
    quick = tuple(
        each for each in CHECKS if each.name in ("convergence", "weights", "family", "draws", "funnel")
    )
    found = check_pair(
        pair, SIGMA, EFFECTS, checks=quick, progress=False, budget=600.0,
        rested=(False, "SVI had not come to rest"),
    )  # fmt: skip
    said = {finding.name: finding.status for finding in found.findings}
    assert said["family"] == "pass"
    assert said["funnel"] in ("warn", "fail")
    assert found.verdict == "do not trust"
    assert found.advice == "reparametrise"
    assert "non-centred" in found.next_step


def test_the_limit_is_what_a_normal_at_the_tolerances_loses() -> None:
    tolerable = torch.distributions.Normal(0.2, 1.2)
    lost = torch.distributions.kl_divergence(tolerable, torch.distributions.Normal(0.0, 1.0))
    assert math.isclose(family.LIMIT, float(lost), rel_tol=1e-6)
