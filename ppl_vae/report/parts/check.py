"""From a check to the page: the verdict first, then everything that was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.names import answer_label, in_sentence
from ppl_vae.base.wording import with_error
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.reasons import Reason
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.prediction.predictive import Predictive
from ppl_vae.diagnostics.verdict.rule import Finding, Verdict
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.report.figures.calibration import calibration_panels
from ppl_vae.report.figures.collapse import COLLAPSE_CAPTION, collapse_bars
from ppl_vae.report.figures.common import densities, evidence_gap
from ppl_vae.report.figures.evidence import evidence_curves
from ppl_vae.report.figures.predictive import predictive_figures
from ppl_vae.report.page import Banner, Part, Picture, Section, Table, Tone, write_page
from ppl_vae.report.parts.comparison import comparison_part, cost_table, joint_table
from ppl_vae.report.parts.fit import fit_part, took
from ppl_vae.report.parts.numbers import numbers_of
from ppl_vae.report.parts.views import views_part

if TYPE_CHECKING:
    from ppl_vae.diagnostics.comparison.compare import Identifiable
    from ppl_vae.diagnostics.verdict.check import Check

__all__ = [
    "PARTS",
    "check_banner",
    "check_findings",
    "check_parts",
    "check_section",
    "evidence_pictures",
    "write_check",
]

TONES: dict[Verdict, Tone] = {
    "trust": "good",
    "reweight": "warn",
    "do not trust": "bad",
    "not a posterior": "warn",
}
URGENCY = {"fail": 0, "cannot tell": 1, "warn": 2, "pass": 3, "skipped": 4}
PACKAGES = ("ppl-vae", "torch", "pyro-ppl", "nutpie", "arviz-stats", "numpy")
# Units from which a histogram of gaps says more than their mean.
MANY_UNITS = 10
MOST_MOVED = 6
# Nats below which gaps of all units are shown as none.
SEEN = 1e-3
MOST_STATISTICS = 10


def write_check(
    found: Check, path: Path, title: str, *, identifiable: Identifiable | None = None, seed: int | None = None
) -> Path:
    """Write one self-contained HTML file about a check.

    Args:
        found: the check.
        path: of the file.
        title: of the page.
        identifiable: as it was given to `check`, or the model's own: the figures need the answers in the
            quantities that were compared.
        seed: of the check, to be named at the foot.

    Raises:
        InputError: if the file cannot be written.
    """
    section = check_section(found, title, identifiable=identifiable)
    return write_page(title, [section], path, about=about_check(found, seed))


def check_section(found: Check, name: str, *, identifiable: Identifiable | None = None) -> Section:
    """What the page says of a check: everything it has; what it lacks is left out.

    Args:
        found: the check.
        name: heading.
        identifiable: as for `write_check`.
    """
    parts = [*check_parts(found, identifiable=identifiable).values(), views_part(found.views())]
    return Section(name, check_banner(found), (), check_findings(found), [part for part in parts if part])


def check_banner(found: Check) -> Banner:
    """The verdict."""
    word = found.verdict.capitalize()
    return Banner(
        word,
        TONES[found.verdict],
        _sentence(found.reason),
        _sentence(found.next_step),
        numbers_of(found.measures, whole=found.index is None),
        made="" if math.isnan(found.seconds) else f"The checks took {found.spent()}.",
    )


def check_findings(found: Check) -> list[Finding]:
    """The checks, those that failed first."""
    told = [
        Finding(each.name, each.status, _sentence(each.sentence), each.seconds) for each in found.findings
    ]
    return sorted(told, key=lambda each: URGENCY[each.status])


def check_parts(
    found: Check,
    *,
    identifiable: Identifiable | None = None,
    image_shape: tuple[int, ...] | None = None,
) -> dict[str, Part]:
    """The parts of the section by name, in the page's order; parts without content are not there.

    Args:
        found: the check.
        identifiable: as for `write_check`.
        image_shape: (height, width) or (height, width, 3) where the data are images.
    """
    shown = Shown(found, identifiable, image_shape)
    parts = {"fit": _fit_part(found.fit)}
    parts |= {name: part(found.results.of(kind), shown) for kind, (name, part) in SECTIONS.items()}
    return {name: part for name, part in parts.items() if part}


@dataclass(frozen=True)
class Shown:
    """What parts of a section may need beside their answers: `check_parts`'s arguments."""

    found: Check
    identifiable: Identifiable | None = None
    image_shape: tuple[int, ...] | None = None


