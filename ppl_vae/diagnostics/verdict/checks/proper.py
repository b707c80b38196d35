"""Whether a posterior under flat priors has an integral at all, where the guide's own family cannot tell."""

from __future__ import annotations

from ppl_vae.base.clock import OutOfTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.diagnostics.verdict.case import Case, Found, skipped
from ppl_vae.diagnostics.verdict.rule import Finding
from ppl_vae.engine.batches import NoCurvature
from ppl_vae.guides.named import named_guide
from ppl_vae.inference.fitting.gaussians.autoguides import is_gaussian
from ppl_vae.inference.fitting.gaussians.gaussian_fit import GaussianOptions, climb
from ppl_vae.inference.fitting.gaussians.proper import Improper
from ppl_vae.inference.fitting.gaussians.starts import best_start
from ppl_vae.inference.fitting.gaussians.target import target_of
from ppl_vae.inference.fitting.natural import MOST_DIMENSIONS, NaturalGradients
from ppl_vae.program.pair import Pair

__all__ = ["proper"]

# Of the time left, what the look may take.
SHARE = 0.15


def proper(case: Case) -> Found | None:
    """Whether independent normals, which are fitted for that alone, run away or find a direction without end.

    Of normal guides `best_of_family` says so. Without a flat prior nothing is looked for.
    """
    if is_gaussian(case.pair.guide) or not case.layout.improper:
        return None
    stage("check: whether the posterior has an integral", show=case.options.progress)
    pair, seed = Pair(case.pair.model, named_guide("mean-field", case.pair.model)), case.seed("proper")
    try:
        with deadline(SHARE * case.clock.left), target_of(pair, *case.data) as target:
            if target.dim <= MOST_DIMENSIONS:
                start = best_start(target, "best", seed)[0].at
                climb(NaturalGradients(), target, start, GaussianOptions(), seed)
    except OutOfTime:
        return Found(skipped("family"))
    except Improper as error:
        return Found(Finding("family", "fail", str(error)), {"improper": True})
    except (InputError, NoCurvature):
        # No way to tell is no finding.
        return None
    return None
