from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from scipy import optimize, special, stats
from sklearn import datasets
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import Gaps, gaps
from ppl_vae.diagnostics.latents import best_guides
from ppl_vae.diagnostics.latents.gap_parts import GUIDES
from ppl_vae.diagnostics.latents.own_answers import own_answer
from ppl_vae.guides import AmortisedNormal, LinearNormal, PerDatumNormal
from ppl_vae.inference import exact, importance, svi
from ppl_vae.models import PPCA
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.report.figures.gap import gap_bars

DOUBLE = torch.float64

# Of the search, in nats a unit, as documented.
TOLERANCE = 0.01


def _ppca(oracles: ModuleType, covariance: str, shift: Tensor | None = None) -> tuple[Pair, Tensor]:
    """PPCA at a rotated ML solution with its best linear guide, whose bias may be shifted."""
    x = datasets.load_iris().data
    x = torch.as_tensor((x - x.mean(0)) / x.std(0))
    model = PPCA(4, 2).set_maximum_likelihood(x, oracles.rotation(30.0))
    guide = LinearNormal(4, 2, covariance=covariance, dtype=DOUBLE)
    with torch.no_grad():
        m, noise = _m(model)
        slope = torch.linalg.solve(m, model.loadings.T)
        guide.loc.weight.copy_(slope)
        guide.loc.bias.copy_(-slope @ model.mean + (0 if shift is None else shift))
        spread = noise / m.diagonal()
        if covariance == "full":
            tril = torch.linalg.cholesky(noise * torch.linalg.inv(m))
            spread = tril.diagonal() ** 2
        raw = (spread - guide.floor).expm1().log()
        guide.raw_spread.copy_(raw if covariance == "diagonal" else torch.cat([raw, tril[1:, 0]]))
    return Pair(model, guide), x


def _m(model: PPCA) -> tuple[Tensor, Tensor]:
    noise = model.noise_scale.detach() ** 2
    loadings = model.loadings.detach()
    return loadings.T @ loadings + noise * torch.eye(2, dtype=DOUBLE), noise


def _gaps(pair: Pair, *data: Any, **options: Any) -> Gaps:
    return gaps(pair, *data, **{"num_steps": 200, "progress": False, **options})


@pytest.fixture(scope="module")
def mean_field(oracles: ModuleType) -> tuple[Pair, Tensor, Gaps]:
    """An SVI-fitted linear mean-field encoder of the first 60 irises, and its gaps."""
    pair, x = _ppca(oracles, "diagonal", torch.tensor([0.3, -0.2]))
    svi.fit(pair, x, num_steps=600, num_particles=8, lr=0.03, train="guide", average=0.5, progress=False)
    return pair, x, _gaps(pair, x, index=torch.arange(60))


def test_the_approximation_gap_of_ppca_is_the_closed_form(
    mean_field: tuple[Pair, Tensor, Gaps], oracles: ModuleType
) -> None:
    """½ (Σ ln M_ii − ln det M) for the mean field, 0 for the full covariance and the flow."""
    pair, _, found = mean_field
    truth = pair.model.mean_field_gap()
    assert truth > 0.12
    part = found.approximation
    assert 0 < part.mean_std_error < 0.01
    assert abs(part.mean - truth) < oracles.z_limit() * part.mean_std_error
    scores = (part.value - truth) / part.std_error
    assert np.abs(scores).max() < oracles.z_limit(60)
    assert found.evidence_method == "exact"
    assert (found.evidence_std_error == 0).all()
    # Where the family contains the posterior the weights are constant: there is no error but the search's,
    # ½ Σ δ² of parameters within some 10⁻² posterior deviations.
    for family in ("full", "flow"):
        assert abs(found.best[family].mean) < 1e-3
        assert found.gain(family, "diagonal").mean > 0.1
    assert found.rested == (True, True, True)
    assert found.notes == ()


