"""Do budgets hold? See ``python -m benchmarks.budgets --help``."""
