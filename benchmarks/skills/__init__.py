"""Studies of the models of skills: ``python -m benchmarks.skills STUDY``."""