def about_check(found: Check, seed: int | None = None) -> list[str]:
    """The foot of the page: versions, budget, seed."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    budget = f"The checks took {found.spent()}"
    return [f"{budget}{'' if seed is None else f'; seed {seed}'}.", f"Versions: {versions}."]


def evidence_pictures(found: Mapping[str, Evidence]) -> list[Picture]:
    """How the estimates of log p(x) settle, and the gap of every unit."""
    pictures = []
    if sum(len(evidence.curve) > 0 for evidence in found.values()) and len(found) > 1:
        caption = (
            "log p(x) against the number of samples: sound estimates settle within their bands (± 2 standard "
            "errors); bad proposals climb for as long as they are fed, below the truth and too sure of it."
        )
        pictures.append(Picture(evidence_curves(found), caption))
    if "is" in found and found["is"].num_units >= MANY_UNITS and _has_gaps(found["is"]):
        caption = (
            "The ELBO's gap by unit: log p(x) by importance sampling less the ELBO. It is never negative "
            "but for noise, and wide gaps mark the data whose posterior the guide misses most."
        )
        pictures.append(Picture(evidence_gap(found["is"]), caption))
    return pictures


def _has_gaps(found: Evidence) -> bool:
    """Whether gaps have a spread to see: an exact guide's are what rounding leaves."""
    gaps = found.log_evidence - found.elbo if len(found.elbo) else np.zeros(1)
    return bool(np.isfinite(gaps).all() and np.ptp(gaps) > SEEN)


def _fit_part(fit: Fit | None) -> Part:
    if fit is None:
        return Part("The fit")
    units = fit.final.num_units
    ended = {True: " and came to rest", False: " and has not come to rest", None: ""}[fit.converged]
    sentence = (
        f"{took(fit.method, fit.steps, fit.seconds)}{ended}: {fit.reason}. The ELBO of the "
        f"training data is {with_error(fit.final.value, fit.final.std_error)} nats in all."
    )
    if fit.estimate is not None:
        sentence += f" {fit.estimate.sentence}"
    return fit_part([sentence], fit.elbo, fit.held_out, units, stopping=getattr(fit, "stopping", None))


def _comparison_part(posteriors: Mapping[str, Posterior], shown: Shown) -> Part:
    found, identifiable = shown.found, shown.identifiable
    answers = {
        name: answer.map(identifiable(answer.draws)) if identifiable else answer
        for name, answer in posteriors.items()
    }
    if found.comparison is None:
        return _without_reference(answers)
    reference = found.measures.reference
    sentences = [_sentence(_named(reason)) for reason in found.comparison.why]
    more = [joint_table(found.comparison.joint, reference), cost_table(found.comparison.costs)]
    return comparison_part(
        answers,
        reference,
        found.comparison.table,
        sentences=sentences,
        more=[table for table in more if table is not None],
    )


def _without_reference(answers: Mapping[str, Posterior]) -> Part:
    """The guide's draws beside the same draws, reweighted, which is all there is to hold them against."""
    title = "Reweighted, without a reference"
    if not {"svi", "reweighted"} <= answers.keys():
        return Part(title)
    own, mended = answers["svi"].summary(), answers["reweighted"].summary()
    shift = ((mended["mean"] - own["mean"]).abs() / own["sd"]).fillna(0.0)
    names = shift.sort_values(ascending=False, kind="stable").index[:MOST_MOVED].tolist()
    caption = (
        "The quantities whose mean the importance weights move most: where the curves lie on each other the "
        "weights find nothing to mend, and where they are apart the guide is off or the weights are noise."
    )
    return Part(title, (), (), [Picture(densities(answers, names), caption)])


