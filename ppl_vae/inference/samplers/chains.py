"""What every sampler of Markov chains is told."""

from dataclasses import dataclass

from ppl_vae.base.arguments import PROBABILITY, check_real, check_whole

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
        check_whole(4, num_draws=self.num_draws)
        check_whole(1, warmup=self.warmup, chains=self.chains, max_tree_depth=self.max_tree_depth)
        check_real(lambda v: 0 < v < 1, PROBABILITY, target_accept=self.target_accept)

    @property
    def iterations(self) -> int:
        """Of all chains together, warm-up included."""
        return self.chains * (self.warmup + self.num_draws)