def test_the_amortisation_gap_of_a_fitted_linear_encoder_is_zero(
    mean_field: tuple[Pair, Tensor, Gaps], oracles: ModuleType
) -> None:
    pair, x, found = mean_field
    # What SVI still lacks is known in closed form, as for a shifted encoder below.
    m, noise = _m(pair.model)
    with torch.no_grad():
        q = pair.guide.encode(x[:60])
        best = pair.model.exact_posterior(x[:60])["z"].mean
        ratio = q.variance * m.diagonal() / noise
        quadratic = torch.einsum("ni,ij,nj->n", q.mean - best, m, q.mean - best) / noise
        lacking = 0.5 * (quadratic + (ratio - 1 - ratio.log()).sum(-1)).mean().item()
    assert lacking < 2e-3
    part = found.amortisation
    # 10⁻³: the resolution of the search, as above.
    assert abs(part.mean - lacking) < oracles.z_limit() * part.mean_std_error + 1e-3
    assert found.shortfall == "amortisation gap"
    np.testing.assert_allclose(
        found.total.value, found.approximation.value + found.amortisation.value, atol=1e-12
    )


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_shifted_encoder_lacks_what_the_closed_form_says(covariance: str, oracles: ModuleType) -> None:
    """ELBO(μ* + δ) = ELBO(μ*) − ½ δᵀ (M/σ²) δ for any covariance of q, M/σ² being the precision of the
    posterior: E_q[log p(x, z)] is quadratic in z, and the entropy does not depend on the mean."""
    shift = torch.tensor([0.15, -0.25], dtype=DOUBLE)
    pair, x = _ppca(oracles, covariance, shift)
    m, noise = _m(pair.model)
    truth = 0.5 * float(shift @ m @ shift) / float(noise)
    assert truth > 0.3
    found = _gaps(pair, x, index=torch.arange(0, 150, 5), num_samples=4000)
    part = found.amortisation
    assert part.mean_std_error < 0.02
    assert abs(part.mean - truth) < oracles.z_limit() * part.mean_std_error + 1e-3
    expected = pair.model.mean_field_gap() if covariance == "diagonal" else 0.0
    part = found.approximation
    assert abs(part.mean - expected) < oracles.z_limit() * part.mean_std_error + 1e-3
    assert found.family == covariance


# A posterior that is no Gaussian ---------------------------------------------------------------------


class _Curved(PyroModule):
    """z ~ N(0, 1), x ~ N(e^z, 1): skewed posteriors, whose evidence is an integral."""

    def __init__(self) -> None:
        super().__init__("curved")
        self.rate = nn.Parameter(torch.tensor(1.0, dtype=DOUBLE))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((self.rate * z).exp(), 1.0).to_event(1), obs=x[i])


def _curved_log_evidence(x: np.ndarray) -> np.ndarray:
    z = np.linspace(-12, 8, 20001)
    with np.errstate(over="ignore"):
        log_joint = stats.norm.logpdf(z) + stats.norm.logpdf(x, np.exp(z), 1.0)
    return special.logsumexp(log_joint, axis=1) + np.log(z[1] - z[0])


