"""Two linear layers are Gaussian: evidence, joint posterior and what each guide loses are known.

x = W z1 + b + s ε, z1 = A z2 + a + N(0, diag v), z2 ~ N(0, I).
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows
from ppl_vae.diagnostics.latents.collapse import collapse
from ppl_vae.guides.layered import BottomUp, Ladder
from ppl_vae.guides.normal import VARIANCE_FLOOR
from ppl_vae.inference import elbo, exact, guide, importance, nuts, svi
from ppl_vae.models import VAE, HierarchicalVAE
from ppl_vae.models.networks.norms import BatchNorm
from ppl_vae.program.abilities import ExactEvidence, ExactPosterior
from ppl_vae.program.pair import Pair
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import ImageGrid, TableView

NUM_FEATURES, SCALE = 4, 0.5


def _raw(variance: Tensor) -> Tensor:
    """What softplus makes into a variance above the floor."""
    return (variance - VARIANCE_FLOOR).expm1().log()


def _set(layer: torch.nn.Linear, weight: Tensor, bias: Tensor, variance: Tensor) -> None:
    """A linear network that gives means and fixed variances."""
    with torch.no_grad():
        layer.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        layer.bias.copy_(torch.cat([bias, _raw(variance)]))


@dataclass
class Linear:
    """A linear model of two layers with parameters of its own, and what is known about it, in float64."""

    weights: Tensor
    coupling: Tensor
    variance: Tensor

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.q1, self.q2 = self.coupling.shape
        self.model = HierarchicalVAE(
            NUM_FEATURES, (self.q1, self.q2), hidden=(), between=(), likelihood="gaussian-fixed",
            start_scale=SCALE,
        ).double()  # fmt: skip
        self.noise = float(self.model.likelihood.scale) ** 2
        self.shift, self.offset = torch.linspace(-1, 1, self.q1).double(), torch.linspace(0, 2, 4).double()
        with torch.no_grad():
            self.model.decoder[0].weight.copy_(self.weights)
            self.model.decoder[0].bias.copy_(self.offset)
        _set(self.model.priors[0][0], self.coupling, self.shift, self.variance)
        torch.manual_seed(1)
        self.x = self.marginal.sample(torch.Size([6]))

    @property
    def marginal(self) -> MultivariateNormal:
        """p(x)."""
        latent = self.coupling @ self.coupling.T + torch.diag(self.variance)
        covariance = self.weights @ latent @ self.weights.T + self.noise * torch.eye(4).double()
        return MultivariateNormal(self.weights @ self.shift + self.offset, covariance)

    @property
    def precision(self) -> Tensor:
        """Of (z1, z2) given x."""
        inverse, identity = torch.diag(1 / self.variance), torch.eye(self.q2).double()
        first = inverse + self.weights.T @ self.weights / self.noise
        cross, second = -inverse @ self.coupling, identity + self.coupling.T @ inverse @ self.coupling
        return torch.cat([torch.cat([first, cross], 1), torch.cat([cross.T, second], 1)])

    def mean(self, x: Tensor) -> Tensor:
        """E[(z1, z2) | x] of every row."""
        return self._linear() @ (x - self.offset).T.contiguous() + self._constant()[:, None]

    def _linear(self) -> Tensor:
        lifted = torch.cat([self.weights.T / self.noise, torch.zeros(self.q2, 4).double()])
        return torch.linalg.solve(self.precision, lifted)

    def _constant(self) -> Tensor:
        drawn = self.shift / self.variance
        return torch.linalg.solve(self.precision, torch.cat([drawn, -self.coupling.T @ drawn]))

    def marginal_precision(self, part: slice) -> Tensor:
        """Of one layer given x, the other integrated out."""
        return torch.linalg.inv(torch.linalg.inv(self.precision)[part, part])

    def bottom_up(self) -> tuple[Pair, float]:
        """The best guide of its family, and what it loses."""
        own = self.model.bottom_up_guide().double()
        first, given = self.marginal_precision(slice(self.q1)), self.precision[self.q1 :, self.q1 :]
        weight, constant = self._linear()[: self.q1], self._constant()[: self.q1]
        _set(own.networks[0][0], weight, constant - weight @ self.offset, 1 / first.diagonal())
        upward = torch.linalg.solve(given, (self.coupling / self.variance[:, None]).T)
        _set(own.networks[1][0], upward, -upward @ self.shift, 1 / given.diagonal())
        return Pair(self.model, own), _mean_field_loss(first) + _mean_field_loss(given)

    def ladder(self) -> tuple[Pair, float]:
        """The same; W has orthogonal columns, else no merge of diagonal Normals is exact for z1 given z2."""
        own = self.model.ladder_guide().double()
        sizes = self.weights.square().sum(0)
        seen = self.weights.T / sizes[:, None]
        _set(own.beliefs[0], seen, -seen @ self.offset, self.noise / sizes)
        second = self.marginal_precision(slice(self.q1, None))
        weight, constant = self._linear()[self.q1 :], self._constant()[self.q1 :]
        _set(own.beliefs[1], weight, constant - weight @ self.offset, 1 / second.diagonal())
        return Pair(self.model, own), _mean_field_loss(second)


def _mean_field_loss(precision: Tensor) -> float:
    """KL of the best diagonal Normal from a Normal of this precision."""
    return 0.5 * float(precision.diagonal().log().sum() - torch.linalg.slogdet(precision).logabsdet)


def _orthogonal(*sizes: float) -> Tensor:
    """W of orthogonal columns of these lengths."""
    torch.manual_seed(3)
    return torch.linalg.qr(torch.randn(4, 4).double())[0][:, : len(sizes)] * torch.tensor(sizes).double()


def _case(name: str) -> Linear:
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double()
    small = torch.full((2,), 0.2).double()
    return {
        "both exact": lambda: Linear(_orthogonal(1.0, 2.0), torch.diag(torch.tensor([1.0, 0.5])).double(),
                                     small),
        # p(z2 | x) is of one number; p(z1 | x) is correlated.
        "ladder exact": lambda: Linear(_orthogonal(0.5, 0.5), torch.ones(2, 1).double(), small),
        # A turns by 45°: p(z1 | x) and p(z2 | z1) are of independent numbers, p(z2 | x) is not.
        "bottom-up exact": lambda: Linear(_orthogonal(0.5, 3.0), turn, small),
    }[name]()  # fmt: skip


CASES = ("both exact", "ladder exact", "bottom-up exact")


def _log_weights(pair: Pair, x: Tensor, num_draws: int = 2000) -> np.ndarray:
    return guide.draws(pair, x, num_draws=num_draws, seed=1).log_weights.to_numpy()[0]


@pytest.mark.parametrize("name", CASES)
def test_each_guide_loses_what_its_family_must(name: str, oracles: ModuleType) -> None:
    """Weights of an exact guide are all p(x); another's ELBO is below by the KL of diagonal Normals."""
    case = _case(name)
    truth = case.marginal.log_prob(case.x).numpy()
    for (pair, loss), tight in (
        (case.bottom_up(), name != "ladder exact"),
        (case.ladder(), name != "bottom-up exact"),
    ):
        log_w = _log_weights(pair, case.x)
        if tight:
            assert loss == pytest.approx(0, abs=1e-12)
            np.testing.assert_allclose(log_w, np.broadcast_to(truth, log_w.shape), rtol=1e-9)
        else:
            assert loss > 0.1
            error = log_w.std(0, ddof=1) / math.sqrt(len(log_w))
            scores = (log_w.mean(0) - (truth - loss)) / error
            assert np.abs(scores).max() < oracles.z_limit(2 * scores.size)
            found = importance.log_evidence(pair, case.x, num_samples=4000, seed=2, progress=False)
            scores = (found.log_evidence - truth) / found.std_error
            assert np.abs(scores).max() < oracles.z_limit(2 * scores.size)


