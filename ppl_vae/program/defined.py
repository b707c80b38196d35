"""When log p(x) is a number: what evidence and weights need of a pair, in one place."""

from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.enumeration import is_marked
from ppl_vae.program.layout import Layout, sample_sites
from ppl_vae.program.model_densities import log_densities
from ppl_vae.program.point_mass import point_masses
from ppl_vae.program.probe import look
from ppl_vae.program.problem import Problem

__all__ = [
    "about_weights",
    "require_all_data",
    "require_density",
    "require_simulated",
    "require_weights",
    "weighable",
]


def require_all_data(layout: Layout) -> None:
    """Refuse programs that take a part of their data by themselves.

    Raises:
        InputError: naming the plate.
    """
    for name, part in layout.subsampled.items():
        raise InputError(
            f"the plate {name} takes a subsample of {part}; give the programs all their data and let "
            "the plate index them (`with pyro.plate(…) as i: … x[i]`): svi.fit's batch_size then takes "
            "minibatches"
        )


def require_density(problem: Problem) -> None:
    """Refuse a guide that puts a latent at a point.

    Raises:
        InputError: naming the sites.
    """
    if points := point_masses(problem):
        raise InputError(
            f"the guide is not a posterior: it puts {', '.join(points)} at one point, which has no "
            "density, no weights and no log p(x); take a guide with a spread (AutoNormal), or "
            "AutoLaplaceApproximation's .laplace_approximation()"
        )


def require_weights(problem: Problem, drawn: bool = True) -> Problem:
    """The problem as importance weights are defined for it, up to a constant where priors are flat.

    Discrete latents are summed out: those that the programs mark, and others of finitely many values whose
    sum is checked against adding up whole densities.

    Args:
        problem: a pair with its data.
        drawn: whether the guide is drawn from, and must have a density.

    Raises:
        InputError: for programs that take a part of their data or scale the densities of their latents, point
            masses, and discrete latents that cannot be summed out.
    """
    layout = problem.layout
    require_all_data(layout)
    _require_prior(layout)
    if layout.weighted:
        _require_same_data(problem)
    if drawn:
        require_density(problem)
    return _summing(problem) if layout.discrete else problem


def about_weights(layout: Layout) -> tuple[str, ...]:
    """What has to be said of log p(x) where the likelihood is weighted, in a sentence; else nothing."""
    if not layout.weighted:
        return ()
    names = ", ".join(layout.weighted)
    return (
        f"{names} counts by its weights w: log p(x) is that of the weighted likelihood, log ∫ p(z) Π "
        f"p({names} | z)^w dz, for whole w as if it had been observed w times",
    )


def require_simulated(layout: Layout) -> None:
    """Refuse models whose posterior is not that of the data that they simulate.

    Raises:
        InputError: naming the sites, for flat priors, and for likelihoods and priors that the program scales.
    """
    require_all_data(layout)
    _require_prior(layout)
    if layout.improper:
        raise InputError(
            f"data cannot be simulated from the model: the prior of {', '.join(layout.improper)} is flat "
            "(improper) and has no draws"
        )
    if layout.weighted:
        raise InputError(
            f"data cannot be simulated from the model: {', '.join(layout.weighted)} counts by its weights "
            "(poutine.scale), and a likelihood raised to a power has no draws; leave the weights out"
        )


def _require_prior(layout: Layout) -> None:
    if layout.tempered:
        raise InputError(
            f"the programs scale the log density of {', '.join(layout.tempered)} themselves "
            "(poutine.scale): the model is a tempered one, and its log p(x) is not that of the data; "
            "evaluate it without the scale"
        )


def _require_same_data(problem: Problem) -> None:
    """Refuse a program that weights another part of its data each time that it is run.

    Raises:
        InputError: naming the sites.
    """
    layout, few = problem.layout, problem
    if layout.can_index:
        few = problem.rows(problem.units[:64])
    found = []
    with torch.no_grad():
        with seeded(0):
            draws = few.terms().draws
        for seed in (1, 2):
            with seeded(seed):
                found.append(log_densities(few, draws)[0])
    first, second = found
    if not torch.allclose(first, second, rtol=1e-6, equal_nan=True):
        raise InputError(
            f"the program takes other values for {', '.join(layout.weighted)} each time that it is run, and "
            "scales their log density (poutine.scale): give it all its data, and let the plate index them "
            "(`with pyro.plate(…) as i: … x[i]`)"
        )


