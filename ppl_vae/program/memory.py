"""What does not fit into memory is refused before it starts."""

import os
import re

from ppl_vae.base.errors import InputError

__all__ = ["physical_memory", "refuse_beyond_memory", "refuse_too_many_draws", "shortage_in_words"]

# Tensors like a step's largest site that are alive at once, the backward pass included.
ALIVE = 6
# Copies of all draws that are alive at once where they are kept: in parts, together, and as an array.
KEPT = 3


def physical_memory() -> int:
    """The machine's memory, in bytes; a very large number where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62


def refuse_beyond_memory(numbers: int, itemsize: int, what: str, way_out: str, alive: int = ALIVE) -> None:
    """Refuse work whose largest site takes so many numbers.

    Args:
        numbers: in the largest site, over all particles and data of one step.
        itemsize: bytes a number.
        what: the work, at the beginning of the sentence.
        way_out: what to do instead.
        alive: tensors of that size that are alive at once.

    Raises:
        InputError: with the estimate, if it exceeds the machine's memory.
    """
    needed, there = alive * numbers * itemsize, physical_memory()
    if needed > there:
        raise InputError(
            f"{what} would need about {needed / 2**30:.3g} GiB, and this machine has {there / 2**30:.3g}; "
            f"{way_out}"
        )


def refuse_too_many_draws(num_draws: int, numbers: int, itemsize: int = 8) -> None:
    """Refuse so many draws, of so many numbers each, that cannot all be kept.

    Raises:
        InputError: with the estimate.
    """
    what = f"keeping {num_draws:,} draws of {numbers:,} number{'s' * (numbers != 1)}"
    refuse_beyond_memory(num_draws * numbers, itemsize, what, "draw fewer", KEPT)


def shortage_in_words(error: BaseException) -> str | None:
    """What a failed allocation asked for, in a sentence; None for any other exception.

    NumPy raises a MemoryError; PyTorch a RuntimeError whose text tells it from others.
    """
    text = str(error)
    words = ("can't allocate memory", "not enough memory", "out of memory")
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError) and any(word in text for word in words)
    ):
        return None
    asked = re.search(r"tried to allocate (\d+) bytes", text)
    size = f"{int(asked[1]) / 2**30:,.4g} GiB at once" if asked else "more than there is"
    return (
        f"this asks for {size}, and the machine has {physical_memory() / 2**30:.3g} GiB: ask for fewer "
        "particles, chains, draws or rows, or a smaller model"
    )