@pytest.mark.parametrize("name", CASES[1:])
def test_neither_family_contains_the_other(name: str) -> None:
    """On paired rows the exact guide's weights are above the other's, in both directions."""
    case = _case(name)
    pairs = {"bottom-up exact": case.bottom_up()[0], "ladder exact": case.ladder()[0]}
    best = _log_weights(pairs.pop(name), case.x)
    (other,) = (_log_weights(pair, case.x) for pair in pairs.values())
    difference = (best - other).mean(1)
    assert difference.mean() > 8 * difference.std(ddof=1) / math.sqrt(len(difference))


def test_nuts_draws_the_joint_posterior_of_both_layers(oracles: ModuleType) -> None:
    case = _case("ladder exact")
    chains = nuts.sample(case.model, case.x[:1], num_draws=150, warmup=80, chains=2, max_tree_depth=4,
                         seed=1, progress=False)  # fmt: skip
    drawn = np.concatenate([chains.draws[site].to_numpy() for site in ("z1", "z2")], axis=-1)
    centred = drawn - case.mean(case.x[:1]).T.numpy()
    products = np.stack([centred[..., i] * centred[..., j] for i, j in ((0, 0), (0, 1), (1, 2))], axis=-1)
    covariance = torch.linalg.inv(case.precision).numpy()
    values = np.concatenate([centred, products - covariance[[0, 0, 1], [0, 1, 2]]], axis=-1)
    # Means of 20 blocks of 15 draws each.
    blocks = values.reshape(20, 15, -1).mean(1)
    scores = blocks.mean(0) / (blocks.std(0, ddof=1) / math.sqrt(len(blocks)))
    assert np.abs(scores).max() < stats.t(19).isf(stats.norm.sf(oracles.z_limit(scores.size)))


