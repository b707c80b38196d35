"""NumPyro's SVI and NUTS, compiled before they are timed."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import lax
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, init_to_value, util
from numpyro.infer.autoguide import AutoNormal

from benchmarks.chains import Chains
from benchmarks.peers import numpyro_models
from benchmarks.problems import Fitting, Sampling

__all__ = ["Nuts", "Steps", "log_density", "ppca", "prepare", "skills"]


def prepare(devices: int = 1) -> None:
    """float64, and as many host devices as chains are to run in parallel; before JAX computes anything."""
    numpyro.set_host_device_count(devices)
    numpyro.enable_x64()


class Steps:
    """SVI as ``svi.run`` does it, a scan over ``svi.update``, compiled once for each number of steps."""

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], data: tuple[Any, ...], lr: float
    ) -> None:
        self.svi = SVI(model, guide, numpyro.optim.Adam(lr), Trace_ELBO())
        self.data = tuple(jnp.asarray(values) for values in data)
        self.state = self.svi.init(jax.random.key(0), *self.data)
        self._scan = jax.jit(self._steps, static_argnums=1)

    def start_at(self, params: Mapping[str, Any]) -> "Steps":
        """Begin at these parameters."""
        given = {name: jnp.asarray(value) for name, value in params.items()}
        self.state = self.svi.init(jax.random.key(0), *self.data, init_params=given)
        missing = given.keys() ^ self.svi.get_params(self.state).keys()
        assert not missing, f"parameters without a counterpart: {missing}"
        return self

    def _steps(self, state: Any, num_steps: int) -> Any:
        return lax.scan(lambda at, _: self.svi.update(at, *self.data), state, None, length=num_steps)

    def run(self, num_steps: int) -> np.ndarray:
        """So many steps; the losses."""
        self.state, losses = self._scan(self.state, num_steps)
        return np.asarray(losses)


def skills(problem: Fitting, lr: float | None = None) -> Steps:
    """Mean-field skills, started where the suite's guide starts."""
    start = {"skill": jnp.zeros(107)}
    guide = AutoNormal(numpyro_models.skills, init_loc_fn=init_to_value(values=start), init_scale=0.5)
    games = problem.data[1].numpy()
    return Steps(numpyro_models.skills, guide, (games,), problem.lr if lr is None else lr)


def ppca(problem: Fitting, lr: float | None = None) -> Steps:
    """PPCA, started at the suite's parameters."""
    given = {**dict(problem.model.named_parameters()), **dict(problem.guide.named_parameters())}
    named = {name.replace("loc.", ""): value.detach().numpy() for name, value in given.items()}
    data = (problem.data[0].numpy(),)
    lr = problem.lr if lr is None else lr
    return Steps(numpyro_models.ppca, numpyro_models.ppca_guide, data, lr).start_at(named)


def log_density(problem: Sampling) -> Callable[[Mapping[str, np.ndarray]], float]:
    """log p(x, z) in unconstrained space, with the Jacobians, up to no constant at all."""
    model = getattr(numpyro_models, problem.name)
    data = tuple(jnp.asarray(values.numpy()) for values in problem.data)

    def value(z: Mapping[str, np.ndarray]) -> float:
        given = {name: jnp.asarray(at) for name, at in z.items()}
        return -float(util.potential_energy(model, data, {}, given))

    return value


class Nuts:
    """Parallel chains; the first call compiles, and the ones after it do not."""

    def __init__(self, problem: Sampling, num_draws: int = 500, warmup: int = 500, chains: int = 4) -> None:
        assert jax.local_device_count() >= chains, "chains would not run in parallel"
        self.data = tuple(jnp.asarray(values.numpy()) for values in problem.data)
        kernel = NUTS(getattr(numpyro_models, problem.name))
        self.mcmc = MCMC(
            kernel,
            num_warmup=warmup,
            num_samples=num_draws,
            num_chains=chains,
            chain_method="parallel",
            progress_bar=False,
        )
        first = self._seconds(0)
        self.compile_seconds = first - self._seconds(1)

    def _seconds(self, seed: int) -> float:
        start = time.perf_counter()
        self.mcmc.run(jax.random.key(seed), *self.data)
        jax.block_until_ready(self.mcmc.get_samples())
        return time.perf_counter() - start

    def __call__(self, seed: int) -> Chains:
        """Draws with another key."""
        seconds = self._seconds(seed + 2)
        draws = self.mcmc.get_samples(group_by_chain=True)
        values = {name: np.asarray(value, np.float64) for name, value in draws.items()}
        return Chains(values, seconds, self.compile_seconds)
