"""Every likelihood against its own sums and integrals, and SciPy where it has the distribution."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.data import Rows, as_dataset
from ppl_vae.engine.graph import trace
from ppl_vae.guides import Prior
from ppl_vae.inference import importance
from ppl_vae.models import VAE, ConditionalVAE
from ppl_vae.models.bits import bits_per_dim
from ppl_vae.models.conditional_vae import ConditionalVAEOptions
from ppl_vae.models.likelihoods import (
    LIKELIHOODS,
    DiscretisedLogistic,
    HeteroscedasticGaussian,
    Likelihood,
    LikelihoodOptions,
    LogisticMixture,
    NegativeBinomial,
    Poisson,
    StudentT,
    base,
    completed,
    likelihood_of,
    make_likelihood,
)
from ppl_vae.models.likelihoods.continuous_bernoulli import LogitContinuousBernoulli
from ppl_vae.models.likelihoods.negative_binomial import LogNegativeBinomial
from ppl_vae.models.vae import VAEOptions
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.shown import ViewContext
from ppl_vae.program.terms import is_density

D, N, LEVELS = 3, 40, 8


def greys() -> Tensor:
    return (torch.rand(N, D, dtype=torch.float64) * (LEVELS - 1)).round() / (LEVELS - 1)


def reals() -> Tensor:
    return torch.randn(N, D, dtype=torch.float64)


def counts() -> Tensor:
    return torch.poisson(torch.tensor([0.7, 3.0, 12.0], dtype=torch.float64).expand(N, D))


def levels() -> Tensor:
    return torch.randint(0, 4, (N, D)).double()


def binary() -> Tensor:
    return (torch.rand(N, D, dtype=torch.float64) < 0.4).double()


def on_levels(last: int, step: float = 1.0) -> tuple[Tensor, Tensor]:
    """Every value, and its weight in a sum."""
    values = torch.arange(last + 1, dtype=torch.float64) * step
    return values, torch.ones_like(values)


def on_line(ends: float, nodes: int = 60) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on pieces of the line, whose joints are dense near 0."""
    joints = np.concatenate([[0.0], np.geomspace(1e-3, ends, 40)])
    joints = np.concatenate([-joints[:0:-1], joints])
    return on_pieces(joints, nodes)


def on_pieces(joints: np.ndarray, nodes: int) -> tuple[Tensor, Tensor]:
    at, weight = np.polynomial.legendre.leggauss(nodes)
    half, middle = np.diff(joints)[:, None] / 2, (joints[1:] + joints[:-1])[:, None] / 2
    return torch.from_numpy((middle + half * at).ravel()), torch.from_numpy((half * weight).ravel())


@dataclass(frozen=True)
class Case:
    """A likelihood with data for it, and a rule that sums over its support, or around the outputs."""

    data: Callable[[], Tensor]
    rule: tuple[Tensor, Tensor]
    options: LikelihoodOptions
    centred: bool = False
    ends: tuple[float, ...] = ()


def case(name: str, data: Callable[[], Tensor], rule: tuple[Tensor, Tensor], **more: object) -> Case:
    own = {key: more.pop(key) for key in list(more) if key not in ("centred", "ends")}
    return Case(data, rule, LikelihoodOptions(likelihood=name, **own), **more)


UNIT = on_pieces(np.linspace(0, 1, 41), 20)
CASES = {
    "bernoulli": case("bernoulli", binary, on_levels(1), ends=(0, 1)),
    **{
        name: case(name, reals, on_line(1e6 if name == "student-t" else 60.0), centred=True)
        for name, takes in base.TAKES.items()
        if "real" in takes
    },
    "continuous-bernoulli": case("continuous-bernoulli", greys, UNIT, ends=(0, 1)),
    "discretised-logistic": case(
        "discretised-logistic", greys, on_levels(LEVELS - 1, 1 / (LEVELS - 1)), ends=(0, 1), num_levels=LEVELS
    ),
    "logistic-mixture": case(
        "logistic-mixture", greys, on_levels(LEVELS - 1, 1 / (LEVELS - 1)), ends=(0, 1), num_levels=LEVELS,
        mixture_components=2,
    ),
    "categorical": case("categorical", levels, on_levels(3), ends=(0, 3)),
    "poisson": case("poisson", counts, on_levels(200), ends=(0, 1e6)),
    "negative-binomial": case("negative-binomial", counts, on_levels(4000), ends=(0, 1e6)),
}  # fmt: skip
every = pytest.mark.parametrize("name", CASES)


