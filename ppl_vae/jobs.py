"""What the commands do with a run: fit it, compare it, estimate its evidence."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics import Comparison, compare
from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.files import write_text, write_whole
from ppl_vae.guides import PerDatumNormal
from ppl_vae.inference import exact, guide, importance, nuts, svi
from ppl_vae.inference.checkpoint import save_parameters
from ppl_vae.inference.nuts import Mass, Sampler
from ppl_vae.inference.terms import layout
from ppl_vae.program import ExactEvidence, ExactPosterior
from ppl_vae.run import Run, Settings, compile_option, prepare_folder

__all__ = ["compare_run", "evidence_of_run", "fit_run"]

MAX_ROWS = 8
# The mass matrix that follows correlations, where a sampler has one.
MASS: Mapping[str, Mass] = {"nutpie": "low-rank", "pyro": "dense"}


def fit_run(
    settings: Settings, out: Path, *, resume: bool = False, overwrite: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Fit by SVI into a run's folder.

    Args:
        settings: what to fit.
        out: the folder.
        resume: go on from its checkpoint.
        overwrite: replace the run that it holds.
        progress: whether to show a progress bar on a terminal.

    Returns:
        What ``--json`` prints: totals in nats, ``_mean`` per unit beside them.

    Raises:
        InputError: for anything that cannot be done; the folder is then left as it was.
    """
    run = Run.make(settings)
    data = run.tensors("train")
    held_out = None
    if len(run.parts.get("validation", ())) and not isinstance(run.pair.guide, PerDatumNormal):
        held_out = run.tensors("validation")
    prepare_folder(out, settings, resume=resume, overwrite=overwrite)
    fitted = svi.fit(
        run.pair,
        *data,
        num_steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        num_particles=settings.particles,
        kl_warmup=settings.kl_warmup,
        clip_norm=settings.clip_norm,
        train="guide" if settings.train == "guide" else "both",
        held_out=held_out,
        refresh=run.epoch_data if run.is_dynamic else None,
        average=settings.average,
        precision="bfloat16" if settings.precision == "bfloat16" else None,
        compile=settings.compile_option,
        seed=settings.seed,
        checkpoint=out / "checkpoint",
        resume=resume,
        progress=progress,
    )
    save_parameters(run.pair, out / "parameters.safetensors")
    write_text(out / "elbo.csv", _csv(("step", "elbo"), enumerate(fitted.elbo.tolist(), start=1)))
    write_text(out / "held-out.csv", _csv(("step", "elbo_mean"), fitted.held_out.tolist()))
    final = fitted.final
    result = {
        "elbo": final.value,
        "elbo_std_error": final.std_error,
        "elbo_mean": final.mean,
        "reconstruction": final.reconstruction,
        "kl": final.kl,
        "kl_is_analytic": final.kl_is_analytic,
        "num_units": final.num_units,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        "converged": fitted.converged,
        "reason": fitted.reason,
        "engine": fitted.engine,
        "compile_seconds": fitted.compile_seconds,
        "warnings": list(run.warnings),
        "out": str(out),
    }
    _write_json(out / "fit.json", result)
    return result


def compare_run(
    run: Run,
    *,
    against: str = "nuts",
    split: str | None = None,
    rows: slice | None = None,
    chains: int | None = None,
    draws: int = 500,
    warmup: int | None = None,
    sampler: str = "nutpie",
    compile: str = "auto",
    seed: int | None = None,
    progress: bool = True,
) -> tuple[Comparison, dict[str, Any]]:
    """Compare a run's variational posterior with NUTS or the exact posterior, parameters held.

    For local latents the comparison runs over some rows of one part; for global ones over all data.

    Args:
        run: a fitted run.
        against: "nuts" or "exact".
        split: "train", "validation" or "test"; test where there are test rows, else train.
        rows: which rows of that part, the first eight by default.
        chains, draws, warmup: of NUTS; see `nuts.sample` for the defaults.
        sampler: "nutpie", "pyro" or "hmc"; see `nuts.sample`.
        compile: "auto", "on" or "off".
        seed: the run's by default.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: if there is no exact posterior, or no such rows.
    """
    if against not in ("nuts", "exact"):
        raise InputError(f"--against is {against!r}; it is nuts or exact")
    if against == "exact" and not isinstance(run.model, ExactPosterior):
        raise InputError(f"{run.settings.model} does not know its exact posterior; compare it against nuts")
    for name, count, least in (("draws", draws, 4), ("warmup", warmup, 1), ("chains", chains, 1)):
        if count is not None and count < least:
            raise InputError(f"--{name} is {count}; it must be at least {least}")
    if sampler not in ("nutpie", "pyro", "hmc"):
        raise InputError(f"--sampler is {sampler!r}; it is nutpie, pyro or hmc")
    seed = run.settings.seed if seed is None else seed
    part, index, data = _chosen(run, split, rows)
    full = run.tensors(part)
    independent = max(4000, (chains or 4) * draws)
    answer = guide.draws(run.pair, *full, num_draws=independent, index=index, seed=seed)
    coords = {} if index is None else {"data": index.tolist()}
    if against == "exact":
        reference = exact.draws(run.model, *data, num_draws=independent, coords=coords, seed=seed + 1)
    else:
        reference = nuts.sample(
            run.pair,
            *data,
            num_draws=draws,
            warmup=warmup,
            chains=chains,
            sampler=cast(Sampler, sampler),
            # Global latents are few and correlated.
            mass=MASS.get(sampler, "diagonal") if index is None else "diagonal",
            compile=compile_option(compile),
            coords=coords,
            seed=seed + 1,
            progress=progress,
        )
    found = compare({"svi": answer}, reference=reference, model=run.model)
    weights = importance.log_evidence(
        run.pair, *full, num_samples=2000, index=index, seed=seed + 2, progress=False
    )
    result = _comparison_json(found, weights, part if index is not None else None, index)
    if run.folder is not None:
        for name, posterior in (("svi", answer), (against, reference)):
            write_whole(run.folder / f"posterior-{name}.nc", posterior.save)
        _write_json(run.folder / "compare.json", result)
    return found, result


