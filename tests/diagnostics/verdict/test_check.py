"""The whole check, on pairs whose truth is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoMultivariateNormal

from ppl_vae import PPCA, InputError, Pair, Posterior
from ppl_vae.diagnostics import Check, Rule, check, check_pair
from ppl_vae.diagnostics.verdict.checks import draws as drawing
from ppl_vae.diagnostics.verdict.checks import reference as beside
from ppl_vae.diagnostics.verdict.checks import weights as weighing
from ppl_vae.diagnostics.verdict.reference import Sampled
from ppl_vae.guides import LinearNormal

# y_i ~ N(a + b x_i, 1) with standard normal priors: the posterior is Gaussian with correlation ρ.
X = torch.linspace(0.5, 3.0, 12, dtype=torch.float64)
Y = 1.0 + 0.5 * X + 0.3 * torch.tensor([1.0, -1.0] * 6, dtype=torch.float64)
DESIGN = torch.stack([torch.ones_like(X), X], 1)
COVARIANCE = torch.linalg.inv(DESIGN.T @ DESIGN + torch.eye(2, dtype=torch.float64))
MEAN = COVARIANCE @ DESIGN.T @ Y


def line(x, y):
    ab = pyro.sample("ab", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
    mean = ab[..., 0:1] + ab[..., 1:2] * x
    pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


def gaussian(loc, covariance):
    def guide(x, y):
        pyro.sample("ab", dist.MultivariateNormal(loc, covariance))

    return guide


def checked(guide, model=line, data=(X, Y), **options):
    options = {"fit": False, "calibrate": False, "progress": False, "budget": 600.0, **options}
    return check(model, guide, *data, **options)


def test_exact_guide_is_trusted():
    found = checked(gaussian(MEAN, COVARIANCE))
    assert found.verdict == "trust"
    assert found.measures.reference == "nuts"
    assert found.measures.reference_ok
    assert found.measures.gap == pytest.approx(0.0, abs=1e-6)
    assert not found.failing
    assert "TRUST" in str(found)


@pytest.mark.parametrize(
    ("guide", "word"),
    [
        (gaussian(MEAN, 4 * COVARIANCE), "too wide"),
        (gaussian(MEAN, COVARIANCE / 4), "too narrow"),
        (gaussian(MEAN + 1.5 * COVARIANCE.diagonal().sqrt(), COVARIANCE), "means are off"),
        (gaussian(MEAN, torch.diag(1 / torch.linalg.inv(COVARIANCE).diagonal())), "too narrow"),
    ],
    ids=["wide", "narrow", "shifted", "mean-field"],
)
def test_broken_guides_are_not_trusted(guide, word):
    found = checked(guide)
    assert found.verdict != "trust"
    (reference,) = [finding for finding in found.findings if finding.name == "reference"]
    assert reference.status == "fail"
    assert word in reference.sentence


def test_lost_correlation_is_named_and_its_cure():
    marginal = torch.diag(COVARIANCE.diagonal())
    found = checked(gaussian(MEAN, marginal))
    assert found.verdict != "trust"
    assert "correlation of ab[0] and ab[1]" in " ".join(finding.sentence for finding in found.findings)


def test_wide_guide_is_repaired_by_its_weights():
    found = checked(gaussian(MEAN, 4 * COVARIANCE))
    assert found.verdict == "reweight"
    assert found.measures.reweighted_error < 1 < found.measures.error_floor


def test_too_short_a_budget_says_the_least():
    with pytest.raises(InputError, match=r"too short for any check: .* give it \d+ s or more"):
        checked(gaussian(MEAN, COVARIANCE), budget=1e-3)


def test_guide_that_misses_a_site_is_refused():
    with pytest.raises(InputError, match="misses the model's latent sites ab"):
        checked(lambda x, y: None)


def test_model_without_observations_is_refused():
    def prior(x, y):
        pyro.sample("ab", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(InputError, match="observes nothing"):
        checked(gaussian(MEAN, COVARIANCE), model=prior)


def test_reference_may_be_given_and_must_be_of_these_parameters():
    draws = torch.distributions.MultivariateNormal(MEAN, COVARIANCE).sample((1, 3000)).numpy()
    given = Posterior(xr.Dataset({"ab": (("chain", "draw", "ab_dim_0"), draws)}), "mine", "independent")
    assert checked(gaussian(MEAN, COVARIANCE), reference=given).verdict == "trust"
    assert checked(gaussian(MEAN, COVARIANCE / 9), reference=given).verdict != "trust"
    other = given.map(given.draws.rename(ab="theta"))
    with pytest.raises(InputError, match="no quantity in common"):
        checked(gaussian(MEAN, COVARIANCE), reference=other)


@pytest.mark.parametrize("known", [True, False], ids=["a reference", "no reference"])
@pytest.mark.parametrize(("width", "validated"), [(0.4, True), (0.4, False), (1e-3, False)])
def test_draws_outside_a_support_have_no_weight(monkeypatch, width, validated, known):
    """Not even equal ones, which would pass for those of an exact guide."""

    def model(y):
        z = pyro.sample("z", dist.Gamma(3.0, 1.0))
        pyro.sample("y", dist.Uniform(0.0, z, validate_args=None if validated else False), obs=y)

    def guide(y):
        pyro.sample("z", dist.Uniform(0.5, 0.5 + width))

    # z² e⁻ᶻ/z above y = 1: a Gamma(2, 1) without what lies below.
    draws = torch.distributions.Gamma(2.0, 1.0).sample((12_000,))
    draws = draws[draws > 1][:8000].reshape(1, -1).numpy()
    exact = Posterior(xr.Dataset({"z": (("chain", "draw"), draws)}), "exact", "independent")
    monkeypatch.setattr(weighing, "SAMPLES", (1000,))
    monkeypatch.setattr(drawing, "DRAWS", (500,))
    monkeypatch.setattr(beside, "nuts_within_budget", lambda *_, **__: Sampled(None, False, ("left out",)))
    found = checked(guide, model=model, data=(torch.tensor(1.0),), reference=exact if known else None)
    assert found.verdict == "do not trust"
    (weights,) = [finding for finding in found.findings if finding.name == "weights"]
    assert weights.status == "fail"
    assert "none of 1,000 draws has any weight" in weights.sentence


def test_guide_without_any_weight_is_not_trusted():
    def model(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z, 1e-3).to_event(1), obs=y)

    def beside(y):
        pyro.sample("z", dist.Normal(torch.full((2,), -40.0), 0.1).to_event(1))

    found = checked(beside, model=model, data=(torch.tensor([3.0, 4.0]),))
    assert found.verdict == "do not trust"


def two_modes(y):
    z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(z.square().sum(-1), 0.3), obs=y)


def test_missed_mode_is_not_trusted():
    one = 1.38
    found = checked(
        lambda y: pyro.sample("z", dist.Normal(torch.tensor([one]), 0.12).to_event(1)),
        model=two_modes,
        data=(torch.tensor(2.0),),
    )
    assert found.verdict == "do not trust"
    assert "modes" in found.decision.failing
    assert "several starts" in found.next_step


def test_fit_is_part_of_it():
    pyro.clear_param_store()

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y = torch.tensor([1.2, 0.4, 1.9, 1.1])
    found = checked(AutoMultivariateNormal(model), model=model, data=(y,), fit=True)
    assert found.fit is not None
    assert found.fit.method == "natural gradients"
    assert found.verdict == "trust"
    mean, sd = float(y.sum() / (4 + 1 / 9)), 1 / math.sqrt(4 + 1 / 9)
    draws = found.answers["svi"].draws["mu"]
    assert abs(float(draws.mean()) - mean) < 0.2 * sd
    assert 0.8 < float(draws.std()) / sd < 1.25


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(0)
    x = torch.randn(60, 2, dtype=torch.float64) @ torch.randn(2, 5, dtype=torch.float64)
    x = x + 0.5 * torch.randn(60, 5, dtype=torch.float64)
    return x, PPCA(5, 2).set_maximum_likelihood(x)


def exact_guide(model, scale=1.0):
    guide = LinearNormal(5, 2, dtype=torch.float64)
    posterior = model.exact_posterior(torch.eye(5, dtype=torch.float64))["z"]
    zero = model.exact_posterior(torch.zeros(1, 5, dtype=torch.float64))["z"].mean
    with torch.no_grad():
        guide.loc.weight.copy_((posterior.mean - zero).T)
        guide.loc.bias.copy_(zero[0])
    covariance = posterior.covariance_matrix[0] * scale**2
    guide.encode = lambda x: dist.MultivariateNormal(guide.loc(x), covariance)
    return guide


def test_rows_with_an_exact_posterior(rows):
    x, model = rows
    found = check_pair(Pair(model, exact_guide(model)), x, budget=600.0, calibrate=False, progress=False)
    assert found.verdict == "trust"
    assert found.measures.reference == "exact"
    assert found.index == tuple(range(8))
    assert found.measures.gap == pytest.approx(0.0, abs=1e-6)
    narrow = check_pair(
        Pair(model, exact_guide(model, 0.5)), x, budget=600.0, calibrate=False, progress=False
    )
    assert narrow.verdict != "trust"


@pytest.mark.parametrize("index", [[70], [], [-1], [3, 3]])
def test_rows_that_are_not_there_are_refused(rows, index):
    x, model = rows
    with pytest.raises(InputError, match="index"):
        check_pair(Pair(model, exact_guide(model)), x, rows=torch.tensor(index, dtype=torch.long))


def test_findings_go_by_the_callers_thresholds():
    wide = gaussian(MEAN, 1.5**2 * COVARIANCE)
    for rule, verdict, status in ((Rule(), "reweight", "fail"), (Rule(9.0, 9.0), "trust", "pass")):
        found = checked(wide, rule=rule)
        assert found.verdict == verdict
        assert [f.status for f in found.findings if f.name == "reference"] == [status]


def test_check_survives_its_folder(rows, tmp_path):
    x, model = rows
    found = check_pair(Pair(model, exact_guide(model)), x, budget=600.0, calibrate=False, progress=False)
    found.save(tmp_path)
    again = Check.load(tmp_path)
    assert again.decision == found.decision
    assert again.findings == found.findings
    assert again.index == found.index
    assert set(again.answers) == set(found.answers)
    assert again.comparison.table.equals(found.comparison.table)
    with pytest.raises(InputError, match="holds no check"):
        Check.load(tmp_path / "elsewhere")
