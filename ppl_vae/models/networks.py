"""Multilayer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError

__all__ = ["ACTIVATIONS", "mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def mlp(widths: Sequence[int], activation: str = "relu") -> nn.Sequential:
    """Linear layers of the given widths, input and output included, activations between them.

    Raises:
        InputError: for an unknown activation or a width below 1.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"activation {activation!r} is not known; there are {', '.join(ACTIVATIONS)}")
    for width in widths:
        check_whole(1, **{"a layer's width": width})
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
