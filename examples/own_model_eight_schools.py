"""Your own Pyro model: eight schools (Rubin 1981), two of Pyro's AutoGuides, and how wrong they are.

Nothing here belongs to the suite but the checks. What to look for: log p(x) is one number, so the two
guides' estimates should agree within their errors; the ELBOs lie below it by what each guide misses. The
comparison with NUTS then says which quantities a guide gets wrong, and by how much.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from ppl_vae import Pair, compare, guide, importance, nuts, svi

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)


def model(effect: torch.Tensor, error: torch.Tensor) -> None:
    zero = torch.zeros((), dtype=effect.dtype)
    mu = pyro.sample("mu", dist.Normal(zero, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
    with pyro.plate("school", len(effect)):
        shift = pyro.sample("shift", dist.Normal(zero, 1.0))
        pyro.sample("effect", dist.Normal(mu + tau * shift, error), obs=effect)


def main(quick: bool = False) -> None:
    answers = {}
    for auto in (AutoNormal, AutoMultivariateNormal):
        pair = Pair(model, auto(model))
        fit = svi.fit(pair, EFFECT, ERROR, num_steps=100 if quick else 800, lr=0.05, num_particles=4)
        evidence = importance.log_evidence(pair, EFFECT, ERROR, num_samples=2_000 if quick else 20_000)
        alarm = "alarm" if evidence.alarming.any() else "no alarm"
        bound = f"ELBO {fit.final.value:.3f} ± {fit.final.std_error:.3f}"
        print(
            f"{auto.__name__} ({fit.reason}): {bound}; "
            f"log p(x) {evidence.total:.3f} ± {evidence.total_std_error:.3f}, "
            f"ESS {evidence.ess[0]:.0f} of {evidence.num_samples}, k̂ {evidence.pareto_k[0]:.2f}, {alarm}"
        )
        answers[auto.__name__] = guide.draws(pair, EFFECT, ERROR, num_draws=4000)

    chains, draws = (2, 50) if quick else (4, 250)
    truth = nuts.sample(model, EFFECT, ERROR, chains=chains, num_draws=draws, warmup=50 if quick else 150)
    print(f"NUTS: {chains} chains of {draws} draws, {int(truth.stats['diverging'].sum())} divergent")
    found = compare(answers, reference=truth)
    print("\n", found.worst(6).round(3).to_string(index=False), sep="")
    for name, verdict in found.verdicts.items():
        print(f"{name}: {verdict}")
    print("\n".join(found.reasons))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    main(parser.parse_args().quick)
