"""A check in a folder, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import ANSWERS, CALIBRATED, CHECK_FILES, EVIDENCE, read_json, write_json, write_whole
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.prediction.predictive import Predictive
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures

if TYPE_CHECKING:
    from ppl_vae.diagnostics.verdict.check import Check

__all__ = ["load_check", "save_check"]

T = TypeVar("T")


def save_check(found: Check, folder: Path) -> None:
    """Write a check's files, replacing those of an earlier one.

    Raises:
        InputError: if they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror or error}") from error
    for name in CHECK_FILES:
        (folder / name).unlink(missing_ok=True)
    for name, answer in found.answers.items():
        answer.save(folder / f"check-posterior-{name}.nc")
    for name, evidence in found.evidence.items():
        evidence.save(folder / f"check-evidence-{name}.nc")
    for name, calibration in found.calibration.items():
        calibration.save(folder / f"check-calibration-{name}.nc")
    if found.comparison is not None:
        found.comparison.save(folder / "check-comparison.json")
    if found.predictive is not None:
        write_whole(folder / "check-predictive.nc", found.predictive.save)
    if found.collapse is not None:
        write_whole(folder / "check-collapse.nc", found.collapse.save)
    # Last, so that an interrupted check is none.
    write_json(
        folder / "check.json",
        {
            "verdict": found.verdict,
            "reason": found.reason,
            "failing": list(found.decision.failing),
            "next_step": found.next_step,
            "findings": [asdict(finding) for finding in found.findings],
            "measures": found.measures.to_json(),
            "rows": None if found.index is None else list(found.index),
            "seconds": found.seconds,
            "budget": found.budget,
        },
    )


def load_check(folder: Path) -> Check:
    """Read what `save_check` wrote; what SVI did belongs to the run and is not among it.

    Raises:
        InputError: if the folder holds no check, or a damaged one.
    """
    from ppl_vae.diagnostics.verdict.check import Check

    content = read_json(folder / "check.json")
    if not content:
        raise InputError(f"{folder} holds no check; `ppl-vae check` makes one")
    try:
        return Check(
            decision=Decision(content["verdict"], tuple(content["failing"]), content["reason"]),
            next_step=content["next_step"],
            findings=tuple(Finding(**finding) for finding in content["findings"]),
            measures=Measures.from_json(content["measures"]),
            answers={
                name: Posterior.load(path)
                for name in ANSWERS
                if (path := folder / f"check-posterior-{name}.nc").exists()
            },
            comparison=_optional(Comparison.load, folder / "check-comparison.json"),
            evidence={
                name: Evidence.load(path)
                for name in EVIDENCE
                if (path := folder / f"check-evidence-{name}.nc").exists()
            },
            calibration={
                name: Calibration.load(path)
                for name in CALIBRATED
                if (path := folder / f"check-calibration-{name}.nc").exists()
            },
            predictive=_optional(Predictive.load, folder / "check-predictive.nc"),
            collapse=_optional(Collapse.load, folder / "check-collapse.nc"),
            index=None if content["rows"] is None else tuple(content["rows"]),
            seconds=content["seconds"],
            budget=content["budget"],
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"the check in {folder} is damaged: {error}") from error


def _optional(load: Callable[[Path], T], path: Path) -> T | None:
    return load(path) if path.exists() else None
