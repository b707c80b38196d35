"""Long runs of NumPyro's NUTS on five models, and the summaries of them that the study keeps.

Run as ``python -m benchmarks.alarms.other_sampler`` with the ``bench`` extra; writes ``other_sampler.json``.
All is in unconstrained coordinates: logarithms of positive numbers, logits of those between 0 and 1.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logit
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS
from scipy.stats import norm, rankdata

from benchmarks.alarms.other_data import DATA

PATH = Path(__file__).with_suffix(".json")
PROBABILITIES = (0.0005, 0.002, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975,
                 0.99, 0.998, 0.9995)  # fmt: skip
Program = Callable[..., None]
Values = dict[str, Any]


def mixed(x: Any, y: Any, member: Any) -> None:
    a, b = numpyro.sample("a", dist.Normal(0, 5)), numpyro.sample("b", dist.Normal(0, 5))
    spread, sigma = (numpyro.sample(name, dist.HalfNormal(2)) for name in ("spread", "sigma"))
    u = numpyro.sample("u", dist.Normal(0, 1).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(a + b * x + spread * member @ u, sigma), obs=y)


def garch(y: Any) -> None:
    mu, size = numpyro.sample("mu", dist.Normal(0, 1)), numpyro.sample("size", dist.LogNormal(-1, 1))
    news, memory = numpyro.sample("news", dist.Beta(2, 6)), numpyro.sample("memory", dist.Beta(6, 4))

    def step(variance: Any, value: Any) -> tuple[Any, Any]:
        return size + news * (value - mu) ** 2 + memory * variance, variance

    _, variances = jax.lax.scan(step, jnp.asarray(0.5), y)
    numpyro.sample("y", dist.Normal(mu, jnp.sqrt(variances)), obs=y)


def censored(x: Any, y: Any, late: Any) -> None:
    a, b = numpyro.sample("a", dist.Normal(0, 5)), numpyro.sample("b", dist.Normal(0, 5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    mean = a + b * x
    known = dist.Normal(mean, sigma).log_prob(y)
    beyond = jax.scipy.stats.norm.logcdf((mean - y) / sigma)
    numpyro.factor("times", jnp.where(late == 1, beyond, known).sum())


def horseshoe(x: Any, y: Any) -> None:
    z = numpyro.sample("z", dist.Normal(0, 1).expand([6]).to_event(1))
    local = numpyro.sample("local", dist.HalfCauchy(1).expand([6]).to_event(1))
    tau, sigma = numpyro.sample("tau", dist.HalfCauchy(0.3)), numpyro.sample("sigma", dist.HalfNormal(2))
    numpyro.sample("y", dist.Normal(x @ (z * local * tau), sigma), obs=y)


def unknown_level(y: Any) -> None:
    start = numpyro.sample("start", dist.Normal(0, 5))
    move, sigma = (numpyro.sample(name, dist.LogNormal(-0.7, 0.5)) for name in ("move", "sigma"))
    steps = numpyro.sample("steps", dist.Normal(0, 1).expand([20]).to_event(1))
    numpyro.sample("y", dist.Normal(start + move * jnp.cumsum(steps), sigma), obs=y)


def _beta(values: Values) -> Values:
    return {"beta": values["z"] * values["local"] * values["tau"][..., None]}


MODELS: dict[str, tuple[Program, Callable[[Values], Values] | None]] = {
    "mixed": (mixed, None),
    "garch": (garch, None),
    "censored": (censored, None),
    "horseshoe": (horseshoe, _beta),
    "unknown_level": (unknown_level, None),
}
LOGARITHMS = ("spread", "sigma", "size", "local", "tau", "move")
LOGITS = ("news", "memory")


def _free(name: str, values: Any) -> Any:
    return jnp.log(values) if name in LOGARITHMS else logit(values) if name in LOGITS else values


def summarise(name: str, draws: int, warmup: int) -> dict[str, Any]:
    """Sites and sizes; of all entries means, sds, quantiles, and correlations of normal scores."""
    model, more = MODELS[name]
    # The horseshoe's scales are a funnel.
    kernel = NUTS(model, target_accept_prob=0.998 if name == "horseshoe" else 0.98)
    sampler = MCMC(kernel, num_warmup=warmup, num_samples=draws, num_chains=4,
                   chain_method="vectorized", progress_bar=False)  # fmt: skip
    sampler.run(jax.random.PRNGKey(0), **DATA[name](), extra_fields=("diverging",))
    values = dict(sampler.get_samples(group_by_chain=True))
    checked = summary({key: _free(key, value) for key, value in values.items()}).values()
    values |= more(values) if more else {}
    free = {key: np.asarray(_free(key, value)) for key, value in values.items()}
    flat = np.concatenate([value.reshape(4 * draws, -1) for value in free.values()], 1)
    scores = norm.ppf((rankdata(flat, axis=0) - 0.5) / len(flat))
    correlation = np.corrcoef(scores.T)[np.tril_indices(flat.shape[1], -1)]
    return {
        "sites": {key: int(np.prod(value.shape[2:])) for key, value in free.items()},
        "draws": 4 * draws,
        "rhat": max(float(np.max(one["r_hat"])) for one in checked),
        "ess": min(float(np.min(one["n_eff"])) for one in checked),
        "divergent": int(sampler.get_extra_fields()["diverging"].sum()),
        "mean": _short(flat.mean(0)),
        "sd": _short(flat.std(0)),
        "quantiles": [_short(row) for row in np.quantile(flat, PROBABILITIES, axis=0).T],
        "correlation": np.round(correlation, 3).tolist(),
    }


def _short(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def main() -> None:
    """Sample every model (or those that are named), and write the file."""
    numpyro.enable_x64()
    kept = json.loads(PATH.read_text()) if PATH.exists() else {"probabilities": PROBABILITIES}
    for name in sys.argv[1:] or MODELS:
        kept[name] = summarise(name, draws=6000, warmup=2000)
        print(name, {key: kept[name][key] for key in ("rhat", "ess", "divergent")}, flush=True)
        PATH.write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
