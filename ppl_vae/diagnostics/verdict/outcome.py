"""What a whole check found: the verdict, the findings behind it, and every answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.files import reading
from ppl_vae.base.notebook import Tone, banner, panel, paragraph, table
from ppl_vae.base.plain import from_plain, plain
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.prediction.predictive import Predictive
from ppl_vae.diagnostics.verdict.check_files import read_check, write_check
from ppl_vae.diagnostics.verdict.results import Results
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures, Verdict
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.views import View

__all__ = ["Check"]


_TONES: dict[Verdict, Tone] = {
    "trust": "good",
    "reweight": "warn",
    "do not trust": "bad",
    "not a posterior": "bad",
}


@dataclass(frozen=True, eq=False, repr=False)
class Check:
    """What the checks found, and what follows.

    Attributes:
        decision: the verdict, its reason, and the names of the failing checks.
        next_step: the cheapest thing to do now, in a sentence.
        advice: its kind, an `AdviceKey`; "" in checks that were saved before 0.2.
        guide: the guide that it names first; "" for none.
        findings: one for each check, in the order in which they were made.
        measures: the numbers that the rule read; ``decide(check.measures, rule)`` tries another rule.
        results: what the checks answered, by type and name; the properties below are its usual parts.
        fit: what SVI did, where it was run.
        index: the rows that were compared; None where the data set has one posterior.
        seconds: what it all took.
        budget: what it might have taken.
        views: makes what model and guide have to show; not among what `save` keeps.
    """

    decision: Decision
    next_step: str
    findings: tuple[Finding, ...]
    measures: Measures
    results: Results = field(default_factory=Results)
    fit: Fit | None = None
    index: tuple[int, ...] | None = None
    seconds: float = float("nan")
    budget: float = float("nan")
    advice: str = ""
    guide: str = ""
    views: Callable[[], tuple[View, ...]] = tuple

    @property
    def answers(self) -> Mapping[str, Posterior]:
        """Posteriors by name: "svi", "reweighted", and "exact", "nuts" or "given"."""
        return self.results.of(Posterior)

    @property
    def comparison(self) -> Comparison | None:
        """Of the first two with the third."""
        return self.results.only(Comparison)

    @property
    def evidence(self) -> Mapping[str, Evidence]:
        """log p(x) by method."""
        return self.results.of(Evidence)

    @property
    def calibration(self) -> Mapping[str, Calibration]:
        """Of the guide ("guide") and the sampler ("nuts") over simulated data."""
        return self.results.of(Calibration)

    @property
    def predictive(self) -> Predictive | None:
        """Of the model's predictions under the guide."""
        return self.results.only(Predictive)

    @property
    def collapse(self) -> Collapse | None:
        """Of the latents of every row."""
        return self.results.only(Collapse)

    @property
    def verdict(self) -> Verdict:
        """ "trust", "reweight", "do not trust" or "not a posterior"."""
        return self.decision.verdict

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        return self.decision.reason

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(finding for finding in self.findings if finding.status == "fail")

    @property
    def cut(self) -> tuple[str, ...]:
        """Names of the findings that depend on the time that things took: with the same seed all others are
        the same. Where the time ended SVI, that is all of them.
        """
        late = [finding.name for finding in self.findings if finding.cut]
        return tuple(finding.name for finding in self.findings) if "convergence" in late else tuple(late)

    def spent(self) -> str:
        """How the budget was used, in a sentence."""
        text = f"{self.seconds:.0f} s of a budget of {self.budget:.0f} s"
        late = [finding.name for finding in self.findings if finding.cut]
        if not late:
            return text
        of_all = ", and every number with it" if "convergence" in late else ""
        return f"{text}; what it cut short depends on the time that things take{of_all}: {', '.join(late)}"

    def save(self, folder: Path) -> None:
        """Keep it in a folder, beside a run's other files or alone."""
        content = {
            "verdict": self.verdict,
            "reason": self.reason,
            "criterion": self.decision.criterion,
            "failing": list(self.decision.failing),
            "next_step": self.next_step,
            "advice": self.advice,
            "guide": self.guide,
            "findings": plain(self.findings),
            "measures": self.measures.to_json(),
            "rows": plain(self.index),
            "seconds": self.seconds,
            "budget": self.budget,
        }
        write_check(folder, content, self.results)

    @classmethod
    def load(cls, folder: Path) -> Check:
        """Read what `save` wrote; ``fit`` and ``views`` are not among it.

        Raises:
            InputError: if the folder holds no check, or a damaged one.
        """
        content, results = read_check(folder)
        with reading(f"the check in {folder}"):
            parts = {"decision": content, "index": content["rows"], "results": results}
            return from_plain(cls, {**content, **parts}, loose=True)

    def __repr__(self) -> str:
        failing = ", ".join(finding.name for finding in self.failing) or "none"
        return f"Check({self.verdict}: {len(self.findings)} checks, failing: {failing}; {self.seconds:.0f} s)"

    def _repr_html_(self) -> str:
        """How a notebook shows it: the verdict, its reason, the next step, and every finding."""
        findings = [(finding.status, finding.name, finding.sentence) for finding in self.findings]
        return panel(
            "Can this fit be trusted?",
            banner(self.verdict.upper(), _TONES[self.verdict], f"{self.reason}."),
            paragraph(f"Next step: {self.next_step}."),
            table(["found", "check", "what"], findings),
            paragraph(f"({self.spent()})"),
        )

    def __str__(self) -> str:
        lines = [f"Verdict: {self.verdict.upper()} — {self.reason}.", f"Next step: {self.next_step}."]
        lines += [f"  {finding.status:>11}  {finding.name}: {finding.sentence}" for finding in self.findings]
        return "\n".join([*lines, f"({self.spent()})"])
