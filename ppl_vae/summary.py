"""From a run's folder to a report: which figures belong to it, and what to say of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ppl_vae.data import Rows
from ppl_vae.diagnostics import Gaps
from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.guides import AmortisedNormal
from ppl_vae.models import VAE, TrueSkill
from ppl_vae.models.vae import interpolate, reconstruct
from ppl_vae.posterior import Posterior
from ppl_vae.program import HasIdentifiable
from ppl_vae.report import Picture, Section, figures, write_page
from ppl_vae.report.evidence_figure import evidence_curves
from ppl_vae.report.gap_figure import gap_bars
from ppl_vae.rng import seeded
from ppl_vae.run import METHODS, Run

__all__ = ["say_comparison", "say_evidence", "say_fit", "say_gaps", "write_report"]

NUM_IMAGES = 10
NUM_QUANTITIES = 16


def write_report(runs: Sequence[Run], path: Path, *, title: str) -> Path:
    """Write one self-contained HTML file about some fitted runs.

    What a run has not been asked for yet (comparison, evidence) is left out.

    Raises:
        InputError: if a run has no folder, or the page cannot be written.
    """
    sections, summary = [], []
    for run in runs:
        section, sentence = _section(run)
        sections.append(section)
        summary.append(sentence)
    return write_page(title, summary, sections, path)


def say_fit(fit: Mapping[str, Any]) -> str:
    """A fit in a sentence."""
    units = fit["num_units"]
    ended = "converged" if fit["converged"] else "has not converged"
    return (
        f"SVI took {fit['steps']} steps and {fit['seconds']:.0f} s and {ended}: {fit['reason']}. The ELBO is "
        f"{fit['elbo_mean']:.3f} ± {fit['elbo_std_error'] / units:.3f} nats a unit, a reconstruction of "
        f"{fit['reconstruction'] / units:.3f} less a KL of {fit['kl'] / units:.3f}."
    )


def say_comparison(comparison: Mapping[str, Any]) -> str:
    """A comparison in a sentence or two."""
    names = {"nuts": "NUTS", "hmc": "many chains of HMC", "exact": "the exact posterior"}
    against = names[comparison["reference"]]
    verdict = {
        "agrees": f"The variational posterior agrees with {against}",
        "differs": f"The variational posterior differs from {against}",
        "cannot tell": f"Whether the variational posterior agrees with {against} cannot be told",
    }[comparison["verdict"]]
    reasons = "; ".join(reason.removeprefix("svi: ") for reason in comparison["reasons"])
    return f"{verdict}: {reasons}."


def say_evidence(evidence: Mapping[str, Any]) -> str:
    """One method's evidence in a sentence."""
    unit = "a datum" if evidence["unit"] == "datum" else "in all"
    error = evidence["std_error_mean"]
    mean, elbo = evidence["log_evidence_mean"], evidence.get("elbo_mean")
    # JSON knows no −∞, which is the log of no weight at all.
    value = "−∞" if mean is None else f"{mean:.4f}" + (f" ± {error:.4f}" if error else "")
    data = f"of the {Path(evidence['data']).name} data ({evidence['num_units']:,} units)"
    data = data if evidence["unit"] == "datum" else f"of the {Path(evidence['data']).name} data"
    draws, proposal = f"{evidence['num_samples']:,}", evidence["proposal"]
    how = {
        "exact": "exact",
        "is": f"by importance sampling ({draws} samples from the {proposal})",
        "defensive": f"by importance sampling ({draws} samples from {proposal})",
        "prior": f"by simple Monte Carlo ({draws} samples from the prior)",
        "iwae": f"at least, by the IWAE bound of {draws} samples",
        "ais": f"by annealed importance sampling ({draws} chains, from the {proposal})",
        "bridge": f"by bridge sampling between NUTS and the guide ({draws} samples)",
    }[evidence["method"]]
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


def say_gaps(gaps: Mapping[str, Any]) -> str:
    """A gap taken apart, in a sentence."""
    mean = {row["name"]: row["mean"] for row in gaps["rows"]}
    lacking = "amortisation gap" if gaps["amortised"] else "optimisation gap"
    return (
        f"Over {gaps['num_units']} {gaps['split']} rows the ELBO lacks {mean['gap']:.3f} nats a row: "
        f"{mean['approximation gap']:.3f} because of the guide's family (approximation gap) and "
        f"{mean[lacking]:.3f} because of its {'network' if gaps['amortised'] else 'parameters'} ({lacking}). "
        f"The best full-covariance guide of each row would lack {mean['gap, best full covariance']:.3f}, the "
        f"best flow {mean['gap, best flow']:.3f}."
    )


