"""Gaussians over all unconstrained latents, and what brings them to the best of their family."""
