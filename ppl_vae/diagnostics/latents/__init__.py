"""Latents that carry nothing, and the parts of a guide's gap."""
