"""A check in a folder, and back: its answers go by their types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import read_json, read_netcdf, write_json, write_netcdf, write_whole
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.prediction.predictive import Predictive
from ppl_vae.diagnostics.verdict.results import Results
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures

if TYPE_CHECKING:
    from ppl_vae.diagnostics.verdict.outcome import Check

__all__ = ["KINDS", "Kind", "check_files", "load_check", "save_check"]


@dataclass(frozen=True)
class Kind:
    """A type of answers that a check may have, and how they are kept.

    Attributes:
        type: of the answers.
        stem: what its files are called: ``check-STEM-NAME`` or ``check-STEM``, with the suffix.
        save: writes one, whole or not at all.
        load: reads one.
        suffix: of its files.
        older: the names that they had in checks of 0.1, which kept no list of them.
    """

    type: type
    stem: str
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]
    suffix: str = ".nc"
    older: tuple[str, ...] = ("",)

    def path(self, folder: Path, name: str) -> Path:
        """The file of one of them."""
        return folder / f"check-{self.stem}{'-' * bool(name)}{name}{self.suffix}"


def _whole(answer: Any, path: Path) -> None:
    write_whole(path, answer.save)


def _save_table(table: pd.DataFrame, path: Path) -> None:
    write_netcdf(path, table.to_xarray())


def _load_table(path: Path) -> pd.DataFrame:
    table: pd.DataFrame = read_netcdf(path).to_dataframe()
    return table


# A check whose answer is of another type adds it here; a table of pandas serves many.
KINDS = (
    Kind(
        Posterior, "posterior", Posterior.save, Posterior.load,
        older=("svi", "reweighted", "exact", "nuts", "given"),
    ),
    Kind(Evidence, "evidence", Evidence.save, Evidence.load, older=("exact", "is")),
    Kind(Calibration, "calibration", Calibration.save, Calibration.load, older=("guide", "nuts")),
    Kind(Comparison, "comparison", Comparison.save, Comparison.load, ".json"),
    Kind(Predictive, "predictive", _whole, Predictive.load),
    Kind(Collapse, "collapse", _whole, Collapse.load),
    Kind(pd.DataFrame, "table", _save_table, _load_table, older=()),
)  # fmt: skip


def check_files(folder: Path) -> list[Path]:
    """The files of a check that are in a folder; what else has a name like theirs is somebody's own."""
    patterns = [f"check-{kind.stem}{end}{kind.suffix}" for kind in KINDS for end in ("", "-*")]
    return [folder / "check.json", *(path for pattern in patterns for path in sorted(folder.glob(pattern)))]


def save_check(found: Check, folder: Path) -> None:
    """Write a check's files, replacing those of an earlier one.

    Raises:
        InputError: if they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror or error}") from error
    for path in check_files(folder):
        path.unlink(missing_ok=True)
    kept: dict[str, dict[str, Any]] = {kind.stem: dict(found.results.of(kind.type)) for kind in KINDS}
    for kind in KINDS:
        for name, answer in kept[kind.stem].items():
            kind.save(answer, kind.path(folder, name))
    # Last, so that an interrupted check is none.
    write_json(
        folder / "check.json",
        {
            "verdict": found.verdict,
            "reason": found.reason,
            "failing": list(found.decision.failing),
            "next_step": found.next_step,
            "advice": found.advice,
            "findings": [asdict(finding) for finding in found.findings],
            "measures": found.measures.to_json(),
            "rows": None if found.index is None else list(found.index),
            "seconds": found.seconds,
            "budget": found.budget,
            "answers": {stem: list(named) for stem, named in kept.items() if named},
        },
    )


def load_check(folder: Path) -> Check:
    """Read what `save_check` wrote; what SVI did belongs to the run and is not among it.

    Raises:
        InputError: if the folder holds no check, or a damaged one.
    """
    from ppl_vae.diagnostics.verdict.outcome import Check

    content = read_json(folder / "check.json")
    if not content:
        raise InputError(f"{folder} holds no check; `ppl-vae check` makes one")
    try:
        return Check(
            decision=Decision(content["verdict"], tuple(content["failing"]), content["reason"]),
            next_step=content["next_step"],
            advice=content.get("advice", ""),
            findings=tuple(Finding(**finding) for finding in content["findings"]),
            measures=Measures.from_json(content["measures"]),
            results=Results(_loaded(folder, content.get("answers"))),
            index=None if content["rows"] is None else tuple(content["rows"]),
            seconds=content["seconds"],
            budget=content["budget"],
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"the check in {folder} is damaged: {error}") from error


def _loaded(folder: Path, listed: Mapping[str, list[str]] | None) -> Iterator[tuple[str, object]]:
    """Names and answers; None for the list where a check of 0.1 has none."""
    for kind in KINDS:
        for name in kind.older if listed is None else listed.get(kind.stem, ()):
            path = kind.path(folder, name)
            if path.exists():
                yield name, kind.load(path)
