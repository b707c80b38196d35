"""Files written whole or not at all."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ppl_vae.errors import InputError

__all__ = ["merge_json", "read_json", "write_json", "write_text", "write_whole"]

# The parts of a check that have a file each in its folder (`diagnostics.check_files`).
ANSWERS = ("svi", "reweighted", "exact", "nuts", "given")
EVIDENCE = ("exact", "is")
CALIBRATED = ("guide", "nuts")
# All files that a check may leave in a folder; answers and evidence of other commands have other names.
CHECK_FILES = (
    "check.json",
    "check-comparison.json",
    "check-predictive.nc",
    "check-collapse.nc",
    *(f"check-posterior-{name}.nc" for name in ANSWERS),
    *(f"check-evidence-{name}.nc" for name in EVIDENCE),
    *(f"check-calibration-{name}.nc" for name in CALIBRATED),
)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then rename it into place.

    Raises:
        InputError: if the file cannot be written: no room, no permission.
    """
    beside = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path} could not be written: {error.strerror or error}") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object.

    Raises:
        InputError: if it cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False, default=float) + "\n")


def merge_json(path: Path, key: str, content: Mapping[str, Any]) -> None:
    """Keep the results of other methods beside this one's."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    write_json(path, {**before, key: content})


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; nothing where there is no file.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