def test_what_a_layer_carries_is_its_kl_in_closed_form(oracles: ModuleType) -> None:
    """Of an exact guide: E KL(p(z1 | z2, x) ‖ p(z1 | z2)), and KL(p(z2 | x) ‖ p(z2))."""
    case = _case("ladder exact")
    pair, _ = case.ladder()
    found = collapse(pair, case.x, num_draws=2000).by_site
    covariance, mean = torch.linalg.inv(case.precision), case.mean(case.x).T
    second, means = covariance[2:, 2:], mean[:, 2:]
    kl2 = 0.5 * (second.trace() + means.square().sum(1) - 1 - torch.logdet(second)).mean()
    given = torch.linalg.inv(case.precision[:2, :2])
    # E over z1, z2 of (E[z1 | z2, x] − A z2 − a)² / v, by moments of the joint posterior.
    residual = torch.cat([torch.eye(2).double(), -case.coupling], 1)
    square = (residual @ covariance @ residual.T).diagonal() - given.diagonal()
    shift = mean @ residual.T - case.shift
    quadratic = ((square + shift.square()) / case.variance).sum(1).mean()
    ratio = given.diagonal() / case.variance
    kl1 = 0.5 * (ratio.sum() + quadratic - 2 - torch.logdet(given) + case.variance.log().sum())
    for site, kl in (("z1", kl1), ("z2", kl2)):
        score = (found["kl"][site] - float(kl)) / max(found["kl_std_error"][site], 1e-9)
        assert abs(score) < oracles.z_limit(2) or found["kl"][site] == pytest.approx(float(kl), rel=1e-6)
    assert found["latent_dim"].to_dict() == {"z2": 1, "z1": 2}
    assert found["num_active"].to_dict() == {"z2": 1, "z1": 2}


