"""Gaps over all the local sites of a unit, against closed forms and quadrature."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from scipy import optimize, special
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import Gaps, gaps
from ppl_vae.guides import PerDatumNormal, Prior
from ppl_vae.program.pair import Pair
from ppl_vae.report.figures.gap import gap_bars
from tests.local_models import (
    Linear,
    gamma_poisson,
    gamma_poisson_best_lognormal,
    gamma_poisson_log_evidence,
    inner_plate,
    labelled,
    mixed,
    mixed_log_evidence,
    random_walk,
    two_layers,
)

DOUBLE = torch.float64
# One round of the search is enough from a start near the optimum.
pytestmark = pytest.mark.usefixtures("one_search")
# Of the search, in nats a unit, as documented.
TOLERANCE = 0.01


def _gaps(pair: Pair, *data: Any, **options: Any) -> Gaps:
    return gaps(pair, *data, **{"num_steps": 60, "num_samples": 1000, "progress": False, **options})


def _agrees(found: Any, truth: float, oracles: ModuleType, comparisons: int = 1) -> bool:
    """Within the Monte Carlo error, and the search's tolerance on the side where it may lack something."""
    limit = oracles.z_limit(comparisons) * found.mean_std_error
    return bool(-limit - 1e-3 < found.mean - truth < limit + TOLERANCE)


@pytest.mark.parametrize("make", [two_layers, random_walk, inner_plate, labelled])
def test_a_shifted_mean_field_guide_lacks_what_the_closed_form_says(
    make: Callable[..., Linear], oracles: ModuleType
) -> None:
    """Off by δ, the best mean field over all sites loses ½ δᵀ Λ δ, Λ being the posterior's precision."""
    case = make()
    q, precision = len(case.prior), case.precision
    with torch.random.fork_rng():
        guide = PerDatumNormal.from_model(case.model, *case.data, dtype=DOUBLE)
    delta = 0.4 / np.sqrt(np.diag(precision)) * (-1.0) ** np.arange(q)
    with torch.no_grad():
        guide.raw[:, :q] = torch.as_tensor(case.means + delta)
        guide.raw[:, q:] = torch.as_tensor(np.log(np.expm1(1 / np.diag(precision) - guide.floor)))
    index = torch.tensor([6, 0])
    found = _gaps(Pair(case.model, guide), *case.data, index=index)
    assert (found.family, found.shortfall) == ("diagonal", "optimisation gap")
    assert _agrees(found.approximation, case.mean_field_gap, oracles)
    truth = 0.5 * float(delta @ precision @ delta)
    part = found.amortisation
    assert abs(part.mean - truth) < oracles.z_limit() * part.mean_std_error + TOLERANCE
    # The posterior is in both richer families, and one round goes a part of the way.
    for family in ("full", "flow"):
        gain = found.gain(family, "diagonal")
        assert gain.mean > oracles.z_limit() * gain.mean_std_error
    score = found.log_evidence - found.evidence_bias - case.log_evidence[index]
    assert np.abs(score / found.evidence_std_error).max() < oracles.z_limit(2)


def test_a_positive_latent_has_a_best_lognormal(oracles: ModuleType) -> None:
    """AutoNormal is mean field on the logarithm: its family's optimum is known, and its evidence."""
    x = torch.tensor([3.0, 5.0, 9.0], dtype=DOUBLE)
    evidence = gamma_poisson_log_evidence(x.numpy())
    truth = (evidence - gamma_poisson_best_lognormal(x.numpy())).mean()
    start = AutoNormal(gamma_poisson, init_loc_fn=lambda site: (2 + x) / 1.5, init_scale=0.4)
    found = _gaps(Pair(gamma_poisson, start), x)
    assert (found.family, found.amortised) == ("diagonal", False)
    assert _agrees(found.approximation, truth, oracles)
    score = (found.log_evidence - found.evidence_bias - evidence) / found.evidence_std_error
    assert np.abs(score).max() < oracles.z_limit(3)


def _best_mixed(x: float) -> float:
    """The ELBO of the best N(m, s²) with the component summed out, by Gauss–Hermite quadrature."""
    nodes, weights = special.roots_hermitenorm(80)
    weights = weights / weights.sum()

    def loss(at: np.ndarray) -> float:
        z = at[0] + np.exp(at[1]) * nodes
        likelihood = np.logaddexp(
            np.log(0.7) - 0.5 * ((x - z + 1) / 0.7) ** 2, np.log(0.3) - 0.5 * ((x - z - 2) / 0.7) ** 2
        )
        value = weights @ (likelihood - 0.5 * z**2)
        return -float(value - 0.5 * np.log(2 * np.pi * 0.49) + 0.5 + at[1])

    starts = [np.array([m, -0.7]) for m in (-1.5, 0.0, 1.5)]
    return -min(float(optimize.minimize(loss, start, method="Nelder-Mead").fun) for start in starts)


