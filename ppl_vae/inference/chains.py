"""What every sampler of Markov chains is told."""

from dataclasses import dataclass

from ppl_vae.errors import InputError

__all__ = ["ChainSettings"]


@dataclass(frozen=True)
class ChainSettings:
    """Counts and tuning of a run of chains.

    Attributes:
        num_draws: kept draws a chain.
        warmup: adaptation steps a chain.
        chains: number of chains.
        target_accept: acceptance probability that the step size is tuned to.
        max_tree_depth: at most 2^depth gradients a draw.
        seed: of the chains.

    Raises:
        InputError: for a count that is too small or a target outside (0, 1).
    """

    num_draws: int
    warmup: int
    chains: int
    target_accept: float
    max_tree_depth: int
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("num_draws", 4), ("warmup", 1), ("chains", 1), ("max_tree_depth", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.target_accept < 1:
            raise InputError(f"target_accept is {self.target_accept}; it is a probability between 0 and 1")

    @property
    def iterations(self) -> int:
        """Of all chains together, warm-up included."""
        return self.chains * (self.warmup + self.num_draws)