def made(name: str, dtype: torch.dtype = torch.float64) -> tuple[Likelihood, Tensor, Tensor]:
    """A likelihood, its data, and outputs around its start, of shape (5, ...)."""
    torch.manual_seed(0)
    each = CASES[name]
    x = each.data().to(dtype)
    likelihood = likelihood_of(completed(each.options, x), D).to(dtype)
    likelihood.check(x)
    start = likelihood.start(x)
    assert start.shape == (likelihood.num_outputs(D),)
    return likelihood, x, start + 0.5 * torch.randn(5, len(start), dtype=dtype)


def test_there_is_a_case_for_every_likelihood() -> None:
    assert set(CASES) == set(LIKELIHOODS)


@every
@torch.no_grad()
def test_it_sums_to_one_and_its_mean_is_the_sum(name: str) -> None:
    likelihood, _, outputs = made(name)
    each, mean = CASES[name], likelihood.mean(outputs)
    values, weights = each.rule
    grid = values[:, None, None] + (mean if each.centred else torch.zeros_like(mean))
    density = likelihood(outputs).base_dist.log_prob(grid).exp() * weights[:, None, None]
    # The tail of a t beyond a is of order a to the power of −ν, and ν starts at 5.
    np.testing.assert_allclose(density.sum(0), 1.0, rtol=1e-9)
    np.testing.assert_allclose((density * grid).sum(0), mean, rtol=1e-8, atol=1e-8)


@every
@torch.no_grad()
def test_its_start_gives_the_datas_mean(name: str) -> None:
    likelihood, x, _ = made(name)
    found = likelihood.mean(likelihood.start(x))
    if name in ("laplace", "student-t"):
        assert torch.equal(found, x.median(0).values)
        return
    # A grid changes the mean of a logistic draw cut to [0, 1] by at most h² / 24 of the difference of its
    # densities at both ends, each at most 1 / 4s (Euler and Maclaurin).
    scale = {"discretised-logistic": 0.1, "logistic-mixture": 0.125}.get(name)
    most = 0.0 if scale is None else (LEVELS - 1) ** -2 / 24 / (4 * scale)
    np.testing.assert_allclose(found, x.mean(0), rtol=1e-9, atol=1.5 * most)


@every
@torch.no_grad()
def test_the_mean_of_its_draws_is_its_mean(name: str) -> None:
    likelihood, _, outputs = made(name)
    drawn = likelihood(outputs).sample((4000,)).double()
    error = drawn.std(0) / 4000**0.5
    # Fifteen numbers a likelihood.
    assert ((drawn.mean(0) - likelihood.mean(outputs)).abs() < 5 * error + 1e-12).all()
    if not CASES[name].centred:
        likelihood.check(drawn.flatten(0, 1))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_the_ends_and_at_extreme_outputs(name: str, dtype: torch.dtype) -> None:
    likelihood = made(name, dtype)[0]
    blocks = likelihood.num_outputs(1)
    # Every pair of extremes, of neighbouring blocks.
    far = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], dtype=dtype)
    extremes = torch.cartesian_prod(far, far).repeat(1, blocks)[:, :blocks]
    extremes = extremes.repeat_interleave(D, 1).requires_grad_()
    for value in CASES[name].ends or (0.0, 1e4):
        found = likelihood(extremes).log_prob(torch.full((D,), float(value), dtype=dtype))
        assert found.isfinite().all()
        leaves = [extremes, *likelihood.parameters()]
        for leaf in torch.autograd.grad(found.sum(), leaves):
            assert leaf.isfinite().all()


