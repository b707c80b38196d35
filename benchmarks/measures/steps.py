"""One step of SVI.

Both sides first run with a learning rate of nothing, from the same parameters: the losses that they
report must then have the same mean, within Monte Carlo error.
"""

from benchmarks import harness, ours, problems
from benchmarks.harness import Measured, same_loss
from benchmarks.peers import by_hand, numpyro_runs, stock_pyro
from benchmarks.problems import Fitting

STILL = 1e-12


def vae_against_pyro(repeats: int) -> Measured:
    return _against_pyro(problems.vae(), repeats, ours_steps=(50, 850), peer_steps=150)


def skills_against_pyro(repeats: int) -> Measured:
    return _against_pyro(problems.skills(), repeats, ours_steps=(2_000, 42_000), peer_steps=1_000)


def ppca_against_pyro(repeats: int) -> Measured:
    return _against_pyro(problems.ppca(), repeats, ours_steps=(2_000, 42_000), peer_steps=1_000)


def vae_against_loop(repeats: int) -> Measured:
    problem = problems.vae()
    same_loss(ours.still(problem, 200), by_hand.TrainingLoop(problem, STILL).run(200))
    return _measure(problem, by_hand.TrainingLoop(problem).run, repeats, (50, 850), 300)


def vae_against_products(repeats: int) -> Measured:
    problem = problems.vae()
    products = by_hand.TrainingProducts(problem)
    products.check()
    return _measure(problem, products.run, repeats, (50, 850), 300)


def skills_against_numpyro(repeats: int) -> Measured:
    numpyro_runs.prepare()
    problem = problems.skills()
    same_loss(ours.still(problem, 500), numpyro_runs.skills(problem, STILL).run(2_000))
    return _measure(problem, numpyro_runs.skills(problem).run, repeats, (2_000, 42_000), 20_000)


def ppca_against_numpyro(repeats: int) -> Measured:
    numpyro_runs.prepare()
    problem = problems.ppca()
    same_loss(ours.still(problem, 500), numpyro_runs.ppca(problem, STILL).run(2_000))
    return _measure(problem, numpyro_runs.ppca(problem).run, repeats, (2_000, 42_000), 20_000)


def _against_pyro(problem: Fitting, repeats: int, ours_steps: tuple[int, int], peer_steps: int) -> Measured:
    same_loss(ours.still(problem, 200), stock_pyro.Steps(problem, STILL).run(200))
    return _measure(problem, stock_pyro.Steps(problem).run, repeats, ours_steps, peer_steps)


def _measure(problem: Fitting, peer, repeats: int, ours_steps: tuple[int, int], peer_steps: int) -> Measured:
    return harness.in_turn(
        ours.seconds_per_step(problem, *ours_steps),
        lambda: harness.seconds(lambda: peer(peer_steps)) / peer_steps,
        repeats,
    )
