from .bayesian_mixture import BayesianMixture as BayesianMixture
from .bayesian_ppca import BayesianPPCA as BayesianPPCA
from .conditional_vae import ConditionalVAE as ConditionalVAE
from .factor_analysis import FactorAnalysis as FactorAnalysis
from .gaussian_mixture import GaussianMixture as GaussianMixture
from .hierarchical_vae import HierarchicalVAE as HierarchicalVAE
from .ppca import PPCA as PPCA
from .skills.model import Skills as Skills
from .skills.trueskill import TrueSkill as TrueSkill
from .suite import SUITE as SUITE
from .vae import VAE as VAE

__all__: list[str]
