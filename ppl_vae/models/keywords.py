"""The options of all models as keywords, for functions that fit any of them."""

from ppl_vae.models.bayesian_mixture import BayesianMixtureKeywords
from ppl_vae.models.bayesian_ppca import BayesianPPCAKeywords
from ppl_vae.models.conditional_vae import ConditionalVAEKeywords
from ppl_vae.models.factor_analysis import FactorAnalysisKeywords
from ppl_vae.models.hierarchical_options import HierarchicalVAEKeywords
from ppl_vae.models.mixture_options import GaussianMixtureKeywords
from ppl_vae.models.ppca import PPCAKeywords
from ppl_vae.models.skills.options import SkillsKeywords
from ppl_vae.models.skills.trueskill import TrueSkillKeywords
from ppl_vae.models.vae import VAEKeywords

__all__ = ["ModelKeywords"]


class ModelKeywords(
    BayesianMixtureKeywords,
    BayesianPPCAKeywords,
    ConditionalVAEKeywords,
    FactorAnalysisKeywords,
    GaussianMixtureKeywords,
    HierarchicalVAEKeywords,
    PPCAKeywords,
    SkillsKeywords,
    TrueSkillKeywords,
    VAEKeywords,
    total=False,
):
    """Every option of every model of the suite; a model refuses those that are not its own."""