@every
def test_a_stack_is_the_stack(name: str) -> None:
    likelihood, x, outputs = made(name)
    stack = torch.stack([outputs, outputs.flip(0)])
    together = likelihood(stack)
    assert (together.batch_shape, together.event_shape) == ((2, 5), (D,))
    apart = torch.stack([likelihood(each).log_prob(x[:5]) for each in stack])
    np.testing.assert_allclose(together.log_prob(x[:5]).detach(), apart.detach(), rtol=1e-12)
    wide = likelihood(outputs).expand((4, 5)).log_prob(x[:5])
    np.testing.assert_allclose(wide.detach(), apart[0].expand(4, 5).detach(), rtol=1e-12)


@every
def test_values_and_gradients_trace(name: str) -> None:
    likelihood, x, outputs = made(name, torch.float32)
    outputs.requires_grad_()

    def value(at: Tensor) -> tuple[Tensor, Tensor]:
        found = likelihood(likelihood.with_exposure(at, x[:5])).log_prob(x[:5]).sum()
        return found, torch.autograd.grad(found, at)[0]

    other = (outputs + 0.1).detach().requires_grad_()
    # Whether arguments are in range is a question of numbers, which a graph has none of.
    with pyro.validation_enabled(False):
        graph, found = trace(value, outputs), value(other)
    for own, expected in zip(graph(other), found, strict=True):
        np.testing.assert_allclose(own.detach(), expected.detach(), rtol=1e-6)


# Against SciPy, and where rounding would show


def log_prob(likelihood: Likelihood, outputs: list[float], x: Tensor) -> np.ndarray:
    """Of values of one feature, by its outputs."""
    found = likelihood.double()(torch.tensor(outputs, dtype=torch.float64))
    return found.base_dist.log_prob(x[:, None]).detach().numpy()[:, 0]


def test_densities_and_masses_are_those_of_scipy() -> None:
    x, k = torch.linspace(-3.0, 4.0, 50, dtype=torch.float64), torch.arange(50, dtype=torch.float64)
    # Scales start at numbers of single precision.
    start = {"rtol": 1e-6}
    laplace, student = stats.laplace(0.5, 0.3), stats.t(5.0, 0.5, 0.3)
    np.testing.assert_allclose(log_prob(make_likelihood("laplace", 1), [0.5], x), laplace.logpdf(x), **start)
    np.testing.assert_allclose(log_prob(StudentT(1), [0.5], x), student.logpdf(x), **start)
    normal = stats.norm(0.5, math.log1p(math.exp(0.2)) + 0.01)
    own = log_prob(HeteroscedasticGaussian(), [0.5, 0.2], x)
    np.testing.assert_allclose(own, normal.logpdf(x), rtol=1e-12)
    own = log_prob(Poisson(), [1.3], k)
    np.testing.assert_allclose(own, stats.poisson(math.exp(1.3)).logpmf(k), rtol=1e-12)
    r = math.log1p(math.exp(0.7)) + 1e-3
    own = log_prob(NegativeBinomial(), [1.3, 0.7], k)
    np.testing.assert_allclose(own, stats.nbinom(r, r / (r + math.exp(1.3))).logpmf(k), rtol=1e-11)
    grid, cells = k / 49, (torch.arange(51) - 0.5) / 49
    ends = np.concatenate([[0.0], stats.logistic(0.3, 0.1).cdf(cells[1:-1]), [1.0]])
    own = log_prob(DiscretisedLogistic(num_levels=50), [0.3], grid)
    np.testing.assert_allclose(own, np.log(np.diff(ends)), **start)


@pytest.mark.parametrize("shape", [0.01, 1.0, 9.99, 10.01, 300.0, 1e6])
def test_negative_binomials_keep_their_digits_in_single_precision(shape: float) -> None:
    """Two lgammas of 10⁶ are 10⁷ each, where float32 counts in steps of 1."""
    x = torch.tensor([0.0, 1.0, 7.0, 300.0])
    found = LogNegativeBinomial(torch.tensor(3.0), torch.tensor(shape)).log_prob(x)
    # In float64 SciPy's own lgammas lose 1e-9 at 10⁶.
    expected = stats.nbinom(shape, shape / (shape + math.exp(3.0))).logpmf(x)
    # Terms are counts times logarithms: a few roundings of each.
    size = (1 + x.numpy() + math.exp(3.0)) * (1 + np.log1p(x.numpy() + shape))
    assert (np.abs(found.numpy() - expected) < 1e-8 + 4 * np.finfo(np.float32).eps * size).all()


