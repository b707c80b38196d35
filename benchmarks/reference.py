"""Expected values that nobody in this project made up, where they are at hand."""

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["folder", "reference"]


def folder() -> Path:
    """The folder of reference values and real data: PPL_VAE_SHARED, or ``../shared``."""
    return Path(os.environ.get("PPL_VAE_SHARED", Path(__file__).parents[2] / "shared"))


def reference(name: str) -> dict[str, Any] | None:
    """The values of ``reference/NAME.json``, or None where they are absent."""
    path = folder() / "reference" / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.exists() else None
