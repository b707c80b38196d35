"""Recurrent cells."""

import torch
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole

__all__ = ["GRUCell"]


class GRUCell(nn.Module):
    """A gated recurrent unit with any number of leading dimensions, of which PyTorch's takes one.

    r = σ(W_r x + U_r h), u = σ(W_u x + U_u h), n = tanh(W_n x + r · (U_n h)), h' = (1 − u) n + u h, each sum
    with its biases; weights and gates lie as in PyTorch's cell.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder–Decoder" (2014), equations 5–8.

    Args:
        num_inputs: size of x.
        num_hidden: size of h.
    """

    def __init__(self, num_inputs: int, num_hidden: int) -> None:
        super().__init__()
        check_whole(1, num_inputs=num_inputs, num_hidden=num_hidden)
        self.num_hidden = num_hidden
        self.of_input = nn.Linear(num_inputs, 3 * num_hidden)
        self.of_state = nn.Linear(num_hidden, 3 * num_hidden)

    def start(self, *lead: int) -> Tensor:
        """The state before the first input: zeros of shape (*lead, num_hidden)."""
        return torch.zeros(*lead, self.num_hidden).to(self.of_state.weight)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """The next state, (*lead, num_hidden), from x of shape (*lead, num_inputs) and the state h."""
        reset_x, update_x, new_x = self.of_input(x).chunk(3, -1)
        reset_h, update_h, new_h = self.of_state(h).chunk(3, -1)
        new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        return new + (update_x + update_h).sigmoid() * (h - new)
