"""A log density at any number of positions: values, gradients, and products with its Hessians."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.engine.density import Density
from ppl_vae.engine.gradients import Gradient, LinAlgError, gradient
from ppl_vae.engine.graph import Outputs, Untraceable, trace

__all__ = ["Batches", "NoCurvature"]

# Positions at once: enough to hide what a call costs, few enough that a last, padded batch wastes little.
SIZE = 64
# Numbers in the largest tensor that a program reads, times positions at once: what a processor's cache holds,
# beyond which positions side by side take several times as long.
BUDGET = 2**20
# Points at which products are compared with differences of gradients over a step, in units of a direction,
# what fraction they may differ by, and how a gradient is rounded.
CHECKED, STEP, DIFFER, ROUNDING = 2, 1e-5, 1e-2, 1e-9
# What a graph's products may differ by from the program's, of the largest entry.
SAME = 1e-9


class NoCurvature(Exception):
    """The density has no second derivatives that autograd knows."""


class Batches:
    """A density's values, gradients and Hessian-vector products, a batch of positions at a time.

    All run through graphs of one size, the last batch padded; where a program cannot be traced, through
    stock Pyro one by one. A factorisation that fails makes values that are not finite.

    Args:
        density: of a model.
        engine: "pyro", "traced" or "compiled", for the gradients; products are never compiled.
    """

    def __init__(self, density: Density, engine: str = "traced") -> None:
        self.density, self.engine = density, engine
        largest = max((tensor.numel() for tensor in density.tensors), default=1)
        self.size = max(1, min(SIZE, BUDGET // max(largest, 1)))
        self.num_gradients = self.num_products = 0

    @cached_property
    def gradient(self) -> Gradient:
        """Of so many positions at once, and of one."""
        return gradient(self.density, self.engine, chains=self.size)

    @property
    def ran(self) -> str:
        """How gradients really run: "pyro", "traced" or "compiled"."""
        return str(self.gradient.engine)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities (n,) and gradients (n, dim) at positions (n, dim)."""
        self.num_gradients += len(positions)
        found = [self._of_batch(part) for part in positions.split(self.size)]
        values, slopes = zip(*found, strict=True)
        return torch.cat(values), torch.cat(slopes)

    def values(self, positions: Tensor) -> Tensor:
        """Log densities (n,) at positions (n, dim), which cost less without gradients."""
        self.num_gradients += len(positions)
        found = []
        for part in positions.split(self.size):
            check_time()
            found.append(self.gradient.values(_padded(part, self.size))[: len(part)])
        return torch.cat(found)

    def _of_batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        check_time()
        count = len(positions)
        values, slopes = self.gradient.of_each(_padded(positions, self.size), range(count))
        return values[:count], slopes[:count]

    def products(self, positions: Tensor, directions: Tensor) -> Tensor:
        """∇² log p(u_n) v_n for positions u and directions v, both (n, dim).

        Raises:
            NoCurvature: where autograd has no second derivatives.
        """
        self.num_products += len(positions)
        pairs = zip(positions.split(self.size), directions.split(self.size), strict=True)
        return torch.cat([self._products_of_batch(*pair) for pair in pairs])

    def _products_of_batch(self, positions: Tensor, directions: Tensor) -> Tensor:
        check_time()
        count = len(positions)
        try:
            return self._product(_padded(positions, self.size), _padded(directions, self.size))[:count]
        except LinAlgError:
            return torch.full_like(positions, torch.nan)

    @cached_property
    def _product(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Products of a whole batch."""
        known = list(self._known_products())
        with contextlib.suppress(Untraceable):
            return self._traced_product(known)
        return lambda positions, directions: torch.stack(
            [hessian_product(self.density, *pair) for pair in zip(positions, directions, strict=True)]
        )

    def _traced_product(
        self, known: list[tuple[Tensor, Tensor, Tensor]]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """By the derivative of the gradients' graph, which runs no Pyro, checked against the program's.

        Raises:
            Untraceable: where they differ, or an operation of the graph has no derivative.
        """
        if self.gradient.batched is None:
            raise Untraceable("the gradient is no graph of many positions")
        of_gradient, held = self.gradient.batched, self.density.tensors

        def products(positions: Tensor, directions: Tensor, *tensors: Tensor) -> Outputs:
            with torch.enable_grad():
                points = positions.detach().requires_grad_(True)
                slopes = of_gradient.module(points, *tensors, *of_gradient.constants)[1]
                along = (slopes * directions).sum()
                return torch.autograd.grad(along, points, materialize_grads=True)

        # Rows do not depend on each other: the sum's gradient is every row's own product.
        stacked = [torch.zeros(self.size, self.density.dim).to(self.density.like) for _ in range(2)]
        graph = trace(products, *stacked, *held)
        for position, direction, product in known:
            rows = [each.expand(self.size, -1).contiguous() for each in (position, direction)]
            found = graph(*rows, *held)[0]
            if not torch.allclose(found[0], product, rtol=SAME, atol=SAME * (1 + float(product.abs().max()))):
                raise Untraceable("the gradients' graph has another derivative than the program's gradient")
        return lambda positions, directions: graph(positions, directions, *held)[0]

    def _known_products(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Positions, directions and products by stock Pyro, each compared with a difference of gradients.

        A function that can be differentiated but once may drop out of autograd's second derivatives without a
        word (`once_differentiable`).

        Raises:
            NoCurvature: where they differ.
        """
        generator = torch.Generator().manual_seed(0)
        for _ in range(CHECKED):
            position, direction = (
                torch.empty(self.density.dim, dtype=torch.float64).normal_(generator=generator)
                for _ in range(2)
            )
            position, direction = (each.to(self.density.like) for each in (position, direction))
            try:
                product = hessian_product(self.density, position, direction)
            except LinAlgError:  # no factorisation just there: nothing to compare
                continue
            ends = torch.stack([position + STEP * direction, position - STEP * direction])
            slopes = self(ends)[1]
            difference = (slopes[0] - slopes[1]) / (2 * STEP)
            if not bool(difference.isfinite().all() and product.isfinite().all()):
                continue
            size = difference.abs().max() + product.abs().max() + slopes.abs().max() * ROUNDING / STEP
            if (
                float((difference - product).abs().max())
                > DIFFER * float(size) + torch.finfo(size.dtype).tiny
            ):
                raise NoCurvature("autograd's second derivatives are not those of the gradient")
            yield position, direction, product


def hessian_product(density: Density, position: Tensor, direction: Tensor) -> Tensor:
    """∇² log p(u) v by differentiating twice.

    Raises:
        NoCurvature: where autograd cannot.
    """
    with torch.enable_grad():
        point = position.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(density.value(point), point, create_graph=True)
        if not slope.requires_grad:  # the density is linear, as far as autograd knows
            return torch.zeros_like(position)
        try:
            (product,) = torch.autograd.grad(slope @ direction, point, materialize_grads=True)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, LinAlgError):
                raise
            raise NoCurvature(str(error).partition("\n")[0]) from error
    return product.detach()


def _padded(rows: Tensor, size: int) -> Tensor:
    """So many rows: the last one again and again behind those given."""
    missing = size - len(rows)
    return rows if not missing else torch.cat([rows, rows[-1:].expand(missing, -1)])
