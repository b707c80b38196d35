"""Studies of the models that the lectures teach, one file each: ``python -m benchmarks.lectures NAME``."""
