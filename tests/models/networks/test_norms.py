"""The suite's own batch norm: against PyTorch's, against NumPy's moments, and under a traced step."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.models.networks.norms import BatchNorm


def _ours(like: nn.Module, **options: int) -> BatchNorm:
    layer = BatchNorm(4, dtype=torch.float64, **options)
    with torch.no_grad():
        assert layer.weight is not None
        assert layer.bias is not None
        layer.weight.copy_(like.weight)
        layer.bias.copy_(like.bias)
    return layer


def _stock(kind: type[nn.Module]) -> nn.Module:
    layer = kind(4, momentum=1.0).double()
    with torch.no_grad():
        layer.weight.copy_(torch.rand(4) + 0.5)
        layer.bias.copy_(torch.randn(4))
    return layer


@pytest.mark.parametrize(
    ("kind", "spatial", "shape"),
    [(nn.BatchNorm1d, 0, (30, 4)), (nn.BatchNorm1d, 1, (30, 4, 5)), (nn.BatchNorm2d, 2, (30, 4, 3, 5))],
)
def test_learning_gives_stock_batch_norms_outputs_and_gradients(
    kind: type[nn.Module], spatial: int, shape: tuple[int, ...]
) -> None:
    stock = _stock(kind)
    ours = _ours(stock, spatial_dims=spatial)
    x = (3 + 2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    found = []
    for layer in (stock, ours):
        out = layer(x)
        found.append((out, torch.autograd.grad(out.square().sum() + out[0].sum(), [x, *layer.parameters()])))
    torch.testing.assert_close(found[1], found[0])


def test_leading_dimensions_count_as_one_batch() -> None:
    layer = BatchNorm(4, spatial_dims=2)
    x = torch.randn(3, 5, 2, 4, 6, 7)
    torch.testing.assert_close(layer(x), layer(x.flatten(0, 2)).reshape(x.shape))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_settled_statistics_are_those_of_one_pass(size: int) -> None:
    x = 1e4 + torch.randn(50, 4, 3, dtype=torch.float64)
    layer = BatchNorm(4, spatial_dims=1, dtype=torch.float64)
    layer.settle(iter(x.split(size)))
    values = x.numpy()
    np.testing.assert_allclose(layer.mean.numpy(), values.mean((0, 2)), rtol=1e-13)
    np.testing.assert_allclose(layer.variance.numpy(), values.var((0, 2)), rtol=1e-9)


def test_evaluation_with_settled_statistics_is_learning_on_all_of_it() -> None:
    layer = BatchNorm(4, dtype=torch.float64)
    x = 5 + torch.randn(40, 4, dtype=torch.float64)
    together = layer(x)
    layer.settle(x.split(9))
    layer.eval()
    torch.testing.assert_close(layer(x), together)
    torch.testing.assert_close(layer(x[[7]]), together[[7]])


def test_nothing_to_settle_on_leaves_the_statistics() -> None:
    layer = BatchNorm(4)
    layer.settle([])
    assert torch.equal(layer.variance, torch.ones(4))


def test_learning_moves_no_buffer() -> None:
    layer = BatchNorm(4)
    layer(3 + torch.randn(20, 4))
    assert torch.equal(layer.mean, torch.zeros(4))


def test_half_precision_keeps_its_type_and_float32s_sums() -> None:
    layer = BatchNorm(4)
    x = (100 + torch.randn(5000, 4)).bfloat16()
    out: Tensor = layer(x)
    assert out.dtype == torch.bfloat16
    assert abs(float(out.detach().float().mean())) < 5 / 5000**0.5


def test_what_it_cannot_take_is_said() -> None:
    layer = BatchNorm(4)
    with pytest.raises(
        InputError, match=r"of 4 features, 0 dimensions from the right, was given shape \(3, 5\)"
    ):
        layer(torch.zeros(3, 5))
    with pytest.raises(InputError, match="a single row"):
        layer(torch.zeros(1, 4))
    assert layer.eval()(torch.zeros(1, 4)).shape == (1, 4)
    with pytest.raises(InputError, match="num_features"):
        BatchNorm(0)