def test_an_enumerated_site_beside_a_continuous_one(oracles: ModuleType) -> None:
    x = torch.tensor([-2.0, 2.5], dtype=DOUBLE)
    with torch.random.fork_rng():
        guide = PerDatumNormal.from_model(mixed, x, dtype=DOUBLE)
    with torch.no_grad():  # the posterior of the likelier component
        guide.raw[:, 0] = torch.tensor([-1.0, 0.5], dtype=DOUBLE) / 1.49
        guide.raw[:, 1] = float(np.log(np.expm1(0.49 / 1.49)))
    found = _gaps(Pair(mixed, guide), x, num_samples=4000)
    evidence = mixed_log_evidence(x.numpy())
    truth = (evidence - np.array([_best_mixed(float(value)) for value in x])).mean()
    assert _agrees(found.approximation, truth, oracles)
    score = (found.log_evidence - found.evidence_bias - evidence) / found.evidence_std_error
    assert np.abs(score).max() < oracles.z_limit(2)


def test_a_guide_of_another_family_stands_beside_the_best_ones(oracles: ModuleType) -> None:
    """The prior as a guide: its ELBO is E_p[log p(x | z)], and the best mean field is what it is."""
    case = two_layers(4)
    found = _gaps(Pair(case.model, Prior(case.model)), *case.data, num_steps=5)
    assert found.family == ""
    assert "no Gaussian" in found.notes[0]
    assert set(found.best) == {"diagonal", "full", "flow"}
    spread = np.trace(case.slope @ case.prior @ case.slope.T) / case.noise[0, 0]
    misfit = ((case.x - case.mean) ** 2).sum(1) / case.noise[0, 0]
    elbo = -0.5 * (misfit + spread + 4 * np.log(2 * np.pi * case.noise[0, 0]))
    assert abs(found.total.mean - (case.log_evidence - elbo).mean()) < (
        oracles.z_limit() * found.total.mean_std_error
    )
    with pytest.raises(InputError, match="no Gaussian"):
        _ = found.approximation
    assert gap_bars(found).axes


def test_shared_latents_leave_the_total_gap(oracles: ModuleType, tmp_path: Path) -> None:
    """μ ~ N(0, 1), x_n ~ N(μ, 1): log p(x) less the ELBO of a narrow guide, in closed form."""

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])

    x = torch.tensor([0.5, -1.0, 2.0], dtype=DOUBLE)
    mean, sd = 0.2, 0.3

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(torch.tensor(mean, dtype=DOUBLE), sd))

    found = _gaps(Pair(model, guide), x, num_samples=4000)
    # KL(N(0.2, 0.3²) ‖ N(Σx/4, 1/4)).
    truth = 0.5 * (4 * sd**2 + 4 * (mean - 1.5 / 4) ** 2 - 1 - np.log(4 * sd**2))
    assert abs(found.total.mean - truth) < oracles.z_limit() * found.total.mean_std_error
    assert "all data share mu" in found.notes[0]
    assert found.table["name"].to_list() == ["log p(x)", "ELBO, own guide", "gap"]
    assert found.best == {}
    assert gap_bars(found).axes
    found.save(tmp_path / "gaps.nc")
    again = Gaps.load(tmp_path / "gaps.nc")
    assert (again.notes, again.rested, again.family) == (found.notes, (), "")
    np.testing.assert_array_equal(again.elbo, found.elbo)


def test_discrete_draws_leave_the_total_gap(oracles: ModuleType) -> None:
    """c ~ Bernoulli(0.3), x ~ N(3 c − 1, 1), and a guide that draws c from Bernoulli(1/2)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            c = pyro.sample(
                "c", dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)), infer={"enumerate": "parallel"}
            )
            pyro.sample("x", dist.Normal(3 * c - 1, 1.0), obs=x[i])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))

    x = torch.tensor([0.5, -1.0, 2.0], dtype=DOUBLE)
    found = _gaps(Pair(model, guide), x, num_samples=4000)
    log_joint = np.stack([
        np.log(weight) - 0.5 * (x.numpy() - at) ** 2 - 0.5 * np.log(2 * np.pi)
        for weight, at in ((0.7, -1.0), (0.3, 2.0))
    ])  # fmt: skip
    truth = special.logsumexp(log_joint, axis=0) - log_joint.mean(0) - np.log(2)
    score = (found.total.value - truth) / found.total.std_error
    assert np.abs(score).max() < oracles.z_limit(3)
    assert "draws c from a discrete distribution" in found.notes[0]
