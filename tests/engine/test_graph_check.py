"""What cannot be traced is refused, and a graph that is not its program is found out."""

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.base.errors import InputError
from ppl_vae.engine.density import density
from ppl_vae.engine.graph import Untraceable, check_compile, check_graph, trace
from ppl_vae.inference import svi
from ppl_vae.inference.fitting import state as fitting_state
from ppl_vae.program.pair import Pair

DOUBLE = {"dtype": torch.float64}

pytestmark = pytest.mark.usefixtures("unchecked")


# What cannot be traced ----------------------------------------------------------------------------


def _branch_on_a_latent(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    pyro.sample("x", dist.Normal(z, 1.0 if z > 0 else 2.0).expand(x.shape).to_event(2), obs=x)


def _number_of_a_tensor(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    pyro.sample("x", dist.Normal(z, x.std().item()).expand(x.shape).to_event(2), obs=x)


def _dropout(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    mean = functional.dropout(z.expand(x.shape), 0.5)
    pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)


def _plain(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(2), obs=x)


def _positive(x: Tensor) -> None:
    z = pyro.sample("z", dist.Exponential(torch.ones((), dtype=x.dtype)))
    pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(2), obs=x)


def _normal_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(pyro.param("loc", lambda: torch.zeros((), dtype=x.dtype)), 1.0))


def _score_function_guide(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros((), dtype=x.dtype))
    pyro.sample("z", dist.Normal(loc, 1.0).has_rsample_(False))


def _gamma_guide(x: Tensor) -> None:
    shape = pyro.param("shape", lambda: torch.ones((), dtype=x.dtype), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Gamma(shape, 1.0))


@pytest.mark.parametrize(
    ("model", "guide", "words"),
    [
        (_branch_on_a_latent, _normal_guide, "data-dependent control flow"),
        (_number_of_a_tensor, _normal_guide, "get value out of a tracing tensor"),
        (_plain, _score_function_guide, "site z of the guide cannot be reparameterised"),
        (_positive, _gamma_guide, "_standard_gamma draws numbers that depend on the parameters"),
        (_dropout, _normal_guide, "draws numbers that depend|in place"),
    ],
)
def test_programs_that_are_no_graph_are_refused_in_one_sentence(
    model: Any, guide: Any, words: str, objective: Any
) -> None:
    task = objective(model, guide, index=None, scale=None)
    with pytest.raises(Untraceable, match=words) as caught:
        trace(task, *task.tensors)
    assert "\n" not in str(caught.value)


class _Normalised(PyroModule):
    """A decoder with batch normalisation, whose running statistics change in training."""

    def __init__(self, functional_form: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3).double()
        self.norm = nn.BatchNorm1d(3).double()
        self.functional_form = functional_form

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            h = self.layer(z.reshape(-1, 1))
            if self.functional_form:
                mean, variance = self.norm.running_mean, self.norm.running_var
                h = functional.batch_norm(h, mean, variance, training=True)
            else:
                h = self.norm(h)
            pyro.sample("x", dist.Normal(h.reshape(*z.shape, 3), 1.0).to_event(1), obs=x[i])


@pytest.mark.parametrize("functional_form", [False, True])
def test_a_buffer_that_is_changed_in_place_is_refused(functional_form: bool, objective: Any) -> None:
    task = objective(_Normalised(functional_form))
    with pytest.raises(Untraceable, match="changes a tensor of the program in place"):
        trace(task, *task.tensors)


def test_a_fit_that_is_no_graph_ends_with_the_buffers_of_stock_pyro(objective: Any) -> None:
    fits, states = [], []
    for engine in ("pyro", "traced"):
        torch.manual_seed(0)
        pyro.clear_param_store()
        task = objective(_Normalised(functional_form=False))
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="this fit runs through stock Pyro")
            patch.setattr(fitting_state, "engine_of_fit", lambda *_, engine=engine: engine)
            fits.append(svi.fit(task.pair, *task.data, num_steps=5, progress=False))
        states.append(task.pair.state_dict())
    assert [fit.engine for fit in fits] == ["pyro", "pyro"]
    assert fits[0].elbo.tolist() == fits[1].elbo.tolist()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_batch_norm_that_is_not_training_is_traced(objective: Any, agree: Any) -> None:
    model = _Normalised(functional_form=False).eval()
    task = objective(model)
    graph = trace(task, *task.tensors)
    agree(graph, task, *task.tensors)


