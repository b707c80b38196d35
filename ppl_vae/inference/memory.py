"""What does not fit into memory is refused before it starts."""

import os

from ppl_vae.errors import InputError

__all__ = ["physical_memory", "refuse_beyond_memory"]

# Tensors like a step's largest site that are alive at once, the backward pass included.
ALIVE = 6


def physical_memory() -> int:
    """The machine's memory, in bytes; a very large number where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62


def refuse_beyond_memory(numbers: int, itemsize: int, what: str, way_out: str) -> None:
    """Refuse work whose largest site takes so many numbers.

    Args:
        numbers: in the largest site, over all particles and data of one step.
        itemsize: bytes a number.
        what: the work, at the beginning of the sentence.
        way_out: what to do instead.

    Raises:
        InputError: with the estimate, if it exceeds the machine's memory.
    """
    needed, there = ALIVE * numbers * itemsize, physical_memory()
    if needed > there:
        raise InputError(
            f"{what} would need about {needed / 2**30:.3g} GiB, and this machine has {there / 2**30:.3g}; "
            f"{way_out}"
        )
