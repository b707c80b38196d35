"""Random numbers that belong to a unit's draw, and not to the chunk in which it is evaluated.

Every number is a function of the seed, of the random operation's place in the program, of the unit, of the
draw, and of its place within them: a counter goes through a mixing function and comes out uniform (Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", 2011; the function is SplitMix64's, Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014). Chunks of another size, some of the units alone, or
more draws later then give the same numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_vae.program.layout import Layout

__all__ = ["UnitNoise"]

# SplitMix64's constants, as signed 64-bit integers.
GOLDEN, FIRST, SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


class UnitNoise(TorchFunctionMode):
    """Run a block whose normal, uniform and exponential numbers are those of given draws of given units.

    What is drawn in other ways (by rejection, as from a Gamma distribution, or from a discrete one) comes
    from the current generator as before.

    Args:
        layout: of the pair that draws.
        seed: of the numbers.
        first: number of the first draw.
        particles: how many draws there are.
        units: numbers of the units, of shape (units,), or None for all of them.
    """

    def __init__(self, layout: Layout, seed: int, first: int, particles: int, units: Tensor | None) -> None:
        super().__init__()
        self.seed, self.first, self.particles = seed, first, particles
        self.draw_axis = 0 if layout.vectorized else None
        self.unit_axis: int | None = None
        if layout.unit_plate is not None:
            self.unit_axis = layout.depth + layout.dims[layout.unit_plate]
        self.units = torch.arange(layout.num_units) if units is None else units
        self.operations = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        fill = _FILLS.get(func)
        if fill is not None and kwargs.get("generator") is None:
            return fill(self, args[0], *args[1:], **kwargs)
        standard = _FACTORIES.get(func)
        if standard is not None and kwargs.get("generator") is None:
            out = func(*args, **kwargs)
            return out.copy_(standard(self.uniform(out.shape, out.device)))
        return func(*args, **kwargs)

    def uniform(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Numbers in (0, 1), in float64."""
        self.operations += 1
        inner = list(shape)
        start = _wrapped((2 * self.seed + 1) * FIRST + self.operations * GOLDEN)
        key = _mix(torch.tensor(start, device=device))
        draws = torch.tensor([self.first], device=device)
        if self.draw_axis is not None and shape and shape[0] == self.particles:
            draws, inner[0] = self.first + torch.arange(self.particles, device=device), 1
        key = _mix(key + draws * GOLDEN).reshape(-1, *(1,) * (len(shape) - 1)) if shape else _mix(key)
        at = self.unit_axis
        if at is not None and at < len(shape) and shape[at] == len(self.units):
            units = self.units.to(device).reshape(-1, *(1,) * (len(shape) - at - 1))
            key, inner[at] = _mix(key + units * GOLDEN), 1
        place = torch.arange(torch.Size(inner).numel(), device=device).reshape(inner)
        bits = _mix(key + place * GOLDEN).expand(shape)
        return (_shifted(bits, 11).double() + 0.5) * 2.0**-53


def _wrapped(value: int) -> int:
    """As a signed 64-bit integer."""
    return (value + 2**63) % 2**64 - 2**63


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shifted(value, 30)) * FIRST
    value = (value ^ _shifted(value, 27)) * SECOND
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, by: int) -> Tensor:
    """Bits moved to the right, zeros coming in from the left."""
    return (value >> by) & ((1 << (64 - by)) - 1)


def _normal(noise: UnitNoise, out: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return out.copy_(torch.special.ndtri(noise.uniform(out.shape, out.device))).mul_(std).add_(mean)


def _uniform(noise: UnitNoise, out: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return out.copy_(noise.uniform(out.shape, out.device)).mul_(high - low).add_(low)


def _exponential(noise: UnitNoise, out: Tensor, rate: float = 1.0) -> Tensor:
    return out.copy_(-torch.log(noise.uniform(out.shape, out.device))).div_(rate)


def _same(values: Tensor) -> Tensor:
    return values


_FILLS: dict[Any, Callable[..., Tensor]] = {
    torch.Tensor.normal_: _normal,
    torch.Tensor.uniform_: _uniform,
    torch.Tensor.exponential_: _exponential,
}
_FACTORIES: dict[Any, Callable[[Tensor], Tensor]] = {
    torch.randn: torch.special.ndtri,
    torch.randn_like: torch.special.ndtri,
    torch.rand: _same,
    torch.rand_like: _same,
}
