"""One contract for every model with every one of its guides: how guides, references and views answer."""

import numpy as np
import pytest
import torch
from pyro import poutine

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import compare
from ppl_vae.guides import Prior
from ppl_vae.inference import exact, guide, importance, svi
from ppl_vae.program.abilities import ExactEvidence, ExactPosterior, HasIdentifiable, Labelled
from ppl_vae.program.pair import Pair
from ppl_vae.program.shown import ViewContext, views_of
from ppl_vae.program.terms import layout
from ppl_vae.report.figures.views import draw
from ppl_vae.views import Score, TableView
from tests.tiny import Tiny, draws_nothing, every_model, every_pair, make, short_chains


@every_pair
def test_every_guide_answers_with_named_dimensions(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair
    shape = layout(pair, *tiny.data)
    if draws_nothing(tiny):
        with pytest.raises(InputError, match="is summed out, and nothing is approximated"):
            guide.draws(pair, *tiny.data)
    else:
        drawn = guide.draws(pair, *tiny.data, num_draws=7)
        assert (drawn.method, drawn.dependence) == ("guide", "independent")
        _check_draws(drawn, tiny, pair, chains=1, num_draws=7)
        assert drawn.log_weights is not None
        unit = (shape.unit_plate,) if shape.unit_plate else ()
        assert drawn.log_weights.dims == ("chain", "draw", *unit)
        assert drawn.log_weights.size == 7 * shape.num_units

    evidence = importance.log_evidence(pair, *tiny.data, num_samples=40, progress=False)
    assert (evidence.method, evidence.kind, evidence.num_samples) == ("is", "estimate", 40)
    _check_evidence(evidence, shape.unit, shape.num_units)

    fit = svi.fit(pair, *tiny.data, num_steps=4, progress=False)
    assert fit.elbo.shape == (4,)
    assert np.isfinite(fit.elbo).all()
    assert fit.final.num_units == shape.num_units
    assert fit.final.value == pytest.approx(fit.final.reconstruction - fit.final.kl, rel=1e-6)


@every_pair
def test_what_a_pair_has_to_show_is_drawn(name: str, guide_name: str) -> None:
    tiny = make(name, guide_name)
    pair = tiny.pair
    drawn = not draws_nothing(tiny)
    draws = {"svi": guide.draws(pair, *tiny.data, num_draws=7).draws} if drawn else {}
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    for context in (ViewContext(pair, tiny.data, tiny.data, draws), ViewContext(pair, tiny.data, tiny.data)):
        for view in views_of(context):
            assert view.caption.endswith(".")
            assert draw(view) is not None or isinstance(view, Score | TableView)
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items())


@every_model
def test_every_reference_answers_with_the_same_dimensions_and_can_be_compared(name: str) -> None:
    tiny = make(name)
    pair = tiny.pair
    _check_exact(tiny, pair)
    if draws_nothing(tiny):
        return
    chains = short_chains(tiny)
    assert (chains.method, chains.dependence) == ("nuts", "chains")
    _check_draws(chains, tiny, pair, chains=2, num_draws=6)
    for statistic in ("diverging", "acceptance_rate", "step_size"):
        assert chains.stats[statistic].dims == ("chain", "draw")
        assert chains.stats[statistic].shape == (2, 6)
    assert all(variable.dtype == np.float64 for variable in chains.draws.data_vars.values())

    own = guide.draws(pair, *tiny.data, num_draws=12)
    found = compare(own, reference=chains, model=tiny.model)
    assert found.verdicts == {"guide": "cannot tell"}
    if isinstance(tiny.model, HasIdentifiable):
        mapped = tiny.model.identifiable(own.draws)
        assert {"chain": 1, "draw": 12}.items() <= dict(mapped.sizes).items()
        assert len(found.table) == sum(v.size // 12 for v in mapped.data_vars.values())


def _check_exact(tiny: Tiny, pair: Pair) -> None:
    """The answers that a model knows."""
    if isinstance(tiny.model, ExactPosterior):
        answer = exact.draws(tiny.model, *tiny.data, num_draws=5)
        assert (answer.method, answer.dependence) == ("exact", "independent")
        _check_draws(answer, tiny, pair, chains=1, num_draws=5)
    if isinstance(tiny.model, ExactEvidence):
        shape = layout(pair, *tiny.data)
        _check_evidence(exact.log_evidence(tiny.model, *tiny.data), shape.unit, shape.num_units)


@every_model
def test_the_prior_serves_every_model_as_a_proposal(name: str) -> None:
    tiny = make(name)
    pair = Pair(tiny.model, Prior(tiny.model))
    shape = layout(pair, *tiny.data)
    evidence = importance.log_evidence(pair, *tiny.data, num_samples=40, progress=False)
    assert evidence.proposal == "prior"
    _check_evidence(evidence, shape.unit, shape.num_units)


def _check_draws(answer: Posterior, tiny: Tiny, pair: Pair, *, chains: int, num_draws: int) -> None:
    shape = layout(pair, *tiny.data)
    model = tiny.model
    names = model.event_dims() if isinstance(model, Labelled) else {}
    labels = model.coords() if isinstance(model, Labelled) else {}
    sites = {name: site.plates for name, site in shape.sites.items()}
    assert set(answer.draws.data_vars) == {*sites}
    assert (answer.num_chains, answer.num_draws) == (chains, chains * num_draws)
    with pair.scope():
        trace = poutine.trace(model).get_trace(*tiny.data)
    for site, plates in sites.items():
        variable = answer.draws[site]
        events = tuple(names.get(site, ()))
        assert variable.dims == ("chain", "draw", *plates, *events)
        value = trace.nodes[site]["value"]
        assert variable.shape[2:] == value.squeeze().shape or variable.shape[2:] == value.shape
        assert np.isfinite(variable.to_numpy()).all()
        for dim in variable.dims:
            if dim in labels:
                assert list(answer.draws.coords[dim].to_numpy()) == list(labels[dim])
    assert np.isfinite(answer.seconds)


def _check_evidence(evidence: Evidence, unit: str, num_units: int) -> None:
    assert (evidence.unit, evidence.num_units) == (unit, num_units)
    assert np.isfinite(evidence.log_evidence).all()
    assert evidence.std_error.shape == evidence.bias.shape == (num_units,)
    assert (evidence.std_error >= 0).all()
    if evidence.kind == "exact":
        assert evidence.total_std_error == 0
    else:
        assert evidence.ess.shape == evidence.pareto_k.shape == evidence.elbo.shape == (num_units,)
        assert ((evidence.ess >= 1 - 1e-9) & (evidence.ess <= evidence.num_samples * (1 + 1e-9))).all()
        assert (evidence.elbo <= evidence.log_evidence + 1e-9).all()
