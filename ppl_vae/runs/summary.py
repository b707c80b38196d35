"""From a run's folder to a report: which figures belong to it, and what to say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import read_json, reading
from ppl_vae.base.names import evidence_in_sentence, in_sentence
from ppl_vae.base.options import changed
from ppl_vae.base.wording import data_in_words, each_or_all, rows_in_words, with_error
from ppl_vae.data.games import Games
from ppl_vae.data.rows import Rows
from ppl_vae.diagnostics.comparison.quantities import Quantities
from ppl_vae.diagnostics.comparison.reasons import reasons_in
from ppl_vae.diagnostics.latents.gaps import Gaps
from ppl_vae.diagnostics.verdict.outcome import Check
from ppl_vae.inference.fitting.fit_result import EvidenceEstimate
from ppl_vae.inference.fitting.stopping import Stopping
from ppl_vae.report.figures.gap import gap_bars
from ppl_vae.report.page import Banner, Part, Picture, Section, Table, Tone, write_page
from ppl_vae.report.parts.check import PARTS, check_banner, check_findings, check_parts, evidence_pictures
from ppl_vae.report.parts.comparison import comparison_part
from ppl_vae.report.parts.fit import fit_part, took
from ppl_vae.report.parts.views import views_part
from ppl_vae.runs.fit_job import converged_of
from ppl_vae.runs.next_command import next_command
from ppl_vae.runs.run import METHODS, Run
from ppl_vae.runs.shown import views_of_run

__all__ = [
    "say_comparison",
    "say_evidence",
    "say_fit",
    "say_gaps",
    "say_other_data",
    "write_report",
]


def write_report(runs: Sequence[Run], path: Path, *, title: str) -> Path:
    """Write one self-contained HTML file about some fitted runs.

    What a run has not been asked for yet (comparison, evidence) is left out.

    Raises:
        InputError: if a run has no folder, or the page cannot be written.
    """
    sections = [_section(run) for run in runs]
    return write_page(title, sections, path, about=_about(runs))


def say_fit(fit: Mapping[str, Any]) -> str:
    """A fit in a sentence."""
    units = fit["num_units"]
    ended = {
        True: " and converged",
        False: " and has not converged",
        None: ", as many as were asked for (whether it converged is not judged then)",
    }[converged_of(fit)]
    elbo = with_error(fit["elbo_mean"], fit["elbo_std_error"] / units)
    return (
        f"{took(fit.get('method', 'SVI'), fit['steps'], fit['seconds'])}{ended}: {fit['reason']}. "
        f"The ELBO of the training data is {elbo} nats {each_or_all(units)}, a reconstruction of "
        f"{fit['reconstruction'] / units:.3f} less a KL of {fit['kl'] / units:.3f}.{_estimated(fit)}"
    )


def _estimated(fit: Mapping[str, Any]) -> str:
    """What a method without a bound says of log p(x), which the curve shows."""
    if not (estimate := fit.get("estimate")):
        return ""
    return f" {EvidenceEstimate.from_json(estimate).sentence}"


def say_comparison(comparison: Mapping[str, Any]) -> str:
    """A comparison in a sentence or two."""
    against = _reference(comparison["reference"])
    verdict = {
        "agrees": f"The variational posterior agrees with {against}",
        "differs": f"The variational posterior differs from {against}",
        "cannot tell": f"Whether the variational posterior agrees with {against} cannot be told",
    }[comparison["verdict"]]
    reasons = [reason.sentence for reason in reasons_in(comparison) if reason.answer in ("", "svi")]
    return f"{verdict}: {'; '.join(reasons)}."


def say_evidence(evidence: Mapping[str, Any]) -> str:
    """One method's evidence in a sentence."""
    unit = "a datum" if evidence["unit"] == "datum" else "in all"
    error = evidence["std_error_mean"]
    mean, elbo = evidence["log_evidence_mean"], evidence.get("elbo_mean")
    # JSON knows no −∞, which is the log of no weight at all.
    value = "−∞" if mean is None else with_error(mean, error, 4)
    data = f"of {data_in_words(evidence)}"
    draws = f"{evidence['num_samples']:,}"
    how = evidence_in_sentence(evidence["method"], draws, evidence["proposal"])
    text = f"log p(x) {data} is {value} nats {unit}, {how}"
    if evidence["method"] == "is" and mean is not None and elbo is not None:
        text += f"; the ELBO is {mean - elbo:.3f} nats below it"
    if "ess" not in evidence:
        return f"{text}."
    alarms = evidence["num_alarms"]
    if not alarms:
        return f"{text}; no weights raise an alarm."
    whose = f"of {alarms:,} of {evidence['num_units']:,} units " if evidence["unit"] == "datum" else ""
    return f"{text}; the weights {whose}cannot be trusted (k̂ and ESS)."


