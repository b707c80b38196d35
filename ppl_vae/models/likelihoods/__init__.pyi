from .base import LIKELIHOODS as LIKELIHOODS
from .base import Likelihood as Likelihood
from .bernoulli import Bernoulli as Bernoulli
from .gaussian import Gaussian as Gaussian
from .named import make_likelihood as make_likelihood
from .probit import BernoulliProbit as BernoulliProbit
