"""Multilayer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.models.networks.norms import norm_layers

__all__ = ["ACTIVATIONS", "activation_layer", "mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "identity": nn.Identity,
}


def activation_layer(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        InputError: naming the ones there are.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"activation {name!r} is not known; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def mlp(widths: Sequence[int], activation: str = "relu", norm: str = "none") -> nn.Sequential:
    """Linear layers of the given widths, input and output included; norms and activations between them.

    Args:
        widths: of inputs, hidden layers and outputs.
        activation: one of `ACTIVATIONS`.
        norm: "none", "batch" or "group": what comes between a linear layer and its activation.

    Raises:
        InputError: for an unknown activation or norm, or a width below 1.
    """
    activation_layer(activation)
    for width in widths:
        check_whole(1, **{"a layer's width": width})
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        between = norm_layers(norm, fan_out)
        # A norm takes the mean away, and has an offset of its own.
        layers += [nn.Linear(fan_in, fan_out, bias=not between), *between, activation_layer(activation)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
