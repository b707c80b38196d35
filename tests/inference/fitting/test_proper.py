"""Posteriors that cannot be normalised are named, and those that only nearly cannot are not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.diagnostics.verdict.check import check_pair
from ppl_vae.diagnostics.verdict.listed import CHECKS
from ppl_vae.guides.named import named_guide
from ppl_vae.inference.fitting import choice, fixed_noise, natural
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.inference.fitting.gaussians.proper import Improper, refuse_flat, refuse_receding
from ppl_vae.inference.fitting.gaussians.target import Target, target_of
from ppl_vae.program.pair import Pair, Program

Y = torch.tensor([0.3, 1.2, 0.8, 1.9], dtype=torch.float64)
# The last column is twice the first less three times the second.
X = torch.tensor([[1.0, 5.0], [1.0, 7.0], [1.0, 6.0], [1.0, 9.0]], dtype=torch.float64)
X = torch.cat([X, X @ torch.tensor([[2.0], [-3.0]], dtype=torch.float64)], 1)


def flat(name: str) -> Tensor:
    value: Tensor = pyro.sample(name, dist.Normal(Y.new_zeros(()), 1.0).mask(False))
    return value


def normal(name: str, sd: float) -> Tensor:
    value: Tensor = pyro.sample(name, dist.Normal(Y.new_zeros(()), sd))
    return value


def summed(y: Tensor) -> None:
    pyro.sample("y", dist.Normal(flat("a") + flat("b"), 1.0).expand([len(y)]).to_event(1), obs=y)


def collinear(y: Tensor) -> None:
    b = pyro.sample("b", dist.ImproperUniform(constraints.real_vector, (), (3,)))
    pyro.sample("y", dist.Normal((X * b).sum(-1), 1.0).to_event(1), obs=y)


def multiplied(y: Tensor) -> None:
    a, b = (pyro.sample(name, dist.ImproperUniform(constraints.positive, (), ())) for name in ("a", "b"))
    pyro.sample("y", dist.Normal(a * b, 1.0).expand([len(y)]).to_event(1), obs=y)


def separated(y: Tensor) -> None:
    normal("c", 1.0)
    logits = flat("b") * (y - 1)
    pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=(y > 1).to(y))


def wide(y: Tensor) -> None:
    location = normal("a", 1e6) + normal("b", 1e6)
    pyro.sample("y", dist.Normal(location, 1.0).expand([len(y)]).to_event(1), obs=y)


def funnel(y: Tensor) -> None:
    # Its density rises without bound as the scale goes to zero with all of z in the middle, and is proper.
    scale = pyro.sample("scale", dist.HalfCauchy(y.new_tensor(5.0)))
    z = pyro.sample("z", dist.Normal(torch.zeros_like(y), scale.unsqueeze(-1)).to_event(1))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def heavy(y: Tensor) -> None:
    pyro.sample("z", dist.Cauchy(y.new_zeros(()), 1.0))
    pyro.sample("y", dist.Normal(torch.zeros_like(y), 1.0).to_event(1), obs=y)


NAMED = [
    (collinear, r"b\[0\], b\[1\] and b\[2\] move away together"),
    (multiplied, "a and b move away together"),
    (separated, "b moves away without end; give it a proper prior"),
]


@pytest.mark.parametrize(("model", "said"), NAMED, ids=[model.__name__ for model, _ in NAMED])
def test_independent_normals_of_a_density_without_an_integral_are_refused(model: Program, said: str) -> None:
    with pytest.raises(Improper, match=f"cannot be normalised: its density does not fall as {said}"):
        natural.fit(Pair(model, named_guide("mean-field", model)), Y, progress=False)


@pytest.mark.parametrize("fit", [fixed_noise.fit, choice.fit])
def test_every_way_to_fit_refuses_them(fit: Callable[..., object]) -> None:
    with pytest.raises(Improper, match="a and b move away together"):
        fit(Pair(summed, AutoNormal(summed)), Y, progress=False)


def test_a_check_of_a_guide_that_is_there_says_that_none_can_be_right() -> None:
    alone = [each for each in CHECKS if each.name == "family"]
    found = check_pair(Pair(summed, AutoNormal(summed)), Y, checks=alone, progress=False)
    assert (found.verdict, found.findings[0].status, found.advice) == (
        "do not trust",
        "fail",
        "proper priors",
    )
    assert "a and b move away together" in found.findings[0].sentence


def student(*names: str) -> Program:
    def guide(y: Tensor) -> None:
        for name in names:
            pyro.sample(name, dist.StudentT(y.new_tensor(5.0), 0.0, 1.0))

    return guide


def held(y: Tensor) -> None:
    pyro.sample("y", dist.Normal(flat("a"), 1.0).expand([len(y)]).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "names", "said"), [(summed, "ab", "a and b move away"), (separated, "cb", "b moves away")]
)
def test_so_does_one_of_a_guide_that_is_no_normal(model: Program, names: str, said: str) -> None:
    alone = [each for each in CHECKS if each.name == "family"]
    found = check_pair(Pair(model, student(*names)), Y, checks=alone, budget=900.0, progress=False)
    assert (found.verdict, found.decision.criterion) == ("do not trust", "improper")
    assert found.advice == "proper priors"
    assert said in found.findings[0].sentence
    # A flat prior whose latent the data hold is no fault.
    assert check_pair(Pair(held, student("a")), Y, checks=alone, progress=False).findings == ()


@contextmanager
def standing(model: Program) -> Iterator[tuple[Target, Gaussian]]:
    """A density, and independent normals about 0 on its vector."""
    with target_of(Pair(model, AutoNormal(model)), Y) as target:
        own = target.guide.read()
        yield (
            target,
            own.replaced(torch.zeros_like(own.loc), [torch.full_like(root, 0.1) for root in own.roots]),
        )


@pytest.mark.parametrize("model", [wide, funnel, heavy])
def test_proper_posteriors_are_not_refused_however_wide(model: Program) -> None:
    with standing(model) as (target, near):
        ways = torch.eye(len(near.loc), dtype=torch.float64)
        for here in (near, near.replaced(near.loc, [100 * root for root in near.roots])):
            refuse_flat(target.batches, here, seed=0)
            for way in (*ways, *-ways):
                refuse_receding(target.batches, here.replaced(here.loc - way, here.roots), here, seed=0)


def test_the_same_line_with_nothing_to_hold_it_is_refused_at_once() -> None:
    with standing(summed) as (target, here), pytest.raises(Improper):
        refuse_flat(target.batches, here, seed=0)
