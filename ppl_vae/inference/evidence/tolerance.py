"""How many more samples a standard error wants, and when to say that it cannot be had."""

import math

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.arguments import check_real

__all__ = ["check_tolerance", "samples_needed"]


def check_tolerance(tolerance: float | None) -> None:
    """Refuse what is no standard error.

    Raises:
        InputError: for a tolerance that is not positive.
    """
    if tolerance is not None:
        check_real(lambda v: v > 0, "is a standard error in nats, above 0", tolerance=tolerance)


def samples_needed(found: Evidence, tolerance: float, max_samples: int) -> tuple[int, tuple[str, ...]]:
    """How many more samples a unit the tolerance needs, as far as the error tells; or why to stop.

    Args:
        found: so far.
        tolerance: standard error of the mean over units, in nats.
        max_samples: samples a unit at which it is given up.

    Returns:
        The number, 0 to stop, and what has to be said then.
    """
    error, samples = found.mean_std_error, found.num_samples
    alarms = int(found.alarming.sum())
    doubt = (
        f"the weights of {alarms} of {found.num_units} units cannot be trusted, nor their standard error: "
        + ("more temperatures are needed" if found.method == "ais" else
           "a better guide, a defensive mixture or annealing is needed"),
    )  # fmt: skip
    if error <= tolerance:
        return 0, doubt if alarms else ()
    # A tenth more than the square-root law asks for, so that it is met at once.
    needed = math.ceil(1.1 * samples * (error / tolerance) ** 2)
    if needed <= max_samples:
        return needed - samples, ()
    what = "chains" if found.method == "ais" else "samples"
    reason = (
        f"the standard error {error:.2g} cannot be brought to {tolerance:g}: about {needed:.1e} {what} a "
        f"unit would be needed, more than {max_samples}"
    )
    return 0, (reason, *(doubt if alarms else ()))
