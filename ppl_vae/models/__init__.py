"""The suite's models, one family a file. Each class in ``SUITE`` is on the command line."""

from ppl_vae.models.base import SuiteModel
from ppl_vae.models.bayesian_ppca import BayesianPPCA
from ppl_vae.models.ppca import PPCA
from ppl_vae.models.trueskill import TrueSkill
from ppl_vae.models.vae import VAE

__all__ = ["PPCA", "VAE", "BayesianPPCA", "TrueSkill"]

SUITE: tuple[type[SuiteModel], ...] = (BayesianPPCA, PPCA, TrueSkill, VAE)
