"""VAEs of images: a linear one is a PPCA, rows do not depend on each other, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.data.rows import Rows
from ppl_vae.guides.amortised import AmortisedNormal, LinearNormal
from ppl_vae.inference import importance, svi
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.models.networks.named import Architecture
from ppl_vae.models.ppca import PPCA
from ppl_vae.models.vae import VAE
from ppl_vae.program.pair import Pair

SHAPES = {"grey": (8, 12), "colour": (4, 8, 3)}


def _rows(shape: tuple[int, ...], num_rows: int = 40, *, binary: bool = True) -> Rows:
    values = np.random.default_rng(0).random((num_rows, math.prod(shape)))
    values = (values > 0.6).astype(float) if binary else values
    names = tuple(f"p{place}" for place in range(math.prod(shape)))
    return Rows("made", values.astype(np.float32), names, "binary" if binary else "grey", image_shape=shape)


# A linear decoder --------------------------------------------------------------------------------


def _linear_pair(shape: tuple[int, ...], network: str) -> tuple[Pair, PPCA]:
    """A VAE whose decoder is linear, with PPCA's posterior for its guide; and the PPCA that it is."""
    torch.manual_seed(0)
    model = VAE(
        math.prod(shape), 3, image_shape=shape, network=network, channels=(6, 5), hidden=(7,),
        activation="identity", likelihood="gaussian",
    ).double()  # fmt: skip
    same = PPCA(math.prod(shape), 3)
    with torch.no_grad():
        model.decoder[-1].bias.normal_()
        model.decoder[-2].weight.mul_(20)
        mean = model.decoder(torch.zeros(3, dtype=torch.float64))
        columns = [model.decoder(direction) - mean for direction in torch.eye(3, dtype=torch.float64)]
        same.loadings.copy_(torch.stack(columns, 1))
        same.mean.copy_(mean)
        same.log_noise_scale.copy_(model.likelihood.scale.log().squeeze())
    guide = LinearNormal(math.prod(shape), 3, dtype=torch.float64)
    return Pair(model, guide), same


def _set_to_posterior(guide: LinearNormal, same: PPCA) -> None:
    """A linear map and a covariance, from the posteriors of zero and of each unit vector."""
    origin, unit = torch.zeros(1, same.num_features).double(), torch.eye(same.num_features).double()
    at_zero, moved = (same.exact_posterior(x)["z"] for x in (origin, unit))
    diagonal = at_zero.scale_tril.squeeze(0).diagonal()
    below = torch.tril_indices(3, 3, -1)
    with torch.no_grad():
        guide.loc.bias.copy_(at_zero.mean.squeeze(0))
        guide.loc.weight.copy_((moved.mean - at_zero.mean).T)
        raw = torch.zeros(3, 3).double()
        raw[tuple(below)] = at_zero.scale_tril.squeeze(0)[tuple(below)]
        guide.raw_spread.copy_(torch.cat([(diagonal**2 - guide.floor).expm1().log(), raw[tuple(below)]]))


