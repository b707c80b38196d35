"""Which method fits a pair: natural gradients or deterministic VI where they arrive soon, else SVI.

For a Gaussian guide of a model without parameters of its own, the best of the guide's family is a problem of
optimisation, which second-order methods solve in a few iterations; SVI needs thousands of steps, and a
learning rate. Models of sparse linear predictors have their parameters learnt so as well. Networks,
minibatches and every other guide are SVI's. One asks for EM, of models that know
their posterior exactly, and for expectation propagation, of skills and what is like them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.guides.chain_normal import chains_of
from ppl_vae.inference.fitting import svi
from ppl_vae.inference.fitting.factors import quadrature
from ppl_vae.inference.fitting.fit_result import NAMES, Choice, Fit, Method
from ppl_vae.inference.fitting.gaussians.autoguides import family_of, is_gaussian
from ppl_vae.inference.fitting.gaussians.gaussian_fit import GaussianKeywords
from ppl_vae.inference.fitting.gaussians.proper import Improper
from ppl_vae.inference.fitting.options import FitKeywords, FitOptions, MethodName
from ppl_vae.inference.fitting.parts import held_out_mean
from ppl_vae.inference.fitting.propagation.guides import takes
from ppl_vae.program.abilities import HasEM
from ppl_vae.program.pair import Pair
from ppl_vae.program.probe import check_data, in_pyros_words
from ppl_vae.program.problem import Problem
from ppl_vae.program.program_names import name_of

__all__ = ["Choice", "Facts", "choice_of", "choose", "facts_of", "fit", "fit_by", "settled"]

# Methods that are never chosen.
ONLY_ASKED: tuple[Method, ...] = ("em", "ep")
ASKED = "it was asked for"
# Options of a fit that every method knows; the others are SVI's.
SHARED = ("method", "train", "tolerance", "compile")
# Those that EM and expectation propagation know.
OF_OTHERS = ("method", "train")
# Latents up to which natural gradients' dense matrices are worth it for independent or low-rank covariances;
# the most for any dense covariance; and the most that deterministic VI is chosen for.
FEW, MOST_NATURAL, MOST = 500, 1500, 5000
# Dimensions of a dense covariance on draws that are held.
MOST_DENSE = 100
# Common draws at least, and a latent where matrices are dense; numbers of the data, times draws, that an
# iteration is to read at most.
DRAWS, A_LATENT, MOST_NUMBERS = 64, 4, 2**28


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a choice hangs on.

    Attributes:
        guide: the guide's type, by name.
        family: "mean-field", "full-rank", "low-rank" or "block-diagonal"; "" for a guide that is no Gaussian
            AutoGuide.
        dim: latents' coordinates in unconstrained space.
        largest: of them, in the largest dense block of the guide's covariance.
        learnt: numbers of the model that are to be learnt.
        linear: whether quadrature does (`quadrature.fits`), which learns the model's parameters as well.
        numbers: of the data.
        only_svi: what else is asked for that only SVI does, in words; "" for nothing.
        model: what the model is called.
        has_em: whether the model has EM.
        has_ep: whether expectation propagation takes the pair.
        held: whether its parameters are held.
    """

    guide: str
    family: str = ""
    dim: int = 0
    largest: int = 0
    learnt: int = 0
    linear: bool = False
    numbers: int = 0
    only_svi: str = ""
    model: str = ""
    has_em: bool = False
    has_ep: bool = False
    held: bool = False

    def __str__(self) -> str:
        kind = self.family or self.guide
        return f"the guide is {kind} with {self.dim:,} latent{'s' * (self.dim != 1)}"


def choose(facts: Facts) -> Choice:
    """The method for a pair of which these facts are known."""
    if facts.linear and not facts.only_svi:
        others: tuple[Method, ...] = ("svi",) if refused("ep", facts) else ("ep", "svi")
        return Choice("natural", f"{facts}, of a model of linear predictors, by quadrature", others)
    if obstacle := _obstacle(facts):
        others = tuple(method for method in ONLY_ASKED if not refused(method, facts))
        return Choice("svi", obstacle, others)
    second_order: tuple[Method, ...] = ("natural", "deterministic")
    possible = [method for method in second_order if not refused(method, facts)]
    order = possible if facts.largest or facts.dim <= FEW else possible[::-1]
    fitting = [method for method in order if _numbers(method, facts) <= MOST_NUMBERS]
    if facts.dim > MOST or not order:
        return Choice("svi", f"{facts}, too many for second-order methods", tuple(order))
    if not fitting:
        return Choice("svi", f"the data are large: {facts.numbers:,} numbers", tuple(order))
    return Choice(fitting[0], str(facts), (*(name for name in order if name != fitting[0]), "svi"))


