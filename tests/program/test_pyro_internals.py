"""Names of PyTorch's and Pyro's that are not public: without each, the same numbers, and one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from ppl_vae.engine import compiler, proven, torch_internals
from ppl_vae.inference import importance, nuts, svi
from ppl_vae.program import pyro_internals
from ppl_vae.program.pair import Pair

Trouble = Callable[[pytest.MonkeyPatch], None]


def _fit(conjugate: Any, x: Tensor, compile: Any) -> np.ndarray:
    pair = Pair(conjugate.model, conjugate.guide)
    fit = svi.fit(pair, x, num_steps=12, lr=0.1, compile=compile, progress=False)
    return np.concatenate([fit.elbo, *(leaf.detach().reshape(-1) for leaf in pair.parameters().values())])


def _evidence(conjugate: Any, x: Tensor, compile: Any) -> np.ndarray:
    pair = Pair(conjugate.model, conjugate.guide)
    return importance.log_evidence(pair, x, num_samples=50, compile=compile, progress=False).log_evidence


def _chains(conjugate: Any, x: Tensor, compile: Any) -> np.ndarray:
    drawn = nuts.sample(
        conjugate.model, x[:3], num_draws=8, warmup=20, chains=2, compile=compile, progress=False
    )
    return drawn.draws["z"].to_numpy()


def _no_tracer(patch: pytest.MonkeyPatch) -> None:
    import torch.fx.experimental.proxy_tensor as module

    patch.delattr(module, "make_fx")


def _no_compiler(patch: pytest.MonkeyPatch) -> None:
    import torch._inductor

    patch.delattr(torch._inductor, "aot_compile")


def _no_loader(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(torch._C._aoti, "AOTIModelContainerRunnerCpu")
    # Nothing is compiled for it.
    patch.setattr(compiler, "_build", lambda graph, everything, path: path.write_bytes(b""))


def _no_schemas(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch_internals, "SCHEMA", "_another")


@pytest.mark.parametrize(
    ("method", "trouble", "lacks"),
    [
        pytest.param(_fit, _no_tracer, "proxy_tensor.make_fx", id="svi-tracer"),
        pytest.param(_fit, _no_compiler, "torch._inductor.aot_compile", id="svi-compiler"),
        pytest.param(_evidence, _no_tracer, "proxy_tensor.make_fx", id="importance-tracer"),
        pytest.param(_evidence, _no_loader, "torch._C._aoti", id="importance-loader"),
        pytest.param(_evidence, _no_schemas, "the schema of an operator", id="importance-schemas"),
        pytest.param(_chains, _no_tracer, "proxy_tensor.make_fx", id="nutpie-tracer"),
        pytest.param(_chains, _no_compiler, "torch._inductor.aot_compile", id="nutpie-compiler"),
    ],
)
def test_without_tracing_or_compiling_stock_pyro_gives_the_same_numbers(
    method: Any,
    trouble: Trouble,
    lacks: str,
    conjugate: Any,
    x: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PPL_VAE_CACHE", str(tmp_path))
    monkeypatch.setitem(proven.known, proven._key(compiler.find_compiler()), 0)
    expected = method(conjugate, x, compile=False)
    trouble(monkeypatch)
    with pytest.warns(RuntimeWarning, match=f"PyTorch .* lacks .*{lacks}") as said:
        found = method(conjugate, x, compile=True)
    assert len(said) == 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("missing", ["gone", "changed"])
def test_adam_written_out_is_the_fused_one(size: int, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps() -> list[Tensor]:
        torch.manual_seed(1)
        leaves = [torch.randn(shape, dtype=torch.float64) for shape in [(), (3,), (2, 4)][:size]]
        mean, square = ([torch.zeros_like(leaf) for leaf in leaves] for _ in range(2))
        counts = [torch.zeros(()) for _ in leaves]
        for step in range(5):
            for count in counts:
                count.fill_(step + 1)
            gradients = [torch.randn_like(leaf) * 10.0**step for leaf in leaves]
            torch_internals.adam(
                leaves, gradients, mean, square, counts, rate=0.1, betas=(0.9, 0.999), epsilon=1e-8
            )
        return [*leaves, *mean, *square]

    fused = steps()
    if missing == "gone":
        monkeypatch.delattr(torch, "_fused_adam_")
    else:
        monkeypatch.setattr(torch, "_fused_adam_", lambda leaves: None)
    with pytest.warns(RuntimeWarning, match="steps one parameter after another: PyTorch .* lacks") as said:
        written = steps()
    assert len(said) == 1
    for a, b in zip(written, fused, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "others", "options"),
    [
        ("lerp_", ("tensors", 0.1), {}),
        ("mul", ("tensors",), {}),
        ("sqrt", (), {}),
        ("div_", (3.0,), {}),
        ("div", ("tensors",), {}),
        ("add_", (1e-8,), {}),
        ("add_", ("tensors",), {"alpha": 0.25}),
        ("sub", ("tensors",), {"alpha": 0.5}),
        ("copy_", ("tensors",), {}),
    ],
)
def test_lists_of_tensors_one_at_a_time_are_the_same(
    name: str, others: tuple[Any, ...], options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tensors(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [torch.rand(shape, dtype=torch.float64) + 0.5 for shape in [(), (3,), (2, 4)]]

    def run() -> list[Tensor]:
        own = tensors(0)
        found = torch_internals.foreach(name)(own, *(tensors(1) if o == "tensors" else o for o in others),
                                              **options)  # fmt: skip
        return own if name.endswith("_") else list(found)

    together = run()
    monkeypatch.delattr(torch, f"_foreach_{name}")
    with pytest.warns(RuntimeWarning, match="runs one tensor at a time"):
        apart = run()
    for a, b in zip(apart, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (torch.ops.aten.randn_like.default, "randn_like"),
        (torch.ops.aten.add_.Tensor, "add_"),
        (torch.ops.aten.native_batch_norm.default, "native_batch_norm"),
    ],
)
def test_operators_are_known_by_name(operator: Any, name: str) -> None:
    assert torch_internals.operator_name(operator) == name
    assert torch_internals.schema(operator).is_mutable == name.endswith("_")


# Pyro ----------------------------------------------------------------------------------------------


def _mixture(x: Tensor) -> None:
    place = pyro.param("place", torch.tensor([-1.0, 1.0], dtype=torch.float64))
    with pyro.plate("data", len(x)):
        which = pyro.sample("which", dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)))
        pyro.sample("x", dist.Normal(place[which], 1.0), obs=x)


def _components(x: Tensor) -> None:
    chance = pyro.param("chance", torch.full((len(x), 2), 0.5, dtype=torch.float64))
    with pyro.plate("data", len(x)):
        pyro.sample("which", dist.Categorical(chance))


def _fit_mixture(conjugate: Any, x: Tensor, compile: Any) -> np.ndarray:
    pair = Pair(config_enumerate(_mixture), config_enumerate(_components))
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    fit = svi.fit(pair, x, loss=loss, num_steps=6, lr=0.1, compile=compile, progress=False)
    return np.concatenate([fit.elbo, *(leaf.detach().reshape(-1) for leaf in pair.parameters().values())])


@pytest.mark.parametrize(
    ("method", "name", "lacks"),
    [
        pytest.param(_fit, "TRACES", "ELBO._another", id="traces"),
        pytest.param(_fit_mixture, "TRACES", "ELBO._another", id="traces-enumerated"),
        pytest.param(_fit_mixture, "DICE", "_another", id="contraction"),
    ],
)
def test_without_the_parts_of_a_loss_pyros_own_gives_the_same_numbers(
    method: Any, name: str, lacks: str, conjugate: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = method(conjugate, x, compile=False)
    monkeypatch.setattr(pyro_internals, name, "_another")
    with pytest.warns(RuntimeWarning, match=f"stock Pyro, uncompiled: Pyro .* lacks {lacks}") as said:
        found = method(conjugate, x, compile=True)
    assert len(said) == 1
    np.testing.assert_array_equal(found, expected)


def test_pyros_mark_of_deterministic_sites_is_known() -> None:
    def model() -> None:
        pyro.deterministic("a", torch.ones(()))
        pyro.sample("b", dist.Delta(torch.ones(())))
        pyro.sample("c", dist.Delta(torch.ones(())), obs=torch.ones(()))

    nodes = poutine.trace(model).get_trace().nodes
    assert {name for name in "abc" if pyro_internals.is_deterministic(nodes[name])} == {"a"}
