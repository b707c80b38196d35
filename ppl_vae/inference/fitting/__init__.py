"""The parts that a fit by SVI is made of; `ppl_vae.inference.svi` puts them together."""
