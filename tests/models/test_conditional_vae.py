"""Linear conditional VAEs are Gaussian given the condition; elsewhere a grid over latents is the oracle."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.data import as_dataset
from ppl_vae.data.matching import resolve
from ppl_vae.guides.amortised import AmortisedNormal
from ppl_vae.guides.normal import VARIANCE_FLOOR
from ppl_vae.inference import elbo, exact, importance
from ppl_vae.models import ConditionalVAE, conditions
from ppl_vae.models.conditional_vae import ConditionalVAEOptions
from ppl_vae.models.conditions import Conditions, class_log_evidence
from ppl_vae.program.abilities import ExactEvidence, ExactPosterior
from ppl_vae.program.pair import Pair
from ppl_vae.program.shown import ViewContext, views_of
from ppl_vae.views import ImageGrid, Matrix, Score

NUM_FEATURES, LATENT, CLASSES = 4, 2, ("a", "b", "c")
LINEAR = ConditionalVAEOptions(
    latent_dim=LATENT, hidden=(), likelihood="gaussian-fixed", start_scale=0.5, prior="conditional"
)


class Linear:
    """x = W z + A c + b + s ε, z ~ N(M c + a, diag v): all is known, in float64."""

    def __init__(self, given: Conditions, condition: Tensor) -> None:
        torch.manual_seed(0)
        self.model = ConditionalVAE(NUM_FEATURES, given, LINEAR).double()
        self.condition = condition
        layer, prior = self.model.decoder[0], self.model.prior[0]
        with torch.no_grad():
            prior.weight[LATENT:] = 0.0
            prior.bias.copy_(torch.tensor([0.3, -0.2, 0.4, 1.0]))
        self.weights, self.shifts = layer.weight[:, :LATENT].detach(), layer.weight[:, LATENT:].detach()
        self.offset = layer.bias.detach()
        self.to_mean, self.start = prior.weight[:LATENT].detach(), prior.bias[:LATENT].detach()
        self.variance = nn.functional.softplus(prior.bias[LATENT:].detach()) + VARIANCE_FLOOR
        self.noise = float(self.model.likelihood.scale) ** 2
        self.x = torch.randn(len(condition), NUM_FEATURES, dtype=torch.float64)

    def log_evidence(self, condition: Tensor) -> np.ndarray:
        """log p(x | c), by SciPy."""
        c = self.model.embedding(condition).double()
        means = (c @ self.to_mean.T + self.start) @ self.weights.T + c @ self.shifts.T + self.offset
        covariance = (
            self.weights @ torch.diag(self.variance) @ self.weights.T + self.noise * torch.eye(4).double()
        )
        return np.array([
            stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(row.numpy())
            for mean, row in zip(means, self.x, strict=True)
        ])  # fmt: skip

    def guide(self) -> AmortisedNormal:
        """The exact posterior N(S (Wᵀ(x − A c − b)/s² + V⁻¹ (M c + a)), S), read off x and c linearly."""
        own = self.model.encoder_guide("full").double()
        precision = torch.diag(1 / self.variance) + self.weights.T @ self.weights / self.noise
        spread = torch.linalg.inv(precision)
        from_x = spread @ self.weights.T / self.noise
        from_c = spread @ (self.to_mean / self.variance[:, None]) - from_x @ self.shifts
        root = torch.linalg.cholesky(spread)
        raw = (root.diagonal().square() - VARIANCE_FLOOR).expm1().log()
        constant = spread @ (self.start / self.variance) - from_x @ self.offset
        with torch.no_grad():
            head = own.network.head[0]
            head.weight.zero_()
            head.weight[:LATENT] = torch.cat([from_x, from_c], 1)
            head.bias.copy_(torch.cat([constant, raw, root[1, :1]]))
        return own


def _vector(rows: int = 6) -> Linear:
    generator = torch.Generator().manual_seed(3)
    condition = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return Linear(Conditions(num_features=3), condition)


def _labelled(rows: int = 6) -> Linear:
    return Linear(Conditions(classes=CLASSES), torch.arange(rows) % len(CLASSES))


@pytest.mark.parametrize("make", [_vector, _labelled])
def test_the_linear_case_has_the_evidence_and_the_posterior_of_the_closed_form(
    make, oracles: ModuleType
) -> None:
    """Under the exact posterior every importance weight is log p(x | c) itself."""
    linear = make()
    pair = Pair(linear.model, linear.guide())
    exact = linear.log_evidence(linear.condition)
    found = importance.log_evidence(pair, linear.x, linear.condition, num_samples=20, progress=False)
    np.testing.assert_allclose(found.log_evidence, exact, rtol=1e-9)
    # The KL is in closed form here, and the reconstruction drawn.
    bound = elbo(pair, linear.x, linear.condition, num_particles=400)
    assert abs(bound.value - exact.sum()) < oracles.z_limit(2) * bound.std_error


def test_bayes_rule_over_classes_is_that_of_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = _labelled()
    exact = np.stack([linear.log_evidence(torch.full((6,), code)) for code in range(3)], 1)
    log_p, error = class_log_evidence(linear.model, linear.guide(), linear.x, num_samples=5)
    np.testing.assert_allclose(log_p, exact, rtol=1e-9)
    assert (error < 1e-9).all()
    # An encoder that is not exact, and rows a few at a time: the same numbers.
    torch.manual_seed(1)
    own = linear.model.encoder_guide("diagonal").double()
    whole, _ = class_log_evidence(linear.model, own, linear.x, num_samples=50)
    monkeypatch.setattr(conditions, "NUMBERS", 2 * 50 * NUM_FEATURES)
    parts, _ = class_log_evidence(linear.model, own, linear.x, num_samples=50)
    # Products of other sizes are summed in another order.
    np.testing.assert_allclose(parts, whole, rtol=1e-10)


def _binary(classes: tuple[str, ...] = CLASSES) -> tuple[Pair, Tensor, Tensor]:
    torch.manual_seed(0)
    options = ConditionalVAEOptions(latent_dim=2, hidden=(6,), activation="tanh")
    model = ConditionalVAE(NUM_FEATURES, Conditions(classes=classes), options).double()
    x = (torch.rand(9, NUM_FEATURES) < 0.5).double()
    return Pair(model, model.encoder_guide().double()), x, torch.arange(9) % len(classes)


def test_class_evidence_is_a_grids_and_bounds_log_p_on_every_row(oracles: ModuleType) -> None:
    pair, x, label = _binary()
    pair.initialise(x, label)
    log_p, error = class_log_evidence(pair.model, pair.guide, x, num_samples=4000, seed=2)
    axis = torch.linspace(-7, 7, 141, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    prior = stats.norm.logpdf(z.numpy()).sum(1) + 2 * math.log(0.1)
    limit, grid = oracles.z_limit(3 * len(x)), np.empty((len(x), 3))
    for code in range(3):
        c = pair.model.embedding(torch.full((1,), code))
        logits = pair.model.outputs(z[:, None], c).detach()
        # One grid for all rows: p(x | z, c) of every row at every point.
        values = (x * logits - nn.functional.softplus(logits)).sum(-1) + torch.from_numpy(prior)[:, None]
        grid[:, code] = values.logsumexp(0).numpy()
    noise = limit * error.numpy()
    assert (np.abs(log_p.numpy() - grid) < noise).all()
    # The estimates against the grid's log p(x): a set of estimates alone cannot break these bounds.
    total = np.logaddexp.reduce(grid, 1) - math.log(3)
    own = np.arange(len(x)), label.numpy()
    assert (log_p.numpy()[own] - math.log(3) <= total + noise[own]).all()
    assert (total <= (log_p.numpy() + noise).max(1)).all()


def test_views_say_how_well_classes_are_told_and_show_samples_of_each() -> None:
    pair, x, label = _binary()
    pair.initialise(x, label)
    columns = {"x": x.reshape(9, 2, 2).numpy(), "condition": np.array(CLASSES)[label.numpy()]}
    dataset = resolve(as_dataset(columns), ConditionalVAE.inputs)
    found = views_of(ViewContext(pair, (x, label), (x, label), dataset=dataset))
    grid = next(view for view in found if isinstance(view, ImageGrid))
    assert [name for name in grid.rows if name.startswith("samples of")] == [
        f"samples of {name} (decoder's mean)" for name in CLASSES
    ]
    log_p, _ = class_log_evidence(pair.model, pair.guide, x, num_samples=conditions.DRAWS)
    score = next(view for view in found if isinstance(view, Score))
    assert score.value == pytest.approx(float((log_p.argmax(1) == label).double().mean()))
    table = next(view for view in found if isinstance(view, Matrix))
    np.testing.assert_allclose(table.values.sum(1), 1)


COLUMNS = {"f1": [0.0, 1.0, 1.0, 0.0], "f2": [1.0, 1.0, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("columns", "extra", "kind", "width"),
    [
        ("label", {"label": ["u", "v", "u", "v"]}, "category", 2),
        ("label", {"label": [3, 5, 5, 3]}, "category", 2),
        ("age", {"age": [0.5, 1.5, 2.5, -0.5]}, "real", 1),
        (("age", "dose"), {"age": [0.5, 1.5, 2.5, -0.5], "dose": [1.0, 2.0, 3.0, 4.0]}, "real", 2),
        ("image", {"image": np.arange(16.0).reshape(4, 2, 2)}, "real", 4),
    ],
)
def test_a_condition_is_a_class_a_vector_or_an_image(columns, extra, kind, width) -> None:
    data = resolve(as_dataset({**COLUMNS, **extra}), ConditionalVAE.inputs, {"condition": columns})
    assert data["condition"].kind == kind
    options = ConditionalVAEOptions(latent_dim=1, hidden=(3,), likelihood="gaussian")
    model = ConditionalVAE.from_data(data, options)
    x, condition = data.arguments(ConditionalVAE.inputs, torch.float32)
    assert x.shape == (4, 2)
    assert model.embedding(condition).shape == (4, width)
    pair = Pair(model, ConditionalVAE.guides["amortised"](model, x, condition))
    assert math.isfinite(elbo(pair, x, condition, num_particles=3).value)


def test_networks_of_images_read_images_and_conditions_that_are_images() -> None:
    torch.manual_seed(0)
    given = Conditions(num_features=64, image_shape=(8, 8))
    options = ConditionalVAEOptions(
        latent_dim=2, hidden=(), network="conv", channels=(4, 2), likelihood="gaussian"
    )
    model = ConditionalVAE(16, given, options, image_shape=(4, 4))
    x, condition = torch.rand(5, 16), torch.rand(5, 64)
    pair = Pair(model, model.encoder_guide()).initialise(x, condition)
    # A row of a pair depends on its own condition, and on no other's.
    changed = condition.clone()
    changed[2] = 0.0
    first, second = (pair.guide.encode(x, c).mean for c in (condition, changed))
    assert [bool(row) for row in (first != second).any(1)] == [False, False, True, False, False]


def test_bad_conditions_are_refused_in_a_sentence() -> None:
    data = resolve(as_dataset({**COLUMNS, "label": ["u", "v", "u", "v"]}), ConditionalVAE.inputs)
    model = ConditionalVAE.from_data(data, ConditionalVAEOptions(hidden=(3,)))
    x, label = data.arguments(ConditionalVAE.inputs, torch.float32)
    wrongs = {
        "3 conditions were given for 4 rows": label[:3],
        "row 2 has class number 7, and the model has the 2 classes u, v": torch.tensor([0, 1, 7, 1]),
        "classes, int64 of shape": x,
    }
    for words, wrong in wrongs.items():
        with pytest.raises(InputError, match=words):
            model.check_data(x, wrong)
    with pytest.raises(InputError, match="the class v never occurs in the training rows"):
        ConditionalVAE.from_data(data.take(np.array([0, 2])), ConditionalVAEOptions(hidden=(3,)))
    with pytest.raises(InputError, match="prior 'flat' is not known"):
        ConditionalVAE(2, Conditions(classes=("u",)), ConditionalVAEOptions(prior="flat"))
    other = Conditions(num_features=3)
    with pytest.raises(InputError, match="vectors of 3 numbers, not values of shape"):
        other.check(x)
    with pytest.raises(InputError, match="needs a condition that is a class"):
        class_log_evidence(ConditionalVAE(2, other), model.encoder_guide(), x)


@pytest.mark.parametrize("make", [_vector, _labelled])
def test_a_linear_one_knows_its_answers(make: Callable[[], Linear]) -> None:
    linear = make()
    data = linear.x, linear.condition
    assert isinstance(linear.model, ExactPosterior)
    assert isinstance(linear.model, ExactEvidence)
    np.testing.assert_allclose(
        exact.log_evidence(linear.model, *data).log_evidence, linear.log_evidence(linear.condition), rtol=1e-9
    )
    found, q = linear.model.exact_posterior(*data)["z"], linear.guide().encode(*data)
    torch.testing.assert_close(found.mean, q.mean)
    torch.testing.assert_close(found.covariance_matrix, q.covariance_matrix)
    # The standard prior, and a copy in the precision of a fit.
    options = replace(LINEAR, prior="standard", likelihood="gaussian-pixel")
    model = copy.deepcopy(ConditionalVAE(NUM_FEATURES, linear.model.conditions, options))
    x = linear.x.float()
    c = linear.condition if linear.condition.dim() == 1 else linear.condition.float()
    q = model.exact_posterior(x, c)["z"]
    assert q.mean.dtype == torch.float32
    draws = q.sample(torch.Size([3]))
    joint = model.likelihood(model.outputs(draws, model.embedding(c), x)).log_prob(x)
    weights = joint + model.prior_given(model.embedding(c)).log_prob(draws) - q.log_prob(draws)
    expected = model.exact_log_evidence(x, c).float().expand(3, -1)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (3,)},
        {"likelihood": "bernoulli", "start_scale": None},
        {"likelihood": "gaussian-heteroscedastic"},
    ],
)
def test_others_do_not_say_that_they_know_their_answers(options: dict[str, Any]) -> None:
    model = ConditionalVAE(NUM_FEATURES, Conditions(num_features=3), replace(LINEAR, **options))
    assert not isinstance(model, ExactPosterior | ExactEvidence)


def test_a_network_that_took_the_place_of_a_linear_one_is_noticed() -> None:
    linear = _vector()
    linear.model.decoder.append(nn.Tanh())
    with pytest.raises(InputError, match="not linear"):
        exact.log_evidence(linear.model, linear.x, linear.condition)
