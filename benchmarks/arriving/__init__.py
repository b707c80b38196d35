"""Whether variational inference arrives at the optimum of its family, and how soon.

Run as ``python -m benchmarks.arriving``. Five parts, a table each: full-rank guides of 23 posteriors,
the time that Adam in Pyro and NumPyro takes to the same ELBO, mean-field guides, the skills of 107 players,
and a regression whose log p(x) is known. Times are the process's CPU time, imports excluded, tracing and
compiling included.
"""
