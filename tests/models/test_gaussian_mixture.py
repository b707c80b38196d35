import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy import stats
from sklearn.mixture import GaussianMixture as Scikit

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows
from ppl_vae.inference import elbo, exact, importance, svi
from ppl_vae.inference.evidence import annealing
from ppl_vae.inference.fitting.restarts import restarts
from ppl_vae.models import GaussianMixture
from ppl_vae.models.mixture_em import COVARIANCES, best_of, em, k_means_start, log_normals, maximised
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

# Of standardised iris, three full covariances: scikit-learn's best of twenty runs.
IRIS, NEAR = -290.531, 0.05
NAMES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def _rows(values: np.ndarray) -> Rows:
    return Rows("made", values, tuple(f"f{j}" for j in range(values.shape[1])), "real")


def _pair(model: GaussianMixture, x: torch.Tensor) -> Pair:
    return Pair(model, GaussianMixture.guides["exact"](model, x))


@pytest.fixture(scope="module")
def iris(features: Callable[..., np.ndarray]) -> torch.Tensor:
    return torch.as_tensor(features("iris"))


def _made() -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows of unequal scales, and the groups they come from."""
    generator = np.random.default_rng(0)
    scale = np.array([1.0, 30.0, 0.02])
    groups = [generator.normal(size=(20, 3)) * scale + shift * scale for shift in (0.0, 4.0)]
    return np.concatenate(groups), groups


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_density_and_responsibilities_are_bayes_rule_in_the_units_of_the_data(covariance: str) -> None:
    values, _ = _made()
    torch.manual_seed(0)
    model = GaussianMixture.from_data(_rows(values), num_components=2, covariance=covariance)
    x = torch.as_tensor(values)
    weights, means, covariances = (
        part.detach().numpy() for part in (model.weights, model.means, model.covariances)
    )
    joint = np.stack(
        [
            np.log(w) + stats.multivariate_normal(m, c).logpdf(values)
            for w, m, c in zip(weights, means, covariances, strict=True)
        ],
        axis=1,
    )
    largest = joint.max(1, keepdims=True)
    evidence = largest[:, 0] + np.log(np.exp(joint - largest).sum(1))
    np.testing.assert_allclose(exact.log_evidence(model, x).log_evidence, evidence, rtol=1e-9)
    np.testing.assert_allclose(
        model.exact_posterior(x)["k"].probs, np.exp(joint - evidence[:, None]), rtol=1e-7, atol=1e-12
    )


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_elbo_weights_and_pyros_own_sum_are_the_log_likelihood(covariance: str, iris: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = GaussianMixture.from_data(_rows(iris.numpy()), covariance=covariance, num_starts=0)
    pair = _pair(model, iris)
    truth = exact.log_evidence(model, iris)
    assert elbo(pair, iris).value == pytest.approx(truth.total, rel=1e-12)
    stock = TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, iris)
    assert -stock == pytest.approx(truth.total)
    some = torch.tensor([3, 77, 120])
    weighed = importance.log_evidence(pair, iris, num_samples=2, index=some, progress=False)
    np.testing.assert_allclose(weighed.log_evidence, truth.log_evidence[some], rtol=1e-12)
    with pytest.raises(InputError, match="nothing to anneal: k is summed out"):
        annealing.log_evidence(pair, iris, progress=False)


def test_some_rows_of_a_guide_without_plates_are_those_rows(iris: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = GaussianMixture.from_data(_rows(iris.numpy()), num_starts=0)
    problem, some = Problem.of(_pair(model, iris), iris), torch.tensor([140, 2])
    with torch.no_grad():
        found = problem.rows(some).terms(3).log_weights
    np.testing.assert_allclose(found, model.exact_log_evidence(iris)[some].expand(3, 2), rtol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_em_never_falls_and_its_m_step_is_the_best_under_the_floor(
    covariance: str, iris: torch.Tensor
) -> None:
    """Steps of a random mixture that raise the expected log-likelihood would be better M-steps."""
    bound = 0.3  # so high that the floor holds some eigenvalues
    start = k_means_start(iris, 3, covariance, bound, seed=1)
    run = em(iris, start, covariance, bound)
    assert (run.log_likelihood.diff() > -1e-9).all()
    shares = start.log_joint(iris).softmax(1)
    floor = 0.1 * bound
    best = maximised(iris, shares, covariance, floor)

    def expected(means: torch.Tensor, covariances: torch.Tensor) -> float:
        return float((shares * log_normals(iris, means, covariances)).sum())

    generator = torch.Generator().manual_seed(0)
    highest = expected(best.means, best.covariances)
    for _ in range(30):
        other = best.covariances + 0.05 * _step(covariance, best.covariances.shape, generator)
        if other.dim() == 3:
            values, vectors = torch.linalg.eigh(other)
            other = vectors * values.clamp_min(floor)[:, None] @ vectors.transpose(1, 2)
        moved = best.means + 0.05 * torch.randn(best.means.shape, generator=generator)
        assert expected(moved, other.clamp_min(floor) if other.dim() == 2 else other) <= highest + 1e-9


def _step(covariance: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """A random change of covariances that stays among those allowed."""
    step = torch.randn(shape, generator=generator, dtype=torch.float64)
    if covariance == "spherical":
        return step[:, :1].expand(shape)
    if covariance == "diagonal":
        return step
    step = step + step.transpose(1, 2)
    return step[:1].expand(shape) if covariance == "tied" else step


def test_em_reaches_the_best_known_solution_of_iris_in_nine_of_ten_seeds(iris: torch.Tensor) -> None:
    found = [best_of(iris, 3, "full", num_starts=3, bound=1e-3, seed=seed)[0] for seed in range(10)]
    assert sum(abs(float(run.log_likelihood[-1]) - IRIS) < NEAR for run in found) >= 9
    assert min(run.smallest for run in found) >= 1e-3


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_em_is_as_good_as_scikit_learns_and_more_components_are_no_worse(
    covariance: str, iris: torch.Tensor
) -> None:
    best = [
        float(best_of(iris, k, covariance, num_starts=4, bound=1e-3, seed=0)[0].log_likelihood[-1])
        for k in (1, 2, 3)
    ]
    assert best == sorted(best)
    theirs = Scikit(3, covariance_type=NAMES[covariance], n_init=3, reg_covar=1e-9, random_state=0)
    theirs.fit(iris.numpy())
    assert best[2] > theirs.score(iris.numpy()) * len(iris) - NEAR
    if covariance == "full":  # of one component: −½ (d log 2π + log det Σ + d) a row
        log_det = np.linalg.slogdet(np.cov(iris.numpy().T, bias=True))[1]
        assert best[0] == pytest.approx(-75 * (4 * math.log(2 * math.pi) + log_det + 4))


def test_svi_comes_to_what_em_finds_from_the_same_start(iris: torch.Tensor) -> None:
    model = GaussianMixture.from_data(_rows(iris.numpy()), num_components=2, num_starts=0)
    found = svi.fit(_pair(model, iris), iris, num_steps=150, lr=0.05, progress=False)
    run, _ = best_of(iris, 2, "full", num_starts=1, bound=1e-3, seed=0)
    assert found.final.value == pytest.approx(float(run.log_likelihood[-1]), abs=NEAR)


def test_units_of_measurement_change_nothing_but_the_density(iris: torch.Tensor) -> None:
    scale, shift = (
        torch.tensor([10.0, 0.1, 3.0, 1.0]).double(),
        torch.tensor([5.0, -3.0, 0.0, 100.0]).double(),
    )
    totals = []
    for x in (iris, iris * scale + shift):
        torch.manual_seed(3)
        model = GaussianMixture.from_data(_rows(x.numpy()))
        totals.append(exact.log_evidence(model, x).total)
        assert model.smallest_eigenvalue() == pytest.approx(0.00761, rel=1e-3)
    assert totals[0] - totals[1] == pytest.approx(len(iris) * float(scale.log().sum()), abs=1e-4)


def test_a_component_on_equal_rows_is_called_singular_and_rejected(iris: torch.Tensor) -> None:
    """Four equal rows far off: two components have no proper solution that takes them apart."""
    values = np.concatenate([iris.numpy(), np.full((4, 4), 30.0)])
    model = GaussianMixture(torch.zeros(4).double(), torch.ones(4).double())
    assert model.degenerate() is None
    torch.manual_seed(0)
    with pytest.raises(InputError, match="all of the 10 runs of EM ended in singular solutions: a component"):
        GaussianMixture.from_data(_rows(values), num_components=2)
    x = torch.as_tensor(values)
    _, *ends = (em(x, k_means_start(x, 2, "full", 1e-3, seed), "full", 1e-3) for seed in range(2))
    assert all(run.singular and run.smallest == pytest.approx(1e-4) for run in ends)


def test_restarts_leave_degenerate_fits_out_however_high_their_elbo(iris: torch.Tensor) -> None:
    x, models = iris[::3], []

    def make(seed: int) -> Pair:
        model = GaussianMixture.from_data(_rows(x.numpy()), num_components=2, covariance="diagonal")
        models.append(model)
        if len(models) == 2:  # a component on the first row alone
            with torch.no_grad():
                model.locs[1] = (x[0] - model.centre) / model.scale
                model.factors[1] = -10.0
        return _pair(model, x)

    found = restarts(make, x, num_restarts=2, num_steps=1, lr=1e-6, stop=False, progress=False)
    assert found.best == 0
    assert not found.agree
    assert found.degenerate[0] is None
    assert "a covariance has an eigenvalue of 0.0001" in str(found.degenerate[1])
    assert "1 more are degenerate and left out: the solution is singular" in found.sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_components": 0}, "num_components is 0"),
        ({"num_components": 41}, "it is at most the number of rows, 40"),
        ({"covariance": "round"}, "it is full, diagonal, spherical, tied"),
        ({"num_starts": -1}, "num_starts is -1"),
        ({"min_eigenvalue": 0.0}, "min_eigenvalue is 0.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    values, _ = _made()
    with pytest.raises(InputError, match=words):
        GaussianMixture.from_data(_rows(values), **options)