def _section(run: Run) -> tuple[Section, str]:
    if run.folder is None:
        raise InputError("a report needs a run that was saved")
    fit = _json(run.folder / "fit.json")
    comparison, evidence = _json(run.folder / "compare.json"), _json(run.folder / "evidence.json")
    name = f"{run.settings.model} on {Path(run.settings.data).name}"
    sentences = [say_fit(fit)] if fit else []
    if comparison:
        sentences.append(say_comparison(comparison))
    sentences += [say_evidence(result) for result in evidence.values()]
    if gaps := _json(run.folder / "gaps.json"):
        sentences.append(say_gaps(gaps))
    tables = [("The run", _settings_table(run))]
    if comparison:
        tables.append(("Quantities, those that differ most first", _comparison_table(comparison)))
    pictures = [*_fit_pictures(run, fit), *_comparison_pictures(run, comparison), *_evidence_pictures(run)]
    if isinstance(run.model, TrueSkill):
        pictures += _skill_pictures(run)
    if isinstance(run.model, VAE) and isinstance(run.pair.guide, AmortisedNormal):
        pictures += _vae_pictures(run)
    if isinstance(run.source, Rows) and hasattr(run.pair.guide, "encode"):
        pictures += _plane_picture(run)
    verdict = comparison.get("verdict", "not compared")
    sentence = f"{name}: ELBO {fit.get('elbo_mean', float('nan')):.3f} nats a unit; comparison: {verdict}."
    return Section(name, sentences, tables, pictures), sentence


def _fit_pictures(run: Run, fit: Mapping[str, Any]) -> list[Picture]:
    assert run.folder is not None
    if not fit:
        return []
    elbo = pd.read_csv(run.folder / "elbo.csv")["elbo"].to_numpy()
    held_out = pd.read_csv(run.folder / "held-out.csv").to_numpy(dtype=float)
    caption = "The ELBO during the fit: it should have levelled off."
    if len(held_out):
        caption += " Validation rows falling away from training ones would mean overfitting."
    return [Picture(figures.elbo_curve(elbo, held_out, fit["num_units"], run.settings.kl_warmup), caption)]


def _comparison_pictures(run: Run, comparison: Mapping[str, Any]) -> list[Picture]:
    if not comparison:
        return []
    rows = pd.DataFrame(comparison["rows"])
    names = set(rows["name"])
    # An older comparison may have left draws for other rows.
    answers = {name: answer for name, answer in _answers(run).items() if names <= answer.scalars().keys()}
    severity = np.maximum(rows["mean_error_in_sd"].abs(), np.log(rows["sd_ratio"].clip(lower=1e-9)).abs())
    worst = rows.loc[severity.sort_values(ascending=False).index, "name"].tolist()
    reference = comparison["reference"]
    return [
        Picture(
            figures.densities(answers, worst[:6]),
            f"The quantities on which SVI and {reference} differ most: the curves should lie on each other.",
        ),
        Picture(
            figures.forest(answers, rows["name"].tolist()[:NUM_QUANTITIES]),
            f"Means and 95 % intervals by SVI and by {reference}: shorter bars are overconfident ones.",
        ),
    ]


def _evidence_pictures(run: Run) -> list[Picture]:
    assert run.folder is not None
    paths = {method: run.folder / f"evidence-{method}.nc" for method in METHODS if method != "bdmc"}
    found = {method: Evidence.load(path) for method, path in paths.items() if path.exists()}
    pictures = []
    if sum(len(evidence.curve) > 0 for evidence in found.values()) > 1:
        caption = (
            "log p(x) against the number of samples: sound estimates settle within their bands (± 2 standard "
            "errors); bad proposals climb for as long as they are fed, below the truth and too sure of it."
        )
        pictures.append(Picture(evidence_curves(found), caption))
    if "is" in found and found["is"].num_units >= 10:
        caption = (
            "The ELBO's gap by unit: log p(x) by importance sampling less the ELBO. It is never negative "
            "but for noise, and wide gaps mark the data whose posterior the guide misses most."
        )
        pictures.append(Picture(figures.evidence_gap(found["is"]), caption))
    if (path := run.folder / "gaps.nc").exists():
        caption = (
            "The gap taken apart: what the guide's family costs, what the network costs on top of it, and "
            "what the best guides of richer families would still lack."
        )
        pictures.append(Picture(gap_bars(Gaps.load(path)), caption))
    return pictures