def refused(method: Method, facts: Facts) -> str:
    """Why a method does not take a pair; "" where it does."""
    if method == "svi":
        return ""
    if method == "em":
        return _without_em(facts)
    if method == "ep":
        return _without_ep(facts)
    if method == "natural" and facts.linear:
        return facts.only_svi
    if obstacle := _obstacle(facts):
        return obstacle
    if method == "natural" and facts.dim > MOST_NATURAL:
        return f"natural gradients take at most {MOST_NATURAL:,} latents, here {facts.dim:,}"
    if method == "deterministic" and facts.largest > MOST_DENSE:
        held = f"deterministic VI takes dense covariances of at most {MOST_DENSE} latents"
        return f"{held}, here {facts.largest:,}"
    return ""


def _without_em(facts: Facts) -> str:
    if not facts.has_em:
        return f"{facts.model or 'the model'} has no EM"
    return "EM learns the model's parameters, which train='guide' holds" if facts.held else facts.only_svi


def _without_ep(facts: Facts) -> str:
    if not facts.has_ep:
        model, guide = facts.model or "the model", facts.guide
        return (
            "expectation propagation takes models of linear factors under guides of independent chains, such "
            f"as markov, or of all states, such as sparse-precision, and this is {model} with {guide}"
        )
    return facts.only_svi


def _obstacle(facts: Facts) -> str:
    if not facts.family and facts.has_ep and not facts.linear:  # such as races
        return f"{facts.model or 'the model'} has whole games and no linear factors of these data"
    if not facts.family:
        return f"the guide is {facts.guide}, no Gaussian AutoGuide"
    if facts.learnt:
        return f"the model has {facts.learnt:,} parameters to learn"
    return facts.only_svi


def _numbers(method: Method, facts: Facts) -> int:
    dense = facts.dim if method == "natural" else facts.largest
    return facts.numbers * max(DRAWS, A_LATENT * dense)


def facts_of(pair: Pair, *data: Any, options: FitOptions, only_svi: str = "", seed: int = 0) -> Facts:
    """The facts of a pair and its data.

    Args:
        pair: model and guide; parameters that are made when they first run are made now.
        data: the programs' data.
        options: of the fit; ``train="guide"`` holds the model's parameters.
        only_svi: what else is asked for that only SVI does, in words.
        seed: of initial values.
    """
    check_data(pair.model, *data)
    with in_pyros_words():
        pair.initialise(*data, seed=seed)
    guide = type(pair.guide).__name__
    own = pair.parameters("guide")
    model = {name: leaf for name, leaf in pair.parameters().items() if name not in own}
    general = Facts(
        guide=guide,
        learnt=sum(leaf.numel() for leaf in model.values()) if options.train == "both" else 0,
        only_svi=only_svi,
        model=name_of(pair.model),
        has_em=isinstance(pair.model, HasEM),
        has_ep=takes(pair),
        held=options.train == "guide",
    )
    linear = quadrature.fits(pair)
    if not is_gaussian(pair.guide) and not linear:
        return general
    size = options.batch_size
    if size is not None and size < (plate := Problem.of(pair, *data).layout.batch_plate_size):
        only_svi = f"minibatches of {size:,} of {plate:,} are asked for"
    if any(leaf.device.type != "cpu" for leaf in own.values()):
        only_svi = "the parameters are on a GPU"
    family = family_of(pair.guide) if is_gaussian(pair.guide) else None
    return replace(
        general,
        family=family.name if family else "",
        dim=family.dim if family else chains_of(pair.model)[1].num_states,
        largest=family.largest if family else 0,
        linear=linear,
        numbers=sum(values.numel() for values in data if isinstance(values, Tensor)),
        only_svi=only_svi,
    )


def settled(method: MethodName, given: Iterable[str]) -> MethodName:
    """The method that is asked for, where options of SVI are given as well.

    Args:
        method: "auto", "svi", "natural", "deterministic", "em" or "ep".
        given: names of the options of a fit that were given.

    Raises:
        InputError: if the method does not know one of them.
    """
    shared = OF_OTHERS if method in ("em", "ep") else SHARED
    own = [name for name in given if name in FitKeywords.__annotations__ and name not in shared]
    if not own or method == "svi":
        return method
    if method == "auto":
        return "svi"
    whose = "other methods" if own[0] in SHARED else "SVI"
    raise InputError(f"{own[0]} belongs to {whose}; method={method!r} does not know it")


