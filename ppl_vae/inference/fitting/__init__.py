"""The parts that a fit by SVI is made of; `ppl_vae.inference.fitting.svi` puts them together."""