def say_other_data(evidence: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A sentence where the fit's ELBO and log p(x) are of other data, so that the first may be the larger."""
    other = [data_in_words(each) for each in evidence.values()
             if each["unit"] == "datum" and (each["data"] != "train" or each.get("chosen_rows"))]  # fmt: skip
    if not other:
        return None
    return (
        "The fit's ELBO is of the training data and log p(x) of "
        f"{' or '.join(dict.fromkeys(other))}: of other data, so that either may be the larger. The ELBO "
        "beside log p(x) is of the same rows."
    )


def say_gaps(gaps: Mapping[str, Any]) -> str:
    """A gap taken apart, in a sentence."""
    mean = {row["name"]: row["mean"] for row in gaps["rows"]}
    lacking = "amortisation gap" if gaps["amortised"] else "optimisation gap"
    total = f"Over {rows_in_words(gaps['split'], gaps)} the ELBO lacks {mean['gap']:.3f} nats a row"
    if lacking not in mean:  # the gap was not taken apart, and the first note says why
        return f"{total}; {gaps['notes'][0]}."
    return (
        f"{total}: "
        f"{mean['approximation gap']:.3f} because of the guide's family (approximation gap) and "
        f"{mean[lacking]:.3f} because of its {'network' if gaps['amortised'] else 'parameters'} ({lacking}). "
        f"The best full-covariance guide of each row would lack {mean['gap, best full covariance']:.3f}, the "
        f"best flow {mean['gap, best flow']:.3f}."
    )


def _reference(method: str) -> str:
    """A reference in a sentence; draws in a file go by the library that wrote them."""
    return in_sentence(method, f"the draws of {method}")


def _section(run: Run) -> Section:
    if run.folder is None:
        raise InputError("a report needs a run that was saved")
    with reading(f"a file of the run {run.folder}"):
        return _parts_of(run)


def _parts_of(run: Run) -> Section:
    """The section of a saved run, whose files may hold anything."""
    assert run.folder is not None
    comparison = read_json(run.folder / "compare.json")
    parts = {
        "fit": _fit_part(run, read_json(run.folder / "fit.json")),
        "comparison": _comparison_part(run, comparison),
        "evidence": _evidence_part(run),
    }
    last = [
        views_part(views_of_run(run)),
        Part("What was asked for", (), [Table("The fit's settings.", _settings_table(run))]),
    ]
    if not (run.folder / "check.json").exists():
        banner = replace(_banner(run, comparison), made=_made(run))
        return Section(_name(run), banner, parts=[*parts.values(), *last])
    found = Check.load(run.folder)
    identifiable = Quantities(run.model, None, local=found.index is not None).functions
    image_shape = run.source.image_shape if isinstance(run.source, Rows) else None
    checked = check_parts(found, identifiable=identifiable, image_shape=image_shape)
    # What was estimated on its own is more careful than what a check had time for.
    if parts["evidence"] and "is" in found.evidence:
        # Two values of one gap would else contradict each other on one page.
        own = found.evidence["is"]
        said = (
            "The gap among the checks above is an estimate of their own, "
            + (f"over {own.num_units:,} rows and " if own.unit == "datum" else "")
            + f"by {own.num_samples:,} other draws."
        )
        parts["evidence"] = replace(parts["evidence"], sentences=[*parts["evidence"].sentences, said])
    parts = checked | {name: part for name, part in parts.items() if part and name != "comparison"}
    ordered = [parts[name] for name in PARTS if name in parts]
    banner = check_banner(found)
    banner = replace(banner, made=f"{_made(run)} {banner.made}", command=next_command(run, found))
    return Section(_name(run), banner, findings=check_findings(found), parts=[*ordered, *last])


def _name(run: Run) -> str:
    return f"{run.settings.model} on {Path(run.settings.data).name}"


def _banner(run: Run, comparison: Mapping[str, Any]) -> Banner:
    """The verdict of a comparison, which is less than that of a check."""
    check = f"`ppl-vae check {run.folder}` runs every check and gives a verdict."
    if not comparison:
        return Banner("Not checked yet", "neutral", "The fit was compared with nothing.", check)
    tones: dict[str, Tone] = {"agrees": "good", "differs": "bad", "cannot tell": "neutral"}
    reference = _reference(comparison["reference"])
    words = {
        "agrees": f"Agrees with {reference}",
        "differs": f"Differs from {reference}",
        "cannot tell": "Cannot tell",
    }
    verdict = comparison["verdict"]
    return Banner(words[verdict], tones[verdict], say_comparison(comparison), check)


def _made(run: Run) -> str:
    """When the fit was made, by the date of its file, and how."""
    assert run.folder is not None
    path = run.folder / "fit.json"
    if not path.exists():
        return "Not fitted to its end."
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return (
        f"Fitted on {when:%Y-%m-%d %H:%M} UTC with the {run.settings.guide} guide, seed {run.settings.seed}."
    )


def _about(runs: Sequence[Run]) -> list[str]:
    """Versions and seeds, as the runs' folders have them."""
    lines = [f"Seeds: {', '.join(f'{_name(run)} {run.settings.seed}' for run in runs)}."]
    assert runs[0].folder is not None
    versions = read_json(runs[0].folder / "config.json").get("versions", {})
    if versions:
        lines.append(f"Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}.")
    return lines


def _fit_part(run: Run, fit: Mapping[str, Any]) -> Part:
    assert run.folder is not None
    if not fit:
        return Part("The fit")
    return fit_part(
        [say_fit(fit)],
        pd.read_csv(run.folder / "elbo.csv")["elbo"].to_numpy(),
        pd.read_csv(run.folder / "held-out.csv").to_numpy(dtype=float),
        fit["num_units"],
        kl_warmup=run.settings.fit.kl_warmup,
        stopping=Stopping.from_json(fit["stopping"]) if fit.get("stopping") else None,
    )


def _comparison_part(run: Run, comparison: Mapping[str, Any]) -> Part:
    if not comparison:
        return Part("Against the reference")
    rows = pd.DataFrame(comparison["rows"]).rename(columns={"mean_svi": "mean", "sd_svi": "sd"})
    table = rows.assign(answer="svi")
    answers = _answers(run, Quantities(run.model, None, local=comparison.get("data") is not None))
    reference = {"exact": "exact", "nuts": "nuts", "hmc": "nuts"}.get(comparison["reference"], "foreign")
    return comparison_part(
        answers,
        reference,
        table,
    )


def _evidence_part(run: Run) -> Part:
    assert run.folder is not None
    paths = {method: run.folder / f"evidence-{method}.nc" for method in METHODS if method != "bdmc"}
    found = {method: Evidence.load(path) for method, path in paths.items() if path.exists()}
    results = read_json(run.folder / "evidence.json")
    sentences = [say_evidence(result) for result in results.values()]
    notes = (note for result in results.values() for note in result.get("notes", ()))
    sentences += dict.fromkeys(
        f"{note if note.startswith('log ') else note[:1].upper() + note[1:]}." for note in notes
    )
    if other := say_other_data(results):
        sentences.append(other)
    pictures = evidence_pictures(found)
    if gaps := read_json(run.folder / "gaps.json"):
        sentences.append(say_gaps(gaps))
    if (path := run.folder / "gaps.nc").exists():
        caption = (
            "The gap taken apart: what the guide's family costs, what the network costs on top of it, and "
            "what the best guides of richer families would still lack."
        )
        pictures.append(Picture(gap_bars(Gaps.load(path)), caption))
    return Part("log p(x) and the gap", sentences, (), pictures)


def _answers(run: Run, quantities: Quantities) -> dict[str, Posterior]:
    """Every posterior that the folder holds, in the quantities that were compared."""
    assert run.folder is not None
    paths = {name: run.folder / f"posterior-{name}.nc" for name in ("svi", "nuts", "exact", "foreign")}
    answers = {name: Posterior.load(path) for name, path in paths.items() if path.exists()}
    functions = quantities.functions
    if functions is None:
        return answers
    return {name: answer.map(functions(answer.draws)) for name, answer in answers.items()}


def _history(run: Run) -> dict[str, str]:
    """What was done to rows, or how a table of games was read."""
    if isinstance(run.source, Games):
        return {"read": "; ".join(run.source.history)} if run.source.history else {}
    return {"preprocessing": "; ".join(run.source.history) if isinstance(run.source, Rows) else "none"}


def _settings_table(run: Run) -> pd.DataFrame:
    settings = run.settings
    chosen: dict[str, Any] = {
        "model": settings.model,
        "guide": settings.guide,
        "data": Path(settings.data).name,
        "options": ", ".join(f"{name}={value}" for name, value in changed(settings.options).items())
        or "defaults",
        **_history(run),
        "method": settings.fit.method,
    }
    if settings.fit.method in ("svi", "auto"):  # other methods have none of these
        chosen |= {
            "steps, at most" if settings.fit.stop else "steps": f"{settings.fit.num_steps:,}",
            "batch size": settings.fit.batch_size or "all",
            "learning rate": settings.fit.lr,
        }
    chosen["seed"] = settings.seed
    index = pd.Index(list(chosen), name="setting")
    return pd.DataFrame({"value": [str(value) for value in chosen.values()]}, index=index)