def test_enumerable_and_discrete_densities_are_refused() -> None:
    def model(x: Tensor) -> None:
        k = pyro.sample("k", dist.Categorical(torch.ones(2, **DOUBLE)))
        pyro.sample("x", dist.Normal(k.double(), 1.0).expand(x.shape).to_event(2), obs=x)

    with pytest.raises(Untraceable, match="site k is discrete"):
        density(Pair(model, model), torch.zeros(2, 3, **DOUBLE))


@pytest.mark.parametrize("value", ["yes", 1, 0, None, "True"])
def test_compile_is_auto_on_or_off(value: Any) -> None:
    words = {word: check_compile(word) for word in ("auto", "on", "off")}
    assert all(word == found for word, found in words.items())
    assert (check_compile(True), check_compile(False)) == ("on", "off")
    with pytest.raises(InputError, match="it is 'auto', 'on' or 'off'"):
        check_compile(value)


# Checking ----------------------------------------------------------------------------------------


def test_check_finds_a_branch_on_a_tensor_that_is_no_input() -> None:
    """NumPy's view of a tensor can be read while tracing, and its branch is frozen."""
    switch, x = torch.tensor(1.0), torch.randn(5, **DOUBLE)

    def program(x: Tensor) -> tuple[Tensor, ...]:
        return ((x * 2 if switch.numpy() > 0 else x * 3),)

    with pytest.raises(Untraceable, match="control flow"):
        trace(lambda x: ((x * 2 if switch > 0 else x * 3),), x)
    graph = trace(program, x)
    check_graph(graph, program, x, vary=[(x, torch.randn_like)])
    before = x.clone()
    with pytest.raises(Untraceable, match="something else at other values"):
        check_graph(graph, program, x, vary=[(switch, torch.neg), (x, torch.randn_like)])
    # What varies is put back even then.
    assert switch == 1
    assert torch.equal(x, before)


def test_check_finds_a_program_that_counts_its_calls() -> None:
    calls, x = [0], torch.randn(5, **DOUBLE)

    def program(x: Tensor) -> tuple[Tensor, ...]:
        calls[0] += 1
        return (x * (2 if calls[0] < 3 else 3),)

    graph = trace(program, x)
    with pytest.raises(Untraceable, match="something else at other values"):
        check_graph(graph, program, x, vary=[(x, torch.randn_like)])


def test_check_finds_a_runner_that_differs(objective: Any) -> None:
    task = objective()
    graph = trace(task, *task.tensors)
    vary = [(leaf, torch.randn_like) for leaf in task.leaves]
    state, before = torch.get_rng_state(), [leaf.detach().clone() for leaf in task.leaves]
    check_graph(graph, task, *task.tensors, vary=vary)
    check_graph(graph, task, *task.tensors, vary=vary, run=lambda *given: graph(*given))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, task.leaves, strict=True))
    for wrong in (
        lambda *given: [1.0001 * value for value in graph(*given)],
        lambda *given: [*graph(*given)[:-1], graph(*given)[-1] + 1e-3],
        lambda *given: [value.float() for value in graph(*given)],
        lambda *given: [value.reshape(-1, 1) for value in graph(*given)],
        lambda *given: [value * torch.nan for value in graph(*given)],
        # Its noise is not the program's.
        lambda *given: graph(*given, noise=[noise + 1 for noise in graph.draw()]),
    ):
        with pytest.raises(Untraceable):
            check_graph(graph, task, *task.tensors, vary=vary, run=wrong)


def test_a_program_that_fails_at_a_random_point_is_compared_where_it_runs() -> None:
    """A covariance that is a free parameter is positive definite where it is, not everywhere near."""
    x, covariance = torch.randn(2, **DOUBLE), torch.tensor([[1.0, 0.98], [0.98, 1.0]], **DOUBLE)

    def program(x: Tensor, covariance: Tensor) -> tuple[Tensor, ...]:
        return (dist.MultivariateNormal(torch.zeros(2, **DOUBLE), covariance).log_prob(x),)

    graph = trace(program, x, covariance)
    far = torch.tensor([[1.0, 2.0], [2.0, 1.0]], **DOUBLE)
    vary = [(covariance, lambda _: far)]
    check_graph(graph, program, x, covariance, vary=vary)
    assert covariance[0, 1] == 0.98
    with pytest.raises(Untraceable):
        check_graph(graph, program, x, covariance, vary=vary, run=lambda *given: (graph(*given)[0] + 1e-3,))
