"""PyTorch by hand: a VAE's training loop, and the matrix products of networks alone."""

import copy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.problems import Fitting

__all__ = ["DecoderProducts", "TrainingLoop", "TrainingProducts"]


class TrainingLoop:
    """The loop that one would write for speed: fused Adam, logits arithmetic, nothing else.

    The objective is the suite's: one draw a datum, log p(x, z) − log q(z) at that draw, the encoder's
    variance softplus + 10⁻⁶. Constants that no gradient sees are left out, and added in `run`.
    """

    def __init__(self, problem: Fitting, lr: float | None = None) -> None:
        self.encoder = copy.deepcopy(problem.guide.network)
        self.decoder = copy.deepcopy(problem.model.decoder)
        (self.x,), self.batch_size = problem.data, problem.batch_size
        leaves = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimiser = torch.optim.Adam(leaves, lr=problem.lr if lr is None else lr, fused=True)

    def loss(self, x: Tensor) -> Tensor:
        """Summed over the batch."""
        loc, raw = self.encoder(x).chunk(2, dim=-1)
        variance = functional.softplus(raw) + 1e-6
        noise = torch.randn_like(loc)
        z = loc + variance.sqrt() * noise
        error = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return error + 0.5 * (z.square() - noise.square() - variance.log()).sum()

    def run(self, num_steps: int) -> np.ndarray:
        """So many steps; the losses, scaled to the whole data."""
        losses: list[Tensor] = []
        while len(losses) < num_steps:
            order = torch.randperm(len(self.x)).split(self.batch_size)
            for index in order[: min(len(self.x) // self.batch_size, num_steps - len(losses))]:
                loss = self.loss(self.x[index])
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self.optimiser.step()
                losses.append(loss.detach())
        return torch.stack(losses).numpy() * (len(self.x) / self.batch_size)


class TrainingProducts:
    """The matrix products of one VAE step, forward and backward, into memory that is already there."""

    def __init__(self, problem: Fitting) -> None:
        self.weights = [*_weights(problem.guide.network), *_weights(problem.model.decoder)]
        batch = problem.batch_size
        self.inputs = [torch.randn(batch, weight.shape[1]) for weight in self.weights]
        self.gradients = [torch.randn(batch, weight.shape[0]) for weight in self.weights]
        self.outputs = [torch.empty_like(gradient) for gradient in self.gradients]
        self.to_weights = [torch.empty_like(weight) for weight in self.weights]
        self.to_inputs = [torch.empty_like(values) for values in self.inputs]

    @torch.no_grad()
    def step(self) -> None:
        """Every layer forward; backward to its weights and, but for the first, to its inputs."""
        for x, weight, out in zip(self.inputs, self.weights, self.outputs, strict=True):
            torch.mm(x, weight.T, out=out)
        for k in reversed(range(len(self.weights))):
            torch.mm(self.gradients[k].T, self.inputs[k], out=self.to_weights[k])
            if k:
                torch.mm(self.gradients[k], self.weights[k], out=self.to_inputs[k])

    def run(self, num_steps: int) -> None:
        """So many steps."""
        for _ in range(num_steps):
            self.step()

    def check(self) -> None:
        """The products are those of linear layers under autograd."""
        self.step()
        for k, weight in enumerate(self.weights):
            x, w = (values.clone().requires_grad_() for values in (self.inputs[k], weight))
            out = functional.linear(x, w)
            out.backward(self.gradients[k])
            torch.testing.assert_close(self.outputs[k], out.detach())
            torch.testing.assert_close(self.to_weights[k], w.grad)
            if k:
                torch.testing.assert_close(self.to_inputs[k], x.grad)


class DecoderProducts:
    """The matrix products of a decoder for so many latents, into memory that is already there."""

    def __init__(self, decoder: nn.Sequential, num_samples: int) -> None:
        self.weights = _weights(decoder)
        self.z = torch.randn(num_samples, self.weights[0].shape[1])
        self.outputs = [torch.empty(num_samples, weight.shape[0]) for weight in self.weights]

    @torch.no_grad()
    def run(self, num_images: int) -> None:
        """For so many images, one after another."""
        for _ in range(num_images):
            x = self.z
            for weight, out in zip(self.weights, self.outputs, strict=True):
                x = torch.mm(x, weight.T, out=out)

    def check(self) -> None:
        """The products are those of the decoder's layers, and the layers fit together."""
        self.run(1)
        assert all(a.shape[0] == b.shape[1] for a, b in pairwise(self.weights))
        x = self.z
        for weight, out in zip(self.weights, self.outputs, strict=True):
            x = functional.linear(x, weight)
            torch.testing.assert_close(out, x)


def _weights(network: nn.Sequential) -> list[Tensor]:
    return [layer.weight.detach().clone() for layer in network if isinstance(layer, nn.Linear)]
