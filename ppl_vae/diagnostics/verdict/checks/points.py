"""Whether the guide is a point in some latent, which leaves nothing to be judged."""

from ppl_vae.base.clock import OutOfTime, deadline
from ppl_vae.base.watch import watched
from ppl_vae.base.wording import in_words
from ppl_vae.diagnostics.verdict.case import Case, Found
from ppl_vae.diagnostics.verdict.rule import Finding
from ppl_vae.program.point_mass import point_masses

__all__ = ["points"]


def points(case: Case) -> Found | None:
    """The sites of which every draw is the same.

    Raises:
        TooLittleTime: where not even that can be seen in time.
    """
    try:
        with deadline(case.clock.left), watched():
            found = point_masses(case.problem)
    except OutOfTime:
        raise case.clock.too_short() from None
    if not found:
        return None
    sites = in_words(found)
    estimate = "estimate" if len(found) == len(case.layout.latents) else f"estimate of {sites}"
    said = (
        f"every draw of {sites} is the same: the guide is a point there, which is an {estimate} and no "
        "posterior"
    )
    return Found(Finding("guide", "fail", said), {"points": found})