def test_bottom_up_has_a_part_of_the_kl_a_layer_too(oracles: ModuleType) -> None:
    """Of the exact guide: E[log q(z1 | x) − log p(z1 | z2)] and E[log q(z2 | z1) − log p(z2)]."""
    case = _case("both exact")
    found = collapse(case.bottom_up()[0], case.x, num_draws=1000)
    covariance, mean = torch.linalg.inv(case.precision), case.mean(case.x).T
    residual = torch.cat([torch.eye(2).double(), -case.coupling], 1)
    square = (residual @ covariance @ residual.T).diagonal() + (mean @ residual.T - case.shift).square()
    kl1 = 0.5 * ((square / case.variance).sum(1) - 2 - torch.logdet(covariance[:2, :2])).mean()
    kl1 += 0.5 * case.variance.log().sum()
    given = torch.linalg.inv(case.precision[2:, 2:])
    square = covariance[2:, 2:].trace() + mean[:, 2:].square().sum(1)
    kl2 = 0.5 * (square - 2 - torch.logdet(given)).mean()
    layers = found.by_site
    for site, kl in (("z1", kl1), ("z2", kl2)):
        assert abs(layers["kl"][site] - float(kl)) < oracles.z_limit(2) * layers["kl_std_error"][site]
    assert f"{layers['kl']['z2']:.2f} and {layers['kl']['z1']:.2f} nats from the prior" in found.sentence()


def test_a_layer_that_is_cut_off_is_told_by_its_name() -> None:
    case = _case("ladder exact")
    cut = Linear(case.weights, torch.zeros(2, 1).double(), case.variance)
    pair = cut.ladder()[0]
    (table,) = cut.model.views(ViewContext(pair, (cut.x,), (cut.x,)))
    assert isinstance(table, TableView)
    assert dict(zip(table.names, table.columns["active"], strict=True)) == {"z1": 2, "z2": 0}
    found = collapse(pair, cut.x, num_draws=500)
    assert found.by_site["num_active"].to_dict() == {"z2": 0, "z1": 2}
    assert list(found.table["component"]) == ["z2", "z1[1]", "z1[2]"]
    assert "0 of 1 in z2, 2 of 2 in z1" in found.sentence()


# Layers that add nothing -------------------------------------------------------------------------


def _binary(num_rows: int = 20, num_features: int = 9) -> Tensor:
    torch.manual_seed(0)
    return (torch.rand(num_rows, num_features) > 0.5).float()


def test_a_second_layer_at_its_prior_leaves_the_elbo_of_one_layer() -> None:
    """With p(z1 | z2) = N(0, I) and q(z2 | z1) = p(z2), weights at the same z1 are the one-layer VAE's."""
    x = _binary()
    two = HierarchicalVAE(9, (3, 2), hidden=(8,), between=(4,))
    own = two.bottom_up_guide()
    one = VAE(9, 3, hidden=(8,))
    one.decoder.load_state_dict(two.decoder.state_dict())
    encoder = one.encoder_guide()
    encoder.network.load_state_dict(own.networks[0].state_dict())
    for last in (two.priors[0][-1], own.networks[1][-1]):
        size = last.out_features // 2
        _set(last, torch.zeros(size, last.in_features), torch.zeros(size), torch.ones(size))
    trace = poutine.trace(own).get_trace(x)
    z1 = trace.nodes["z1"]["value"]
    above = poutine.trace(poutine.replay(two, trace=trace)).get_trace(x)
    below = poutine.trace(poutine.condition(encoder, data={"z": z1})).get_trace(x)
    single = poutine.trace(poutine.condition(one, data={"z": z1})).get_trace(x)
    found = above.log_prob_sum() - trace.log_prob_sum()
    wanted = single.log_prob_sum() - below.log_prob_sum()
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


@pytest.mark.parametrize("name", ["bottom-up", "ladder"])
def test_one_layer_is_a_vae(name: str) -> None:
    x = _binary()
    one = HierarchicalVAE(9, (3,), hidden=(8,))
    vae = VAE(9, 3, hidden=(8,))
    vae.decoder.load_state_dict(one.decoder.state_dict())
    own, encoder = HierarchicalVAE.guides[name](one, x), vae.encoder_guide()
    source = own.networks if isinstance(own, BottomUp) else (*own.upward, *own.beliefs)
    weights = [leaf for part in source for leaf in part.parameters()]
    with torch.no_grad():
        for leaf, value in zip(encoder.network.parameters(), weights, strict=True):
            leaf.copy_(value)
    found, wanted = (elbo(Pair(*both), x, num_particles=4, seed=3) for both in ((one, own), (vae, encoder)))
    assert found.value == pytest.approx(wanted.value, rel=1e-5)
    assert found.kl == pytest.approx(wanted.kl, rel=1e-5)


