"""Whether the model's parameters are an estimate, and whether the guide has anything to approximate."""

from torch import nn

from ppl_vae.base.wording import in_words
from ppl_vae.diagnostics.verdict.case import Case, Found
from ppl_vae.diagnostics.verdict.rule import Finding
from ppl_vae.program.abilities import HasDegenerate, Unbounded

__all__ = ["parameters", "summed", "unbounded"]


def parameters(case: Case) -> Found | None:
    """What the model itself says of them."""
    model = case.pair.model
    if not isinstance(model, HasDegenerate):
        return None
    if (said := model.degenerate()) is None:
        return Found(Finding("parameters", "pass", "the solution is not degenerate"))
    return Found(Finding("parameters", "fail", said), {"degenerate": said})


def unbounded(case: Case) -> Found | None:
    """What the model, or a layer in it, says of a likelihood that has no upper bound."""
    model = case.pair.model
    layers: tuple[object, ...] = tuple(model.modules()) if isinstance(model, nn.Module) else (model,)
    said = [layer.unbounded() for layer in layers if isinstance(layer, Unbounded)]
    if not (wrong := [each for each in said if each is not None]):
        return None
    return Found(Finding("parameters", "fail", wrong[0]), {"unbounded": wrong[0]})


def summed(case: Case) -> Found | None:
    """All latents are discrete and summed out: the guide draws nothing."""
    if case.layout.latents:
        return None
    names = in_words(case.layout.summed)
    said = f"nothing is approximated: {names} is summed out exactly, and the ELBO is log p(x)"
    return Found(Finding("guide", "pass", said), {"summed": case.layout.summed})