def test_continuous_bernoullis_are_normalised_near_a_half() -> None:
    x, weights = UNIT
    away = torch.tensor([-1e-4, -1e-8, 0.0, 1e-8, 1e-4, 0.0248, 0.0252], dtype=torch.float64)
    logits = torch.logit(0.5 + away)
    # C by quadrature of λˣ(1 − λ)¹⁻ˣ.
    bernoulli = (x[:, None] * logits - softplus(logits)).exp()
    log_c = -torch.log((bernoulli * weights[:, None]).sum(0))
    own = LogitContinuousBernoulli(logits).log_prob(torch.zeros(()))
    np.testing.assert_allclose(own, log_c - softplus(logits), rtol=0, atol=1e-12)


def test_continuous_bernoullis_are_torchs_and_go_on_where_its_own_are_cut() -> None:
    logits = torch.cat([torch.linspace(-14, -0.1, 20), torch.linspace(0.1, 14, 20)]).double()
    own, torchs = LogitContinuousBernoulli(logits), torch.distributions.ContinuousBernoulli(logits=logits)
    for value in torch.linspace(0, 1, 5).double():
        np.testing.assert_allclose(own.log_prob(value), torchs.log_prob(value), atol=1e-8)
    white = torch.tensor(40.0)
    assert float(LogitContinuousBernoulli(white).mean) == pytest.approx(1 - 1 / 40)
    assert float(torch.distributions.ContinuousBernoulli(logits=white).mean) < 0.95


def test_a_mixture_of_one_component_is_the_discretised_logistic() -> None:
    x = greys()
    single = DiscretisedLogistic(num_levels=LEVELS).double()
    raw = math.log(math.expm1(float(single.scale.detach()) - 1e-3))
    outputs = torch.cat([torch.zeros(D), torch.tensor([0.2, 0.5, 1.1]), torch.full((D,), raw)]).double()
    mixture = LogisticMixture(1, LEVELS)
    np.testing.assert_allclose(
        mixture(outputs).log_prob(x), single(outputs[D : 2 * D]).log_prob(x).detach(), rtol=1e-9
    )


def test_channels_have_scales_of_their_own_in_the_order_of_the_pixels() -> None:
    options = LikelihoodOptions(likelihood="discretised-logistic")
    likelihood = likelihood_of(options, 12, (2, 2, 3))
    with torch.no_grad():
        likelihood.raw_scale.copy_(torch.tensor([0.0, 1.0, 2.0]))
    scales = likelihood(torch.zeros(12)).base_dist.parameters[1]
    assert torch.equal(scales, likelihood.scale.repeat(4))


# Exposure