def evidence_of_run(
    run: Run,
    *,
    method: str = "is",
    samples: int = 1000,
    data: str | None = None,
    split: str | None = None,
    defensive: float = 0.0,
    compile: str = "auto",
    seed: int | None = None,
    progress: bool = True,
) -> tuple[Evidence, dict[str, Any]]:
    """log p(x) of a run's data, by importance sampling from its guide or exactly.

    Args:
        run: a fitted run.
        method: "is" or "exact".
        samples: draws a unit.
        data: another data set or file than the run's.
        split: "train", "validation" or "test"; test where there are test rows, else train.
        defensive: fraction of the draws to take from the prior.
        compile: "auto", "on" or "off".
        seed: the run's by default.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for an unknown method, or data that the pair cannot take.
    """
    if method not in ("is", "exact"):
        raise InputError(f"--method is {method!r}; it is is or exact")
    if method == "is" and samples < 2:
        raise InputError(f"--samples is {samples}; it must be at least 2")
    seed = run.settings.seed if seed is None else seed
    part = _part(run, split)
    tensors = run.tensors(part) if data is None else run.other_tensors(data)
    if method == "exact":
        if not isinstance(run.model, ExactEvidence):
            raise InputError(f"{run.settings.model} does not know its exact evidence; use --method is")
        found = exact.log_evidence(run.model, *tensors)
    else:
        _check_guide(run, tensors)
        found = importance.log_evidence(
            run.pair, *tensors, num_samples=samples, defensive=defensive, compile=compile_option(compile),
            seed=seed, progress=progress,
        )  # fmt: skip
    result = _evidence_json(found, part if data is None else data)
    if run.folder is not None:
        write_whole(run.folder / f"evidence-{method}.nc", found.save)
        _merge_json(run.folder / "evidence.json", method, result)
    return found, result


def _chosen(run: Run, split: str | None, rows: slice | None) -> tuple[str, Tensor | None, tuple[Tensor, ...]]:
    """The part, the rows of it, and the model's data for these rows alone."""
    part = _part(run, split)
    full = run.tensors(part)
    if layout(run.pair, *full).unit_plate is None:
        if rows is not None:
            raise InputError(f"--rows belongs to models with a latent per row; {run.settings.model} has none")
        return part, None, full
    count = len(full[0])
    index = torch.arange(count)[rows if rows is not None else slice(0, MAX_ROWS)]
    if not len(index):
        raise InputError(f"--rows chooses none of the {count} {part} rows")
    _check_guide(run, full)
    return part, index, tuple(values[index.to(values.device)] for values in full)


def _part(run: Run, split: str | None) -> str:
    if split is None:
        split = (
            "test"
            if len(run.parts.get("test", ())) and not isinstance(run.pair.guide, PerDatumNormal)
            else "train"
        )
    if split not in ("train", "validation", "test"):
        raise InputError(f"--split is {split!r}; it is train, validation or test")
    run.tensors(split)
    return split


def _check_guide(run: Run, data: tuple[Tensor, ...]) -> None:
    check = getattr(run.pair.guide, "check_data", None)
    if check is not None:
        check(*data)


def _comparison_json(
    found: Comparison, weights: Evidence, part: str | None, index: Tensor | None
) -> dict[str, Any]:
    columns = {
        "name": "name",
        "mean": "mean_svi",
        "mean_reference": "mean_reference",
        "sd": "sd_svi",
        "sd_reference": "sd_reference",
        "mean_error_in_sd": "mean_error_in_sd",
        "mean_error_mcse": "mean_error_mcse",
        "sd_ratio": "sd_ratio",
        "wasserstein": "wasserstein",
        "mcse": "mcse",
    }
    rows = found.table[list(columns)].rename(columns=columns).to_dict("records")
    return {
        "reference": found.reference,
        "reference_ok": found.reference_ok,
        "split": part,
        "data": None if index is None else index.tolist(),
        "rows": rows,
        "verdict": found.verdicts["svi"],
        "reasons": list(found.reasons),
        "pareto_k": weights.pareto_k.tolist(),
        "ess": weights.ess.tolist(),
        "num_samples": weights.num_samples,
    }


def _evidence_json(found: Evidence, data: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "method": found.method,
        "proposal": found.proposal,
        "data": data,
        "num_samples": found.num_samples,
        "unit": found.unit,
        "num_units": found.num_units,
        "log_evidence": found.total,
        "std_error": found.total_std_error,
        "bias": found.total_bias,
        "log_evidence_mean": found.mean,
        "std_error_mean": found.mean_std_error,
        "seconds": found.seconds,
    }
    if found.method == "is":
        result |= {
            "elbo": float(found.elbo.sum()),
            "elbo_mean": float(found.elbo.mean()),
            "ess": _three(found.ess),
            "pareto_k": _three(found.pareto_k),
            "num_alarms": int(found.alarming.sum()),
        }
    return result


def _three(values: np.ndarray) -> dict[str, float | None]:
    three = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: float(value) if np.isfinite(value) else None for name, value in three.items()}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, allow_nan=False, default=float) + "\n")


def _merge_json(path: Path, key: str, content: Mapping[str, Any]) -> None:
    """Keep the results of other methods beside this one's."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    _write_json(path, {**before, key: content})


def _csv(header: tuple[str, ...], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
