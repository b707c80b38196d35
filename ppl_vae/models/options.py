"""How a model is fitted when nobody says otherwise."""

from dataclasses import dataclass

__all__ = ["FitDefaults"]


@dataclass(frozen=True)
class FitDefaults:
    """Defaults of a fit, which the command line shows and records.

    Attributes:
        num_steps: Adam steps, where a fit takes a fixed number of them.
        lr: learning rate of the first step.
        batch_size: data a step; None for all.
        num_particles: draws of the guide a step.
        kl_warmup: fraction of the steps over which the KL's weight rises from 0 to 1.
        standardize: whether features are centred and scaled.
        split: fractions of train, validation and test rows.
        dtype: of parameters and features.
        max_steps: Adam steps at most, where a fit ends by itself.
    """

    num_steps: int
    lr: float
    batch_size: int | None = None
    num_particles: int = 1
    kl_warmup: float = 0.0
    standardize: bool = False
    split: tuple[float, float, float] = (1.0, 0.0, 0.0)
    dtype: str = "float64"
    max_steps: int = 20_000