def test_poisson_counts_of_known_totals_are_multinomial_ones() -> None:
    torch.manual_seed(0)
    x, outputs = counts() + 1, torch.randn(N, D).double()
    likelihood = Poisson("total").double()
    found = likelihood(likelihood.with_exposure(outputs, x)).log_prob(x)
    total = x.sum(-1)
    expected = [
        stats.multinomial(int(n), share).logpmf(row) + stats.poisson(n).logpmf(n)
        for n, share, row in zip(total, outputs.softmax(-1).numpy(), x.numpy(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["poisson", "negative-binomial"])
def test_rows_of_many_counts_have_the_shares_of_rows_of_few(name: str) -> None:
    x = torch.cat([counts(), 50 * counts()])
    likelihood = likelihood_of(LikelihoodOptions(likelihood=name, exposure="total"), D).double()
    start = likelihood.start(x)
    means = likelihood.mean(likelihood.with_exposure(start.expand(len(x), -1), x))
    np.testing.assert_allclose(means.sum(-1), x.sum(-1), rtol=1e-9)
    np.testing.assert_allclose(means.mean(0), x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(
        likelihood.mean(likelihood.with_exposure(start[None], None)[0]), x.mean(0), rtol=1e-6
    )
    # A simulated row may have no counts at all.
    nothing = torch.zeros(1, D).double()
    assert likelihood(likelihood.with_exposure(start[None], nothing)).log_prob(nothing).isfinite()


# In a model


EXPOSED = {f"{name} of totals": (name, "total") for name in ("poisson", "negative-binomial")}
INSIDE = {name: (name, "none") for name in CASES} | EXPOSED


@pytest.mark.parametrize(("name", "exposure"), INSIDE.values(), ids=INSIDE.keys())
def test_evidence_of_a_vae_is_that_of_a_grid_over_its_latent(name: str, exposure: str) -> None:
    torch.manual_seed(0)
    x = CASES[name].data()[:6] + (exposure == "total")
    rows = Rows("r", x.numpy(), ("a", "b", "c"), "real")
    options = replace(CASES[name].options, exposure=exposure)
    model = VAE.from_data(rows, VAEOptions(latent_dim=1, hidden=(4,), **vars(options))).double()
    found = importance.log_evidence(Pair(model, Prior(model)), x, num_samples=1000, progress=False)
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)[:, None]
    with torch.no_grad():
        outputs = model.likelihood.with_exposure(model.decoder(z)[:, None].expand(-1, len(x), -1), x)
        joint = model.likelihood(outputs).log_prob(x) + normal(z)
    expected = torch.logsumexp(joint, 0) + math.log(16 / 400)
    # Six errors a likelihood.
    assert (np.abs(found.log_evidence - expected.numpy()) < 5 * found.std_error + 1e-9).all()


def normal(z: Tensor) -> Tensor:
    """Its log density, of the shape of z."""
    return -0.5 * (z.square() + math.log(2 * math.pi))


@pytest.mark.parametrize("name", ["poisson", "negative-binomial"])
def test_a_conditional_vae_counts_in_the_totals_of_its_rows(name: str) -> None:
    torch.manual_seed(0)
    x = torch.cat([counts()[:3] + 1, 1000 * (counts()[:3] + 1)])
    data = as_dataset({"x": x.numpy(), "condition": np.arange(6) % 2})
    options = ConditionalVAEOptions(latent_dim=1, hidden=(4,), likelihood=name, exposure="total")
    model = ConditionalVAE.from_data(data, options).double()
    condition = torch.arange(6) % 2
    # The encoder reads logarithms: of any size, with or without a condition beside them.
    assert model.encoder_guide().double().encode(x, condition).mean.abs().max() < 20
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)[:, None]
    with torch.no_grad():
        c = model.embedding(condition)
        outputs = model.outputs(z[:, None].expand(-1, 6, -1), c, x)
        np.testing.assert_allclose(
            model.likelihood.mean(outputs).sum(-1), x.sum(-1).expand(401, -1), rtol=1e-9
        )
        joint = model.likelihood(outputs).log_prob(x) + normal(z)
    expected = torch.logsumexp(joint, 0) + math.log(16 / 400)
    pair = Pair(model, Prior(model))
    found = importance.log_evidence(pair, x, condition, num_samples=2000, progress=False)
    # Of the rows whose posterior is not too narrow for draws of the prior.
    assert (np.abs(found.log_evidence - expected.numpy())[:3] < 5 * found.std_error[:3]).all()


def test_bits_per_dimension_are_those_of_the_masses_and_of_grids_alone() -> None:
    torch.manual_seed(0)
    x = greys()
    options = VAEOptions(latent_dim=1, hidden=(), likelihood="logistic-mixture", num_levels=LEVELS)
    model = VAE.from_data(Rows("r", x.numpy(), ("a", "b", "c"), "grey"), options).double()
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        log_p = model.likelihood(model.decoder(torch.zeros(N, 1).double())).log_prob(x)
    # With the prior as guide and a decoder that ignores z every draw gives log p(x) itself.
    context = ViewContext(Pair(model, Prior(model)), (x,), (x,), part="test")
    (score,) = model.views(context)
    scale = D * math.log(2)
    assert score.value == pytest.approx(-float(log_p.mean()) / scale)
    assert score.std_error == pytest.approx(float(log_p.std()) / N**0.5 / scale)
    assert 0 < score.value < 2 * math.log2(LEVELS)
    found = importance.log_evidence(context.pair, x, num_samples=2, progress=False)
    assert found.bits_per_dim(D) == pytest.approx(score.value)
    assert not is_density(Problem.of(context.pair, x))
    assert bits_per_dim(context, make_likelihood("gaussian", D)) == []