def weighable(problem: Problem, drawn: bool = True) -> Problem:
    """`require_weights`, and priors that are distributions: what log p(x) needs.

    Raises:
        InputError: as that, and for flat priors.
    """
    if improper := problem.layout.improper:
        raise InputError(
            f"log p(x) is not defined: the prior of {', '.join(improper)} is flat (improper) and "
            "integrates to no number; the posterior may still be compared (nuts.sample, compare, check)"
        )
    return require_weights(problem, drawn)


def _summing(problem: Problem) -> Problem:
    """The problem with the guide's discrete draws left out and the model's discrete latents summed."""
    way_out = (
        "mark it with infer={'enumerate': 'parallel'} (pyro.infer.config_enumerate), so that it is summed out"
    )
    layout = problem.layout
    seen = look(problem.pair, *problem.data)
    model = dict(sample_sites(seen.model_trace))
    for name in layout.discrete:
        if not model[name]["fn"].has_enumerate_support:
            raise InputError(
                f"site {name} is discrete with infinitely many values: a mean over draws of it "
                "would not know of the values that it never drew"
            )
    drawn = [name for name, site in sample_sites(seen.guide_trace) if not site["is_observed"]]
    _check_order(drawn, layout.discrete)
    kept = {name: plates for name, plates in layout.latents.items() if name not in layout.discrete}
    summing = replace(
        layout,
        latents=kept,
        summed=(*layout.summed, *layout.discrete),
        summed_plates={**layout.summed_plates, **{name: layout.latents[name] for name in layout.discrete}},
        discrete=(),
    )
    unmarked = [name for name in layout.discrete if not is_marked(model[name]) and name not in layout.marked]
    some = torch.arange(min(layout.num_units, 64)) if layout.can_index else None
    found = replace(problem, layout=summing, index=some)
    with seeded(0), torch.no_grad():
        try:
            together = found.terms().log_p
        except InputError:
            raise
        except (RuntimeError, ValueError, IndexError, AssertionError, NotImplementedError) as error:
            raise InputError(
                f"the discrete site {', '.join(summing.summed)} cannot be enumerated: the model does not run "
                f"with all its values side by side ({type(error).__name__}); {way_out}"
            ) from error
    if unmarked and not _is_right(found, unmarked, together):
        raise InputError(f"site {', '.join(unmarked)} is discrete; {way_out}")
    return replace(problem, layout=summing)


def _check_order(order: list[str], discrete: tuple[str, ...]) -> None:
    """Refuse a guide whose density of continuous latents may depend on its own discrete draws."""
    first = min((order.index(name) for name in discrete if name in order), default=len(order))
    if after := [name for name in order[first:] if name not in discrete]:
        raise InputError(
            f"the guide draws {after[0]} after the discrete site {order[first]}, so that its "
            f"density of {after[0]} may depend on that draw; leave {order[first]} out of the "
            "guide, and mark it in the model with infer={'enumerate': 'parallel'}"
        )


def _is_right(problem: Problem, unmarked: list[str], together: Tensor) -> bool:
    """Whether summing out one site that nobody marked agrees with adding up its values one by one."""
    layout = problem.layout
    if len(layout.summed) > 1 or layout.latents:
        return False
    (name,) = unmarked
    unit = layout.unit_plate
    site = dict(sample_sites(look(problem.pair, *problem.data).model_trace))[name]
    if unit is None or [frame.name for frame in site["cond_indep_stack"] if frame.vectorized] != [unit]:
        return False
    event_dims = {name: site["fn"].event_dim}
    plain = replace(layout, summed=(), latents={name: (unit,)}, event_dims=event_dims)
    support = site["fn"].enumerate_support(expand=False)
    parts = []
    with seeded(0), torch.no_grad():
        for value in support:
            event = value.shape[value.dim() - site["fn"].event_dim :]
            same = value.reshape(-1, *event)[0].expand(1, problem.num_units, *event)
            parts.append(replace(problem, layout=plain).terms(latents={name: same}).log_p)
    brute = torch.stack(parts).logsumexp(0)
    return brute.shape == together.shape and torch.allclose(brute, together, rtol=1e-4, atol=1e-4)
