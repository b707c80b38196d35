"""A check in a folder, and back: its answers go by their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import read_json, reading, write_json
from ppl_vae.base.saved import Saved
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.prediction.predictive import Predictive
from ppl_vae.diagnostics.verdict.results import Results

__all__ = ["check_files", "kinds", "read_check", "write_check"]

# The answers of checks of 0.1, which kept no list of them, and their names.
OLDER: Mapping[type[Saved], tuple[str, ...]] = {
    Posterior: ("svi", "reweighted", "exact", "nuts", "given"),
    Evidence: ("exact", "is"),
    Calibration: ("guide", "nuts"),
    Comparison: ("",),
    Predictive: ("",),
    Collapse: ("",),
}


@dataclass(frozen=True, eq=False, repr=False)
class _TableFile(Saved):
    """The file of a table."""

    table: pd.DataFrame


def kinds() -> dict[str, type]:
    """The types of answers that a check keeps, by what its files call them: `Saved` ones, and tables."""
    listed = {kind.__name__.lower(): kind for kind in OLDER}
    others = {kind.__name__.lower(): kind for kind in Saved.__subclasses__()}
    return {**listed, **others, **listed, "table": pd.DataFrame}


def _path(folder: Path, stem: str, name: str, kind: type) -> Path:
    return folder / f"check-{stem}{'-' * bool(name)}{name}{getattr(kind, 'SUFFIX', '.nc')}"


def check_files(folder: Path) -> list[Path]:
    """The files of a check that are in a folder; what else has a name like theirs is somebody's own."""
    patterns = [_path(folder, stem, name, kind).name for stem, kind in kinds().items() for name in ("", "*")]
    return [folder / "check.json", *(path for pattern in patterns for path in sorted(folder.glob(pattern)))]


def write_check(folder: Path, content: Mapping[str, Any], results: Results) -> None:
    """Write a check's files, replacing those of an earlier one.

    Args:
        folder: which is made where there is none.
        content: what the check says, as JSON has it.
        results: the answers that it rests on, each a file.

    Raises:
        InputError: if they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror or error}") from error
    for path in check_files(folder):
        path.unlink(missing_ok=True)
    kept: dict[str, Mapping[str, Any]] = {
        stem: results.of(kind) for stem, kind in kinds().items() if results.of(kind)
    }
    for stem, named in kept.items():
        for name, answer in named.items():
            path = _path(folder, stem, name, type(answer))
            (answer if isinstance(answer, Saved) else _TableFile(answer)).save(path)
    # Last, so that an interrupted check is none.
    answers = {stem: list(named) for stem, named in kept.items()}
    write_json(folder / "check.json", {**content, "answers": answers})


def read_check(folder: Path) -> tuple[dict[str, Any], Results]:
    """What `write_check` wrote.

    Raises:
        InputError: if the folder holds no check, or a damaged one.
    """
    content = read_json(folder / "check.json")
    if not content:
        raise InputError(f"{folder} holds no check; `ppl-vae check` makes one")
    with reading(f"the check in {folder}"):
        return content, Results(_loaded(folder, content.get("answers")))


def _loaded(folder: Path, listed: Mapping[str, list[str]] | None) -> Iterator[tuple[str, Any]]:
    """Names and answers; None for the list where a check of 0.1 has none."""
    if listed is None:
        listed = {kind.__name__.lower(): list(names) for kind, names in OLDER.items()}
    for stem, kind in kinds().items():
        for name in listed.get(stem, ()):
            path = _path(folder, stem, name, kind)
            if path.exists():
                yield name, kind.load(path) if issubclass(kind, Saved) else _TableFile.load(path).table