# The rest ----------------------------------------------------------------------------------------


def test_three_layers_fit_and_holding_the_model_leaves_the_ladders_priors_alone() -> None:
    x = _binary(40)
    model = HierarchicalVAE(9, (4, 3, 2), hidden=(8,), between=(6,))
    pair = Pair(model, model.ladder_guide())
    fit = svi.fit(pair, x, num_steps=40, lr=0.02, progress=False)
    assert fit.elbo[-10:].mean() > fit.elbo[:10].mean()
    assert isinstance(pair.guide, Ladder)
    assert not {id(p) for p in pair.guide.parameters()} & {id(p) for p in model.parameters()}
    held = {name: value.clone() for name, value in model.state_dict().items()}
    before = {name: value.clone() for name, value in pair.guide.state_dict().items()}
    svi.fit(pair, x, num_steps=3, train="guide", progress=False)
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
    assert all(not torch.equal(value, before[name]) for name, value in pair.guide.state_dict().items())


@pytest.mark.parametrize("name", ["bottom-up", "ladder"])
def test_batch_norms_of_all_layers_settle_and_leave_rows_alone(name: str) -> None:
    torch.manual_seed(0)
    x = (torch.rand(60, 12) < torch.tensor([0.1, 0.9]).repeat(30)[:, None]).float()
    options = {"hidden": (6,), "between": (5,), "norm": "batch"}
    model = HierarchicalVAE(12, (3, 2), **options)
    pair = Pair(model, HierarchicalVAE.guides[name](model, x))
    svi.fit(pair, x, num_steps=60, batch_size=20, lr=0.01, seed=1, progress=False)
    norms = [
        part
        for module in (pair.model, pair.guide)
        for part in module.modules()
        if isinstance(part, BatchNorm)
    ]
    # Decoder and prior, and the guide's mirror of them: the ladder's upward passes end in one.
    assert len(norms) == 4
    assert all((norm.mean != 0).any() and (norm.variance != 1).any() for norm in norms)
    beside = torch.cat([x[:30], 1 - x[30:]])
    found = [guide.draws(pair, rows, num_draws=2, seed=3).draws for rows in (x, beside)]
    for site in model.sites:
        one, other = (draws[site].to_numpy()[..., :30, :] for draws in found)
        np.testing.assert_array_equal(one, other)


def test_views_show_what_comes_back_from_each_layer() -> None:
    rows = Rows("tiny", _binary(12).numpy(), tuple("abcdefghi"), "binary", (3, 3))
    model = HierarchicalVAE.from_data(rows, latent_dims=(3, 2), hidden=(8,), between=(4,))
    pair = Pair(model, model.ladder_guide())
    data = rows.tensors(torch.float32)
    table, grid = model.views(ViewContext(pair, data, data, dataset=rows.dataset))
    assert isinstance(grid, ImageGrid)
    assert isinstance(table, TableView)
    assert list(table.names) == ["z1", "z2"]
    assert all(values.shape == (8, 3, 3) for values in grid.rows.values())
    assert [name for name in grid.rows if "from the mean" in name] == [
        "from the mean of z1 (decoder's mean)",
        "from the mean of z2 (decoder's mean)",
    ]
    planes = pair.guide.views(ViewContext(pair, data, data))
    assert [plane.x_label[:4] for plane in planes] == ["E[z1", "E[z2"]


def test_samples_and_decoding_start_at_any_layer() -> None:
    model = HierarchicalVAE(9, (3, 2), hidden=(8,), between=(4,))
    assert model.decode(torch.zeros(5, 3)).shape == model.decode(torch.zeros(5, 2), 2).shape == (5, 9)
    assert set(model.sample(20, draw=True).unique().tolist()) == {0.0, 1.0}
    mean = model.sample(20)
    assert ((mean > 0) & (mean < 1)).all()


