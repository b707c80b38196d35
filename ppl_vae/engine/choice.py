"""Which engine work runs through: stock Pyro, a traced graph operation by operation, or machine code."""

from ppl_vae.engine.graph import Compile, check_compile

__all__ = ["engine_for"]


def engine_for(compile: Compile, work: int, *, compiled: int, traced: int = 0) -> str:
    """The engine for so much work: "pyro", "traced" or "compiled".

    A fixed function of its arguments, so that numbers do not depend on the moment. What work is counted in,
    its caller knows: steps, iterations, or numbers in the largest site.

    Args:
        compile: "on" compiles and "off" does not even trace, whatever the work.
        work: about how much there is.
        compiled: from where on compiling is over before the work would be.
        traced: the same of tracing; where it is not below ``compiled``, nothing is only traced.
    """
    word = check_compile(compile)
    if word != "auto":
        return "compiled" if word == "on" else "pyro"
    return "compiled" if work >= compiled else "traced" if work >= traced else "pyro"