def _skill_pictures(run: Run) -> list[Picture]:
    assert run.folder is not None
    answers = {
        name: Posterior.load(path)
        for name in ("svi", "nuts")
        if (path := run.folder / f"posterior-{name}.nc").exists()
    }
    if not answers:
        return []
    boards = {name: run.model.leaderboard(posterior) for name, posterior in answers.items()}
    best = answers.get("nuts", answers.get("svi"))
    order = list(next(iter(boards.values())).index)
    matrix = run.model.win_probability(best).loc[order, order]
    return [
        Picture(
            figures.leaderboard(boards),
            "The leaderboard, by conservative skill (mean − 3 sd): overlapping bars are players that "
            "the games do not tell apart.",
        ),
        Picture(
            figures.win_matrix(matrix), "Probability that the row's player beats the column's next time."
        ),
    ]


def _vae_pictures(run: Run) -> list[Picture]:
    rows = run.source
    assert isinstance(rows, Rows)
    if rows.image_shape is None:
        return []
    part = "test" if len(run.parts["test"]) else "train"
    (x,) = run.tensors(part)
    x = x[:NUM_IMAGES]
    guide = run.pair.guide
    assert isinstance(guide, AmortisedNormal)
    with seeded(run.settings.seed):
        grid = {
            "data": x,
            "reconstruction\n(decoder's mean)": reconstruct(run.model, guide, x),
            "sample from the prior\n(decoder's mean)": run.model.sample(NUM_IMAGES),
            "sample from the prior\n(draw)": run.model.sample(NUM_IMAGES, draw=True),
            "interpolation\n(decoder's mean)": interpolate(
                run.model, guide, x[0], x[1], num_steps=NUM_IMAGES
            ),
        }
    images = {name: values.cpu().numpy() for name, values in grid.items()}
    caption = (
        f"Images of the {part} rows, their reconstructions, samples, and the line between the first two: "
        "reconstructions should keep the shape, samples should look like data."
    )
    return [Picture(figures.image_grid(images, rows.image_shape), caption)]


def _plane_picture(run: Run) -> list[Picture]:
    part = "test" if len(run.parts["test"]) else "train"
    rows = run.source
    assert isinstance(rows, Rows)
    with torch.no_grad():
        points = run.pair.guide.encode(*run.tensors(part)).mean.cpu().numpy()  # type: ignore[attr-defined]
    labels = None if rows.labels is None else rows.labels[run.parts[part]]
    caption = f"Posterior means of the {part} rows in the first two latent dimensions."
    return [Picture(figures.latent_plane(points, labels), caption)]


def _answers(run: Run) -> dict[str, Posterior]:
    """Every posterior that the folder holds, in identifiable quantities."""
    assert run.folder is not None
    paths = {name: run.folder / f"posterior-{name}.nc" for name in ("svi", "nuts", "exact")}
    answers = {name: Posterior.load(path) for name, path in paths.items() if path.exists()}
    if isinstance(run.model, HasIdentifiable):
        answers = {name: answer.map(run.model.identifiable(answer.draws)) for name, answer in answers.items()}
    return answers


def _settings_table(run: Run) -> pd.DataFrame:
    settings = run.settings
    chosen = {
        "model": settings.model,
        "guide": settings.guide,
        "data": Path(settings.data).name,
        "options": ", ".join(f"{name}={value}" for name, value in settings.options.items()) or "defaults",
        "preprocessing": "; ".join(run.source.history) if isinstance(run.source, Rows) else "none",
        "steps": settings.steps,
        "batch size": settings.batch_size or "all",
        "learning rate": settings.lr,
        "seed": settings.seed,
    }
    return pd.DataFrame({"value": [str(value) for value in chosen.values()]}, index=list(chosen))


def _comparison_table(comparison: Mapping[str, Any]) -> pd.DataFrame:
    rows = pd.DataFrame(comparison["rows"]).set_index("name")
    rows.index.name = None
    order = rows["mean_error_in_sd"].abs().sort_values(ascending=False).index
    return rows.loc[order[:NUM_QUANTITIES]]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return dict(content)