def _curved_elbo(x: np.ndarray, m: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The ELBO of N(m, s²), from E[e^z] = e^{m + s²/2} and E[e^{2z}] = e^{2m + 2s²}."""
    misfit = x**2 - 2 * x * np.exp(m + s**2 / 2) + np.exp(2 * m + 2 * s**2)
    return -0.5 * (misfit + np.log(2 * np.pi) + m**2 + s**2 - 1) + np.log(s)


def _curved_best_gaussian(x: float) -> float:
    """The ELBO of the best of them."""
    found = optimize.minimize(
        lambda at: -float(_curved_elbo(x, at[0], np.exp(at[1]))),
        np.array([0.0, -1.0]),
        method="Nelder-Mead",
        options={"fatol": 1e-10},
    )
    return -float(found.fun)


def _curved_spread(x: np.ndarray, m: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation and kurtosis of log w under N(m, s²), by Gauss and Hermite's quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    z = m[:, None] + s[:, None] * nodes
    log_w = stats.norm.logpdf(x[:, None], np.exp(z), 1.0) - 0.5 * z**2 + 0.5 * nodes**2
    centred = log_w - np.average(log_w, axis=1, weights=weights)[:, None]
    second, fourth = (np.average(centred**power, axis=1, weights=weights) for power in (2, 4))
    return np.sqrt(second), fourth / second**2


@pytest.fixture(scope="module")
def curved() -> tuple[Pair, Tensor, Gaps]:
    """An encoder whose means are a line and whose standard deviations are all 0.3."""
    x = torch.linspace(-2, 4, 12, dtype=DOUBLE)[:, None]
    line = nn.Linear(1, 2, dtype=DOUBLE)
    guide = AmortisedNormal(line, 1)
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[0.3], [0.0]]))
        line.bias.copy_(torch.tensor([-0.2, np.log(np.expm1(0.09 - guide.floor))]))
    pair = Pair(_Curved(), guide)
    return pair, x, _gaps(pair, x, num_steps=300)


def test_both_parts_of_a_gap_are_those_of_closed_forms(
    curved: tuple[Pair, Tensor, Gaps], oracles: ModuleType
) -> None:
    pair, x, found = curved
    with torch.no_grad():
        q = pair.guide.encode(x)
    rows, m, s = x.numpy()[:, 0], q.mean.numpy()[:, 0], q.variance.numpy()[:, 0] ** 0.5
    own, evidence = _curved_elbo(rows, m, s), _curved_log_evidence(x.numpy())
    best = np.array([_curved_best_gaussian(float(value)) for value in rows])
    # Means of so many draws are normal where the kurtosis is small beside their number.
    spread, kurtosis = _curved_spread(rows, m, s)
    assert (kurtosis < found.num_samples / 2).all()
    scores = (found.elbo[:, 0] - own) / (spread / np.sqrt(found.num_samples))
    assert np.abs(scores).max() < oracles.z_limit(len(scores))
    assert found.family == "diagonal"
    assert found.rested[0]
    for part, truth in (
        (found.amortisation, best - own),
        (found.approximation, evidence - best),
        (found.total, evidence - own),
    ):
        assert truth.mean() > 10 * part.mean_std_error > 0
        limit = oracles.z_limit(3) * part.mean_std_error + (0 if part is found.total else TOLERANCE)
        assert abs(part.mean - truth.mean()) < limit


def test_the_flow_is_closer_to_a_skewed_posterior_than_any_gaussian(
    curved: tuple[Pair, Tensor, Gaps], oracles: ModuleType
) -> None:
    _, x, found = curved
    truth = _curved_log_evidence(x.numpy())
    gain = found.gain("flow", "full")
    assert gain.mean > 5 * gain.mean_std_error
    assert (gain.value > 3 * gain.std_error).mean() > 0.5
    # In one dimension the two Gaussian families are the same; a search at rest is within its tolerance.
    best = np.array([_curved_best_gaussian(float(value)) for value in x])
    error = np.sqrt(np.diagonal(found.elbo_covariance, axis1=1, axis2=2))
    assert any(found.rested[:2])
    for name, rested in zip(("diagonal", "full"), found.rested, strict=False):
        at = GUIDES.index(name)
        lacking = (best - found.elbo[:, at]).mean()
        limit = oracles.z_limit(2) * np.sqrt((error[:, at] ** 2).sum()) / len(x)
        assert -limit < lacking
        assert lacking < limit + TOLERANCE or not rested
    # No ELBO exceeds the evidence, and importance sampling from the best guide finds it.
    assert ((found.elbo - truth[:, None]) / error < oracles.z_limit(found.elbo.size)).all()
    assert found.evidence_method != "exact"
    scores = (found.log_evidence - found.evidence_bias - truth) / found.evidence_std_error
    assert np.abs(scores).max() < oracles.z_limit(len(scores))
    assert found.evidence_std_error.max() < 0.05


def test_errors_of_differences_are_those_of_the_paired_draws(curved: tuple[Pair, Tensor, Gaps]) -> None:
    found = curved[2]
    own, best = found.elbo_covariance[:, 0, 0], found.elbo_covariance[:, 1, 1]
    shared = found.elbo_covariance[:, 0, 1]
    np.testing.assert_allclose(found.amortisation.std_error**2, own + best - 2 * shared, rtol=1e-9)
    np.testing.assert_allclose(found.total.std_error**2, own + found.evidence_std_error**2, rtol=1e-9)
    one = found.total
    assert one.mean_std_error == pytest.approx(np.sqrt((one.std_error**2).mean() / len(one.value)))


def test_evidence_can_be_given_for_these_units_or_for_all(oracles: ModuleType) -> None:
    pair, x = _ppca(oracles, "full")
    index = torch.tensor([70, 3])
    options: dict[str, Any] = {"index": index, "num_steps": 10, "num_samples": 10}
    everything = exact.log_evidence(pair.model, x)
    found = _gaps(pair, x, evidence=everything, **options)
    np.testing.assert_array_equal(found.log_evidence, everything.log_evidence[[70, 3]])
    np.testing.assert_array_equal(found.index, [70, 3])
    these = importance.log_evidence(pair, x, index=index, num_samples=200, progress=False)
    found = _gaps(pair, x, evidence=these, **options)
    np.testing.assert_array_equal(found.log_evidence, these.log_evidence)
    with pytest.raises(InputError, match="evidence of the same units"):
        _gaps(pair, x, evidence=exact.log_evidence(pair.model, x[:7]), **options)


def test_nothing_of_the_caller_changes_and_seeds_reproduce(oracles: ModuleType) -> None:
    pair, x = _ppca(oracles, "diagonal")
    pair.initialise(x)
    before = pair.state_dict()
    options: dict[str, Any] = {"index": torch.arange(5), "num_steps": 30, "num_samples": 50}
    with oracles.nothing_global_changes():
        one = _gaps(pair, x, seed=4, **options)
    two = _gaps(pair, x, seed=4, **options)
    np.testing.assert_array_equal(one.elbo, two.elbo)
    assert pair.state_dict().keys() == before.keys()
    for name, value in pair.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(isinstance(leaf, nn.Parameter) for leaf in pair.model.parameters())
    assert not np.array_equal(one.elbo, _gaps(pair, x, seed=5, **options).elbo)


@pytest.mark.parametrize("chunk", [1, 300, 5000])
def test_the_draws_of_a_unit_do_not_hang_on_its_chunk(
    oracles: ModuleType, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    pair, x = _ppca(oracles, "diagonal")
    some = [Problem.of(pair, x).rows(torch.tensor([3, 0, 77, 149]))]
    (whole,) = best_guides.log_weight_chunks(some, num_samples=50, seed=7)
    assert whole.std(1).min() > 0.01
    monkeypatch.setattr(best_guides, "CHUNK", chunk)
    parts = list(best_guides.log_weight_chunks(some, num_samples=50, seed=7))
    assert len(parts) == (1 if chunk == 5000 else 4)
    assert torch.allclose(torch.cat(parts, dim=2), whole, rtol=1e-9, atol=1e-9)


def test_a_per_datum_guide_lacks_optimisation(oracles: ModuleType) -> None:
    pair, x = _ppca(oracles, "diagonal")
    x = x[:20]
    pair = Pair(pair.model, PerDatumNormal(20, 2, dtype=DOUBLE))
    found = _gaps(pair, x, index=torch.tensor([4, 19, 0]), num_steps=400)
    assert found.shortfall == "optimisation gap"
    assert found.amortisation.mean > 0.5
    assert abs(found.approximation.mean - pair.model.mean_field_gap()) < 0.05
    assert "optimisation gap" in found.table["name"].to_list()


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_the_search_starts_at_the_guides_own_answer(covariance: str, oracles: ModuleType) -> None:
    pair, x = _ppca(oracles, covariance)
    index = torch.tensor([7, 140])
    own = own_answer(Problem.of(pair, x).rows(index))
    z = torch.randn(5, 2, 2, dtype=DOUBLE)
    expected = pair.guide.encode(x[index]).log_prob(z)
    for family in {covariance, "full"}:
        found = own.as_per_datum(family).at(torch.arange(2)).log_prob(z)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    if covariance == "full":  # the best mean field of an exact posterior: variances σ²/M_ii
        m, noise = _m(pair.model)
        variance = own.as_per_datum("diagonal").at(torch.arange(2)).variance
        torch.testing.assert_close(variance, (noise / m.diagonal()).expand(2, 2))


def test_what_is_asked_in_the_wrong_way_is_refused(oracles: ModuleType) -> None:
    pair, x = _ppca(oracles, "diagonal")
    for index in (torch.tensor([150]), torch.tensor([-1])):
        with pytest.raises(InputError, match="there are units 0 to 149"):
            _gaps(pair, x, index=index)
    with pytest.raises(InputError, match="integers"):
        _gaps(pair, x, index=torch.ones(150, dtype=torch.bool))
    with pytest.raises(InputError, match="num_samples is 1"):
        _gaps(pair, x, num_samples=1)


def test_gaps_are_saved_tabulated_and_drawn(curved: tuple[Pair, Tensor, Gaps], tmp_path: Path) -> None:
    found = curved[2]
    found.save(tmp_path / "gaps.nc")
    again = Gaps.load(tmp_path / "gaps.nc")
    assert vars(again).keys() == vars(found).keys()
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)
    table = found.table.set_index("name")
    assert table.loc["gap", "mean"] == found.total.mean
    assert table.loc["amortisation gap", "std_error"] == found.amortisation.mean_std_error
    axes = gap_bars(found).axes[0]
    heights = [bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")]
    expected = [found.approximation.mean, found.amortisation.mean, *(g.mean for g in found.best.values())]
    np.testing.assert_allclose([h for h in heights if any(np.isclose(h, expected))], expected)