def _calibration_part(found: Mapping[str, Calibration], _: Shown) -> Part:
    """One figure of ranks for each answer that was calibrated."""
    names = {name: in_sentence(name) for name in found}
    pictures = [
        Picture(
            calibration_panels(each),
            f"Simulation-based calibration of {names[name]}, the worst quantities first: each line should "
            "stay inside its grey band. A line that falls, then climbs and falls again belongs to draws that "
            "are too wide, its mirror image to draws that are too narrow, and a hill or a valley to draws "
            "that are off to one side.",
        )
        for name, each in found.items()
    ]
    sentences = [_sentence(f"{names[name]}: {each.sentence()}") for name, each in found.items()]
    return Part("Calibration on simulated data", sentences, (), pictures)


def _joined(title: str, parts: Iterable[Part]) -> Part:
    """Parts under one heading."""
    every = list(parts)
    return Part(
        title,
        [sentence for part in every for sentence in part.sentences],
        [table for part in every for table in part.tables],
        [picture for part in every for picture in part.pictures],
    )


def _predictive_part(each: Mapping[str, Predictive], shown: Shown) -> Part:
    found = (_predictive(one, shown.image_shape) for one in each.values())
    return _joined("Data replicated from the model", found)


def _predictive(found: Predictive, image_shape: tuple[int, ...] | None) -> Part:
    rows = found.table.head(MOST_STATISTICS)
    frame = pd.DataFrame(
        {
            "data": rows["observed"].to_numpy(),
            "replicated": [
                with_error(mean, sd).replace("-", "−")
                for mean, sd in zip(rows["replicated_mean"], rows["replicated_sd"], strict=True)
            ],
            "p, adjusted": rows["p_adjusted"].to_numpy(),
        },
        index=pd.Index(rows["statistic"], name="statistic"),
    )
    return Part(
        "",
        [_sentence(each) for each in (found.sentence(), *found.notes)],
        [Table("Test statistics, the most surprising first.", frame)],
        predictive_figures(found, image_shape),
    )


def _collapse_part(each: Mapping[str, Collapse], _: Shown) -> Part:
    sentences = [_sentence(text) for found in each.values() for text in (found.sentence(), *found.notes)]
    pictures = [Picture(collapse_bars(found), COLLAPSE_CAPTION) for found in each.values()]
    return Part("What the latents carry", sentences, (), pictures)


def _evidence_part(found: Mapping[str, Evidence], _: Shown) -> Part:
    sentences = [_say_evidence(name, each) for name, each in found.items()]
    sentences += dict.fromkeys(_sentence(note) for each in found.values() for note in each.notes)
    return Part("log p(x) and the gap", sentences, (), evidence_pictures(found) if found else [])


def _tables_part(found: Mapping[str, pd.DataFrame], _: Shown) -> Part:
    """The tables of checks that answer with one, under their names."""
    return Part("Further checks", (), [Table(_sentence(name), table) for name, table in found.items()])


# The parts of a section by the type of the answers that they show, in the page's order after the fit's.
SECTIONS: Mapping[type, tuple[str, Callable[[Mapping[str, Any], Shown], Part]]] = {
    Posterior: ("comparison", _comparison_part),
    Calibration: ("calibration", _calibration_part),
    Predictive: ("predictive", _predictive_part),
    Collapse: ("collapse", _collapse_part),
    Evidence: ("evidence", _evidence_part),
    pd.DataFrame: ("tables", _tables_part),
}
PARTS = ("fit", *(name for name, _ in SECTIONS.values()))


def _say_evidence(name: str, found: Evidence) -> str:
    unit = "a row, on average" if found.unit == "datum" else "in all"
    samples = f"{found.num_samples:,} samples" + (" a row" if found.unit == "datum" else "")
    how = {"exact": "exactly", "is": f"by importance sampling ({samples})"}
    value = with_error(found.mean, found.mean_std_error, 4)
    text = f"log p(x), {how.get(name, f'by {name}')}, is {value} nats {unit}"
    return (
        f"{text}; the ELBO is {found.mean - found.elbo.mean():.4f} below it."
        if len(found.elbo)
        else f"{text}."
    )


def _named(reason: Reason) -> str:
    return f"{answer_label(reason.answer)}: {reason.sentence}" if reason.answer else reason.sentence


def _sentence(text: str) -> str:
    """A fragment as a sentence: a capital and a full stop."""
    text = text.strip()
    if not text:
        return ""
    first = text if text.startswith(("k̂", "log ")) else text[0].upper() + text[1:]
    return first if first[-1] in ".!?…" else f"{first}."