def fit(
    pair: Pair,
    *data: Any,
    held_out: tuple[Any, ...] | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Unpack[FitKeywords],
) -> Fit:
    """Fit a pair by the method that suits it, and say which.

    A Gaussian AutoGuide of a model without parameters of its own goes to the best of its family, by
    `natural.fit` or `fixed_noise.fit`, and so does a Gaussian guide of a model of sparse linear predictors
    (`LinearFactors`), whose parameters are learnt with it; everything else is SVI's. ``method="em"`` is for
    models that have EM (`HasEM`), ``method="ep"`` for skills and what is like them (`ep.fit`). Of SVI,
    options that are not given have their defaults, but for at most 20,000 steps, which end by themselves
    (``stop``).

    Args:
        pair: model and guide; their parameters are changed in place.
        data: the programs' full data.
        held_out, checkpoint, resume: as for `svi.fit`; other methods begin anew.
        seed: of everything random.
        progress: whether to show a progress bar on a terminal, and say which method was chosen.
        options: the fields of `FitOptions`; ``method`` is "auto" by default. An option that only SVI knows
            makes it SVI.

    Returns:
        A `Fit`, whose ``choice`` has the method, its reason and its alternatives.

    Raises:
        InputError: as the method does, for one that does not take the pair, and for a posterior of which the
            methods find that it cannot be normalised.
        TypeError: for an option that there is not.
    """
    method = settled(options.get("method", "auto"), options)
    usual = FitKeywords(num_steps=20_000, stop="average" not in options)
    asked = FitOptions(**(usual | options | FitKeywords(method=method)))
    only = "" if method != "svi" or options.get("method") == "svi" else "options of SVI are given"
    return fit_by(
        pair, data, asked, only_svi=only, held_out=held_out, seed=seed, checkpoint=checkpoint, resume=resume,
        progress=progress,
    )  # fmt: skip


def fit_by(
    pair: Pair,
    data: tuple[Any, ...],
    options: FitOptions,
    *,
    only_svi: str = "",
    held_out: tuple[Any, ...] | None = None,
    refresh: Callable[[int], tuple[Any, ...]] | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Fit:
    """`fit` with options as an object.

    Args:
        pair, data, held_out, seed, checkpoint, resume, progress: as for `fit`.
        options: of the fit.
        only_svi: what else is asked for that only SVI does, in words.
        refresh: as for `svi.fit`.
    """
    if refresh is not None and options.method != "svi":
        only_svi = "data are drawn anew every epoch"
    choice = choice_of(pair, data, options, only_svi=only_svi, seed=seed)
    if options.method != "svi":
        stage(str(choice), show=progress)
    if choice.method != "svi":
        try:
            return _to_optimum(choice, pair, data, options, held_out, seed, progress)
        except InputError as reason:
            if options.method != "auto" or isinstance(reason, Improper):
                raise
            choice = Choice("svi", f"{NAMES[choice.method]} did not go: {reason}")
            stage(str(choice), show=progress)
    found = svi.fit(
        pair, *data, held_out=held_out, refresh=refresh, seed=seed, checkpoint=checkpoint, resume=resume,
        progress=progress, **replace(options, method="svi").keywords(),
    )  # fmt: skip
    return replace(found, choice=choice)


def choice_of(
    pair: Pair, data: tuple[Any, ...], options: FitOptions, *, only_svi: str = "", seed: int = 0
) -> Choice:
    """The method that `fit_by` takes, and why.

    Raises:
        InputError: where one that is asked for does not take the pair.
    """
    method = options.method
    if method == "svi":
        return Choice("svi", only_svi or ASKED)
    facts = facts_of(pair, *data, options=options, only_svi=only_svi, seed=seed)
    if method == "auto":
        return choose(facts)
    if why := refused(method, facts):
        others = [name for name in ("ep", "svi") if name != method and not refused(name, facts)]
        instead = " or ".join(f"method={name!r}" for name in others)
        raise InputError(f"method={method!r} does not take this pair: {why}; take {instead}")
    return Choice(method, ASKED, tuple(m for m in NAMES if m != method and not refused(m, facts)))


def _to_optimum(
    choice: Choice,
    pair: Pair,
    data: tuple[Any, ...],
    options: FitOptions,
    held_out: tuple[Any, ...] | None,
    seed: int,
    progress: bool,
) -> Fit:
    from ppl_vae.inference.fitting import em, ep, fixed_noise, natural

    # The default is SVI's, in nats a unit.
    asked: GaussianKeywords = {}
    if options.tolerance != FitOptions.tolerance:
        asked["tolerance"] = options.tolerance
    if choice.method == "em":
        found = em.fit(pair, *data, seed=seed, progress=progress)
    elif choice.method == "ep":
        found = ep.fit(pair, *data, train=options.train, seed=seed, progress=progress)
    elif choice.method == "natural":
        found = natural.fit(pair, *data, train=options.train, seed=seed, progress=progress, **asked)
    else:
        found = fixed_noise.fit(pair, *data, seed=seed, progress=progress, **asked)
    looks = [] if held_out is None else [(found.steps, held_out_mean(pair, held_out, None, seed))]
    return replace(found, choice=choice, held_out=np.asarray(looks, dtype=float).reshape(-1, 2))
