"""Small programs of every form, on one set of data, for tests of time budgets."""

import pyro
import pyro.distributions as dist
import torch

X = torch.linspace(-1.0, 1.0, 12)


def regression(x):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("y", dist.Normal(slope * x[i], 1.0), obs=2 * x[i])


def random_walk(x):
    state = x.new_zeros(())
    for t, value in enumerate(x):
        state = pyro.sample(f"s{t}", dist.Normal(state, 0.5))
        pyro.sample(f"y{t}", dist.Normal(state, 1.0), obs=value)


def of_rows(x):
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])


def without_plate(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(mu, 1.0).expand([len(x)]).to_event(1), obs=x)


PROGRAMS = [regression, random_walk, of_rows, without_plate]
