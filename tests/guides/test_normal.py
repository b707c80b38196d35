"""Normal distributions made without what their constructors import."""

import subprocess
import sys

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.guides import normal

SHAPES = [((3,), (3, 3)), ((5, 3), (3, 3)), ((3,), (5, 3, 3)), ((4, 1, 3), (5, 3, 3))]


def factor(*shape: int) -> Tensor:
    """A Cholesky factor of the given shape."""
    raw = torch.randn(*shape, dtype=torch.float64).tril(-1)
    return raw + torch.eye(shape[-1], dtype=torch.float64) * 0.7


@pytest.mark.parametrize("place", [None, "_elsewhere"], ids=["ours", "where PyTorch keeps it elsewhere"])
@pytest.mark.parametrize(("loc_shape", "factor_shape"), SHAPES)
def test_is_what_the_constructor_makes(
    loc_shape: tuple[int, ...],
    factor_shape: tuple[int, ...],
    place: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if place:
        monkeypatch.setattr(normal, "_FACTOR", place)
    loc, scale_tril = torch.randn(loc_shape, dtype=torch.float64), factor(*factor_shape)
    stock = dist.MultivariateNormal(loc, scale_tril=scale_tril)
    made = normal.multivariate_normal(loc, scale_tril)
    assert (made.batch_shape, made.event_shape) == (stock.batch_shape, stock.event_shape)
    draws = []
    for fn in (stock, made):
        torch.manual_seed(1)
        draws.append(fn.rsample(torch.Size([7])))
    assert torch.equal(*draws)
    assert torch.equal(made.log_prob(draws[0]), stock.log_prob(draws[0]))
    for name in ("mean", "scale_tril", "covariance_matrix", "precision_matrix", "variance"):
        assert torch.equal(getattr(made, name), getattr(stock, name)), name
    assert torch.equal(made.entropy(), stock.entropy())
    wider = torch.Size([2, *stock.batch_shape])
    assert torch.equal(made.expand(wider).log_prob(draws[0][:2]), stock.expand(wider).log_prob(draws[0][:2]))
    assert torch.equal(
        torch.distributions.kl_divergence(made, stock), torch.distributions.kl_divergence(stock, stock)
    )


@pytest.mark.parametrize("wrong", ["loc", "scale_tril"])
def test_refuses_what_the_constructor_refuses(wrong: str) -> None:
    given = {"loc": torch.zeros(3), "scale_tril": torch.eye(3)}
    given[wrong] = given[wrong] * torch.nan
    with pytest.raises(ValueError, match=wrong):
        normal.multivariate_normal(**given)


def test_imports_no_sympy() -> None:
    """Which PyTorch's constructor does: if that ends, so can ours."""
    code = (
        "import sys, torch; from ppl_vae.guides.normal import multivariate_normal; "
        "multivariate_normal(torch.zeros(4, 2), torch.eye(2)); print('sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", done.stderr
