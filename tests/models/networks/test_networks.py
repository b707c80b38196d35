"""One contract over all networks, and what each of them alone can be held against."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.engine.graph import check_graph, trace
from ppl_vae.models.networks.conv import conv_decoder, conv_encoder
from ppl_vae.models.networks.dense import mlp
from ppl_vae.models.networks.norms import NORMS, GroupNorm
from ppl_vae.models.networks.recurrent import GRUCell
from ppl_vae.models.networks.residual import resnet_decoder, resnet_encoder
from ppl_vae.models.networks.sets import SetEncoder
from ppl_vae.models.networks.shapes import Flat, ImagesToRows, OneHot, RowsToImages

COLOUR, GREY = (8, 4, 3), (4, 12)


class _Joined(nn.Module):
    """A cell of input and state as a map of one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = GRUCell(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cell(x[..., :3], x[..., 3:])
        return out


@dataclass(frozen=True)
class Case:
    """A network, the shape of one of its inputs, and the size of its answer."""

    make: Callable[[], nn.Module]
    event: tuple[int, ...]
    out: int


def _cases() -> dict[str, Case]:
    cases = {
        "gru": Case(_Joined, (8,), 5),
        "sets": Case(lambda: SetEncoder(2, 6, 4), (7, 2), 4),
        "linear conv": Case(lambda: conv_decoder(3, COLOUR, (4,), activation="identity"), (3,), 96),
    }
    for norm in NORMS:
        cases |= {
            f"mlp, {norm}": Case(lambda norm=norm: mlp([5, 8, 6, 4], "tanh", norm), (5,), 4),
            f"conv encoder, {norm}": Case(
                lambda norm=norm: conv_encoder(COLOUR, (4, 6), 5, hidden=(7,), norm=norm), (96,), 5
            ),
            f"conv decoder, {norm}": Case(
                lambda norm=norm: conv_decoder(3, GREY, (6, 4), 2 * 48, hidden=(7,), norm=norm), (3,), 96
            ),
            f"resnet encoder, {norm}": Case(
                lambda norm=norm: resnet_encoder(GREY, (4, 6), 5, num_blocks=2, norm=norm), (48,), 5
            ),
            f"resnet decoder, {norm}": Case(
                lambda norm=norm: resnet_decoder(3, COLOUR, (6, 4), activation="silu", norm=norm), (3,), 96
            ),
        }
    return cases


CASES = _cases()
every_network = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name].make().double()


def _inputs(name: str, *lead: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*lead, *CASES[name].event, generator=generator, dtype=torch.float64)


@every_network
def test_leading_dimensions_are_carried_and_a_stack_equals_the_stack(name: str, network: nn.Module) -> None:
    x = _inputs(name, 2, 3, 5)
    network.eval()
    out = network(x)
    assert out.shape == (2, 3, 5, CASES[name].out)
    rows = torch.stack([torch.stack([network(part) for part in parts]) for parts in x])
    np.testing.assert_allclose(out.detach(), rows.detach(), rtol=1e-12, atol=1e-12)
    single = network(x[0, 0, 0])
    np.testing.assert_allclose(single.detach(), out[0, 0, 0].detach(), rtol=1e-12, atol=1e-12)


@every_network
def test_in_evaluation_a_rows_answer_is_the_same_to_the_bit_beside_other_rows(
    name: str, network: nn.Module
) -> None:
    x, others = _inputs(name, 6), 100 * _inputs(name, 6).flip(0)
    network(x)  # learning
    network.eval()
    beside = network(torch.cat([x[:3], others[3:]]))
    assert torch.equal(network(x)[:3], beside[:3])


@every_network
def test_every_parameter_has_a_gradient_that_is_the_slope(name: str, network: nn.Module) -> None:
    x = _inputs(name, 2, 4)
    named = dict(network.named_parameters())
    torch.manual_seed(3)
    weights = torch.randn(2, 4, CASES[name].out, dtype=torch.float64)
    gradients = torch.autograd.grad((network(x) * weights).sum(), list(named.values()))
    step = 1e-6
    for (place, value), gradient in zip(named.items(), gradients, strict=True):
        assert (gradient != 0).any(), place
        along = gradient / gradient.norm()
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                value.add_(sign * step * along)
                ends.append((network(x) * weights).sum().item())
                value.sub_(sign * step * along)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient.norm().item(), rel=1e-4), place


@every_network
def test_value_and_gradient_trace_while_learning(name: str, network: nn.Module) -> None:
    x = _inputs(name, 2, 4)

    def loss(*inputs: Tensor) -> tuple[Tensor, ...]:
        value = network(inputs[0]).square().mean()
        return value, *torch.autograd.grad(value, list(network.parameters()))

    graph = trace(loss, x, *network.parameters())
    check_graph(graph, loss, x, *network.parameters(), vary=[(x, torch.randn_like)])


