"""The other sides: the same work done by Pyro as it comes, PyTorch by hand, and NumPyro."""