@pytest.mark.parametrize("network", ["conv", "resnet"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_linear_decoder_of_images_has_the_evidence_and_posterior_of_ppca(
    shape: tuple[int, ...], network: str
) -> None:
    pair, same = _linear_pair(shape, network)
    _set_to_posterior(pair.guide, same)
    x = same.mean.detach() + torch.randn(6, math.prod(shape), dtype=torch.float64)
    truth = same.exact_log_evidence(x).numpy()
    found = importance.log_evidence(pair, x, num_samples=20, progress=False)
    # With the exact posterior for a guide every weight is p(x) itself.
    np.testing.assert_allclose(found.log_evidence, truth, rtol=1e-9)
    np.testing.assert_allclose(found.elbo, truth, rtol=1e-9)
    posterior, own = same.exact_posterior(x)["z"], pair.guide.encode(x)
    np.testing.assert_allclose(own.covariance_matrix.detach(), posterior.covariance_matrix, atol=1e-12)
    # The order of the pixels matters to it.
    same.loadings.data.copy_(same.loadings.roll(1, 0))
    assert np.abs(same.exact_log_evidence(x).numpy() - truth).max() > 1e-3


# Steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["conv", "resnet"])
def test_traced_steps_of_a_network_of_images_are_those_of_stock_pyro(network: str) -> None:
    (x,) = _rows((8, 8, 3)).tensors(torch.float64)
    found = []
    for compile, engine in (("off", "pyro"), ("auto", "traced")):
        torch.manual_seed(0)
        model = VAE(192, 2, image_shape=(8, 8, 3), network=network, channels=(8, 4), hidden=(6,)).double()
        pair = Pair(model, model.encoder_guide().double())
        state = svi.init(pair, x, num_steps=500, batch_size=16, lr=0.01, seed=1, compile=compile)
        svi.step(state, 10)
        assert state.stepper.engine == engine
        found.append([leaf.detach() for module in (pair.model, pair.guide) for leaf in module.parameters()])
    # Rounding of float64 alone, which decides the first steps' direction where a gradient is nothing else.
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


# Modes -------------------------------------------------------------------------------------------


def _log_p(pair: Pair, x: Tensor, z: Tensor) -> Tensor:
    """log p(x_n, z_n) of each row at a given z, as every evaluation runs the program."""
    with pair.scope(), torch.no_grad():
        trace = poutine.trace(poutine.condition(pair.model, {"z": z})).get_trace(x)
        trace.compute_log_prob()
        return trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]


@pytest.mark.parametrize(("network", "norm"), [("conv", "batch"), ("resnet", "group")])
def test_a_fit_learns_and_a_rows_log_p_is_the_same_to_the_bit_beside_other_rows(
    network: str, norm: str
) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"network": network, "norm": norm, "channels": (8,), "hidden": (8,)}
    model = VAE(32, 2, image_shape=(4, 8), **options)
    # Dark images and light ones, which a latent can tell apart.
    x = (torch.rand(60, 32) < torch.tensor([0.1, 0.9]).repeat(30)[:, None]).float()
    pair = Pair(model, model.encoder_guide())
    before = elbo(pair, x, seed=1, num_particles=20)
    svi.fit(pair, x, num_steps=80, lr=0.02, batch_size=30, progress=False)
    after = elbo(pair, x, seed=1, num_particles=20)
    assert after.mean > before.mean + 1
    z = torch.randn(60, 2)
    others = torch.cat([x[:30], 1 - x[30:]])
    moved = torch.cat([z[:30], 50 * z[30:]])
    assert torch.equal(_log_p(pair, x, z)[:30], _log_p(pair, others, moved)[:30])
    with pair.scope(), torch.no_grad():
        q = [pair.guide.encode(values) for values in (x, others)]
    assert torch.equal(q[0].mean[:30], q[1].mean[:30])
    evidence = importance.log_evidence(pair, x, num_samples=200, seed=2, progress=False)
    assert evidence.total - after.value > -4 * math.hypot(evidence.total_std_error, after.std_error)


def test_encoder_and_decoder_mirror_each_other() -> None:
    networks = Architecture("conv", (20, 10), (16, 8), "tanh", "group", (8, 12))
    sizes = [
        [tuple(value.shape) for value in network.parameters() if value.dim() > 1]
        for network in (networks.decoder(5, 96), networks.encoder(96, 5))
    ]
    assert [shape[::-1] if len(shape) == 2 else shape for shape in reversed(sizes[0])] == sizes[1]


def test_output_bias_starts_at_the_datas_mean_where_the_network_is_of_images() -> None:
    rows = _rows(SHAPES["colour"])
    model = VAE.from_data(rows, network="resnet", hidden=(8,), channels=(4, 4))
    mean = rows.values.mean(0).clip(1e-3, 1 - 1e-3)
    np.testing.assert_allclose(model.decoder[-1].bias.detach().sigmoid(), mean, rtol=1e-4)
    assert isinstance(model.encoder_guide("full"), AmortisedNormal)
    assert model.sample(3).shape == (3, 96)


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "cnn"}, "network 'cnn' is not known; there are mlp, conv, resnet"),
        ({"network": "conv", "channels": (8, 4, 2)}, "8 x 12 cannot be halved 3 times.*divisible by 8"),
        ({"network": "conv", "channels": ()}, "at least one convolution"),
        ({"norm": "layer"}, "norm 'layer' is not known; there are none, batch, group"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        VAE.from_data(_rows(SHAPES["grey"]), **options)
    assert "\n" not in str(caught.value)


def test_data_that_are_no_images_or_others_than_the_networks_are_refused() -> None:
    table = Rows("t", np.ones((5, 16), dtype=np.float32), tuple("abcdefghijklmnop"), "binary")
    with pytest.raises(InputError, match=r"the network conv needs images.*use the network mlp"):
        VAE.from_data(table, network="conv")
    model = VAE.from_data(_rows(SHAPES["grey"]), network="conv", channels=(4, 4), hidden=())
    with pytest.raises(InputError, match=r"VAE of images of 8 x 12 was given data of shape \(3, 64\)"):
        svi.fit(Pair(model, model.encoder_guide()), torch.ones(3, 64), num_steps=1, progress=False)