def test_bad_options_and_data_are_refused() -> None:
    with pytest.raises(InputError, match="latent_dims is empty"):
        HierarchicalVAE(6, ())
    with pytest.raises(InputError, match="the size of latent layer 2 is 0; it must be at least 1"):
        HierarchicalVAE(6, (3, 0))
    with pytest.raises(InputError, match="a layer's width is 0"):
        HierarchicalVAE(6, (3, 2), between=(0,))
    with pytest.raises(InputError, match="likelihood 'sine' is not known"):
        HierarchicalVAE(6, (3, 2), likelihood="sine")
    with pytest.raises(InputError, match=r"hierarchical VAE of 6 features was given data of shape \(4, 5\)"):
        HierarchicalVAE(6, (3, 2)).check_data(torch.zeros(4, 5))


def test_a_linear_one_of_constant_spread_knows_its_answers() -> None:
    case = _case("ladder exact")
    model = HierarchicalVAE(
        NUM_FEATURES, (case.q1, case.q2), hidden=(), between=(), likelihood="gaussian-fixed",
        start_scale=SCALE, spread="constant",
    ).double()  # fmt: skip
    with torch.no_grad():
        model.decoder.load_state_dict(case.model.decoder.state_dict())
        above = model.priors[0]
        above.means[0].weight.copy_(case.coupling)
        above.means[0].bias.copy_(case.shift)
        above.raw_spread.copy_(_raw(case.variance))
    assert isinstance(model, ExactPosterior)
    assert isinstance(model, ExactEvidence)
    found = exact.log_evidence(model, case.x)
    np.testing.assert_allclose(found.log_evidence, case.marginal.log_prob(case.x), rtol=1e-9)
    joint = model.exact_posterior(case.x)
    assert isinstance(joint.distribution, MultivariateNormal)
    torch.testing.assert_close(joint.distribution.mean, case.mean(case.x).T)
    torch.testing.assert_close(
        joint.distribution.precision_matrix, case.precision.expand_as(joint.distribution.precision_matrix)
    )
    drawn = exact.draws(model, case.x, num_draws=500).draws
    assert {name: values.shape for name, values in drawn.items()} == {
        "z1": (1, 500, 6, 2),
        "z2": (1, 500, 6, 1),
    }


def test_three_layers_agree_with_the_weights_of_their_own_posterior() -> None:
    torch.manual_seed(0)
    model = HierarchicalVAE(
        NUM_FEATURES, (3, 2, 1), hidden=(), between=(), likelihood="gaussian", spread="constant"
    )
    x = torch.randn(5, NUM_FEATURES)
    joint = model.exact_posterior(x)
    values = joint.sample(torch.Size([4]))
    log_q = joint.distribution.log_prob(torch.cat([*values.values()], -1))
    log_p = Normal(0.0, 1.0).log_prob(values["z3"]).sum(-1)
    for layer, (site, above) in enumerate((("z1", "z2"), ("z2", "z3"))):
        log_p = log_p + model.prior(layer, values[above]).log_prob(values[site])
    log_p = log_p + model.likelihood(model.decoder(values["z1"])).log_prob(x)
    # float32, with squares up to a thousand over the noise.
    expected = model.exact_log_evidence(x).expand(4, -1)
    torch.testing.assert_close((log_p - log_q).double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", [{"spread": "network"}, {"between": (3,)}, {"likelihood": "laplace"}])
def test_others_do_not_say_that_they_know_their_answers(options: dict[str, Any]) -> None:
    linear: dict[str, Any] = {"hidden": (), "between": (), "likelihood": "gaussian", "spread": "constant"}
    assert isinstance(HierarchicalVAE(NUM_FEATURES, (2, 1), **linear), ExactEvidence)
    assert not isinstance(HierarchicalVAE(NUM_FEATURES, (2, 1), **linear | options), ExactEvidence)
    with pytest.raises(InputError, match="spread is 'wide'; it is network or constant"):
        HierarchicalVAE(NUM_FEATURES, (2, 1), spread="wide")  # type: ignore[arg-type]