# Each alone --------------------------------------------------------------------------------------


def test_images_are_folded_as_data_sets_fold_them() -> None:
    images = torch.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    found = RowsToImages(3, 4, 6)(images.flatten(1))
    assert torch.equal(found, images.permute(0, 3, 1, 2))
    assert torch.equal(Flat()(found), images.flatten(1))
    back = ImagesToRows(3, 4, 6, 72)
    assert torch.equal(back(found), images.flatten(1))
    two = ImagesToRows(3, 4, 6, 144)(torch.cat([found, -found], 1))
    assert torch.equal(two, torch.cat([images.flatten(1), -images.flatten(1)], 1))


def test_moving_a_map_by_one_place_moves_the_image_by_four_pixels() -> None:
    """Convolutions commute with shifts, away from the border."""
    torch.manual_seed(0)
    network = conv_decoder(3, (24, 24), (4, 2)).double()
    convolutions = network[[type(layer) for layer in network].index(RowsToImages) + 1 :]
    small = torch.zeros(1, 4, 6, 6, dtype=torch.float64)
    small[:, :, 2, 2] = torch.randn(4)
    image, moved = (convolutions(map_).reshape(24, 24) for map_ in (small, small.roll((1, 1), (2, 3))))
    np.testing.assert_allclose(moved[6:-2, 6:-2].detach(), image[2:-6, 2:-6].detach(), rtol=1e-12, atol=1e-14)


def test_gru_is_pytorchs() -> None:
    theirs, ours = nn.GRUCell(3, 5).double(), GRUCell(3, 5).double()
    ours.of_input.load_state_dict({"weight": theirs.weight_ih, "bias": theirs.bias_ih})
    ours.of_state.load_state_dict({"weight": theirs.weight_hh, "bias": theirs.bias_hh})
    x, h = torch.randn(4, 3, dtype=torch.float64), ours.start(4)
    for _ in range(3):
        np.testing.assert_allclose(ours(x, h).detach(), theirs(x, h).detach(), rtol=1e-12, atol=1e-14)
        h = theirs(x, h)


def test_the_order_of_points_does_not_matter_and_the_points_do() -> None:
    torch.manual_seed(0)
    network = SetEncoder(2, 8, 3).double()
    points = torch.randn(4, 9, 2, dtype=torch.float64)
    out = network(points)
    np.testing.assert_allclose(
        network(points[:, torch.randperm(9)]).detach(), out.detach(), rtol=1e-12, atol=1e-14
    )
    assert ((network(points + 0.1) - out).abs().amax(1) > 1e-4).all()


def test_group_norm_has_mean_zero_and_variance_one_in_every_group_of_every_row() -> None:
    layer = GroupNorm(12, spatial_dims=2).double()
    x = 3 + 5 * torch.randn(2, 3, 12, 4, 5, dtype=torch.float64)
    groups = layer(x).reshape(2, 3, 3, -1)
    assert [GroupNorm(size).num_groups for size in (3, 6, 12, 64, 200)] == [1, 1, 3, 8, 8]
    np.testing.assert_allclose(groups.mean(-1).detach(), 0, atol=1e-12)
    variance = x.reshape(2, 3, 3, -1).var(-1, correction=0)
    np.testing.assert_allclose(
        groups.var(-1, correction=0).detach(), variance / (variance + layer.eps), rtol=1e-12
    )


def test_one_hot_is_pytorchs_and_traces() -> None:
    codes, layer = torch.tensor([[2, 0], [1, 2]]), OneHot(3, dtype=torch.float64)
    assert torch.equal(layer(codes), nn.functional.one_hot(codes, 3).double())
    assert not layer.state_dict()
    graph = trace(lambda y: (layer(y),), codes)
    assert torch.equal(graph(codes)[0], layer(codes))


def test_bad_networks_are_refused() -> None:
    with pytest.raises(InputError, match=r"6 x 4 cannot be halved 2 times.* divisible by 4"):
        conv_encoder((6, 4), (2, 2), 3)
    with pytest.raises(InputError, match=r"image_shape is \(64,\); images are \(height, width\)"):
        conv_decoder(3, (64,), (2, 2))
    with pytest.raises(InputError, match="num_outputs is 17; it must be a multiple of an image's 16 numbers"):
        resnet_decoder(3, (4, 4), (2, 2), 17)
    with pytest.raises(InputError, match="at least one convolution"):
        conv_encoder((4, 4), (), 3)
    with pytest.raises(InputError, match="number of channels is 0"):
        resnet_encoder((4, 4), (0,), 3)
    with pytest.raises(InputError, match="norm 'layer' is not known; there are none, batch, group"):
        mlp([2, 3, 4], norm="layer")
    with pytest.raises(InputError, match="images of 4 x 4 x 1 was given rows of 17 numbers"):
        conv_encoder((4, 4), (2,), 3)(torch.zeros(2, 17))
