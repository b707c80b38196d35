"""The main job on embedded real data: three models fitted, compared, their evidence estimated."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ppl_vae.base.errors import InputError
from ppl_vae.base.names import answer_label
from ppl_vae.base.progress import stage
from ppl_vae.cli.tables import (
    comparison_table,
    console,
    evidence_table,
    fit_table,
    say_check,
    say_path,
    say_warnings,
    styled,
)
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.verdict.check import Check
from ppl_vae.runs.check_jobs import check_json, check_run
from ppl_vae.runs.evidence_jobs import EvidenceOptions, evidence_of_run
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.jobs import compare_run
from ppl_vae.runs.run import Run, settings_for
from ppl_vae.runs.summary import say_comparison, say_evidence, say_fit, say_other_data, write_report

__all__ = ["run_demo"]


# Seconds for the checks of each fit in a quick demo.
QUICK_BUDGET = 10.0


@dataclass(frozen=True)
class _Study:
    """One model on one data set, and what to ask of it; ``steps`` are the most."""

    model: str
    data: str
    steps: int
    quick_steps: int
    options: dict[str, Any]
    given: dict[str, Any]
    references: tuple[str, ...]
    draws: int
    quick_draws: int
    rows: slice | None = None
    budget: float = 30.0


STUDIES = (
    _Study("vae", "digits", 20_000, 600, {"latent_dim": 6}, {}, ("nuts",), 400, 40, slice(0, 100)),
    _Study("ppca", "iris", 20_000, 1500, {}, {}, ("nuts", "exact"), 250, 100),
    _Study("trueskill", "al-east-1987", 20_000, 1500, {"link": "logistic"}, {}, ("nuts",), 300, 80),
)


def run_demo(
    out: Path, *, quick: bool = False, seed: int = 0, show: bool = True, progress: bool = True
) -> dict[str, Any]:
    """Fit, compare and estimate; print three tables and what they show; write report.html.

    Args:
        out: folder for one run a model and the report; runs of an earlier demo there are replaced.
        quick: fewer steps and draws.
        seed: of everything random.
        show: whether to print anything but progress.
        progress: whether to show how far it has come, on stderr.

    Returns:
        All results, as the commands' ``--json`` would give them.

    Raises:
        InputError: if the folder holds something else.
    """
    start = time.perf_counter()
    if out.exists() and any(entry.name not in _ours() for entry in out.iterdir()):
        raise InputError(f"{out} holds files of something else than a demo; give another --out")
    screen = console() if show else Console(quiet=True)
    results: dict[str, Any] = {}
    comparisons: list[tuple[str, Comparison]] = []
    verdicts: list[tuple[str, Check]] = []
    runs = []
    for study in STUDIES:
        screen.print(styled(study.model), f"on {study.data}: fitting by SVI …")
        steps = study.quick_steps if quick else study.steps
        stage(f"{study.model} on {study.data}", show=progress)
        settings = settings_for(
            study.model, study.data, {"steps": steps, "seed": seed, **study.given}, study.options
        )
        fitted = fit_run(settings, out / study.model, overwrite=True, progress=progress)
        run = Run.open(out / study.model)
        runs.append(run)
        say_warnings(run.warnings)
        draws = study.quick_draws if quick else study.draws
        compared = {}
        for reference in study.references:
            screen.print(f"  comparing with {reference} …")
            found, compared[reference] = compare_run(
                run, against=reference, draws=draws, warmup=draws, progress=progress
            )
            title = f"{study.model} on {study.data}: SVI against {answer_label(reference)}"
            comparisons.append((title, found))
        screen.print("  estimating log p(x) …")
        methods = ("exact", "is", "ais") if "exact" in study.references else ("is", "ais")
        asked = EvidenceOptions(methods, samples=200 if quick else 1000, temperatures=50 if quick else 200)
        estimated = evidence_of_run(run, asked, rows=study.rows, progress=progress)
        evidence = estimated.result["methods"]
        screen.print("  checking whether to trust it …")
        checked = check_run(run, budget=QUICK_BUDGET if quick else study.budget, progress=progress)
        verdicts.append((f"{study.model} on {study.data}", checked))
        results[study.model] = {
            "fit": fitted,
            "compare": compared,
            "evidence": evidence,
            "flags": estimated.result["flags"],
            "check": check_json(checked),
        }
    stage("the page", show=progress)
    report = write_report(runs, out / "report.html", title="ppl_vae: VAE, PPCA and TrueSkill by SVI, checked")
    results["report"] = str(report)
    results["seconds"] = time.perf_counter() - start
    _show(screen, results, comparisons, verdicts)
    return results


def _show(
    screen: Console,
    results: dict[str, Any],
    comparisons: list[tuple[str, Comparison]],
    verdicts: list[tuple[str, Check]],
) -> None:
    named = [(f"{study.model} on {study.data}", results[study.model]) for study in STUDIES]
    screen.print()
    screen.print(fit_table([(name, result["fit"]) for name, result in named], width=screen.width))
    for name, result in named:
        screen.print(f"{name}: {say_fit(result['fit'])}")
    for title, found in comparisons:
        screen.print()
        screen.print(comparison_table(found, title, max_rows=5, width=screen.width))
        study = title.split(" on ")[0]
        screen.print(say_comparison(results[study]["compare"][found.reference]))
    screen.print()
    rows = [
        (f"{study.model}, {method}", each)
        for study in STUDIES
        for method, each in results[study.model]["evidence"].items()
    ]
    screen.print(evidence_table(rows, width=screen.width))
    for name, result in named:
        for each in result["evidence"].values():
            screen.print(f"{name}: {say_evidence(each)}")
        if other := say_other_data(result["evidence"]):
            screen.print(f"{name}: {other}")
    for name, result in named:
        for flag in result["flags"]:
            screen.print(styled("Flag:", "yellow"), f"{name}: {flag}.")
    for name, checked in verdicts:
        screen.print()
        screen.print(styled(name))
        say_check(screen, checked)
    screen.print()
    say_path(screen, f"Report, after {results['seconds']:.0f} s", results["report"])


def _ours() -> set[str]:
    return {study.model for study in STUDIES} | {"report.html"}
