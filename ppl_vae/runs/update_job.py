"""What `update` does: a run's folder with further games learnt."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import read_json, write_json, write_text
from ppl_vae.base.progress import stage
from ppl_vae.data.dates import date_in_words
from ppl_vae.diagnostics.forecasting.learning import learnt
from ppl_vae.guides.named import named_guide
from ppl_vae.inference.fitting.checkpoint import save_parameters
from ppl_vae.program.pair import Pair
from ppl_vae.runs.game_jobs import standing_of
from ppl_vae.runs.later_games import games_of_results, say_understood
from ppl_vae.runs.run import OWN_DATA, Run
from ppl_vae.runs.settings import Settings

__all__ = ["update_run"]


def update_run(
    run: Run,
    new: Any,
    *,
    out: Path | None = None,
    columns: Mapping[str, str] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Learn games that came after those of a run, the model's own numbers held.

    The answer is that of a fit of all games from nothing with the same numbers, up to the tolerance. The
    folder then holds all games; what was found of the run before (checks, evidence, reports) is no longer in
    it.

    Args:
        run: a fitted run, of the guide of independent chains.
        new: games with outcomes, none earlier than the run's last.
        out: another folder for the updated run; its own is replaced by default.
        columns: which column plays which part.
        progress: whether to say what is going on.

    Returns:
        What ``update --json`` prints.

    Raises:
        InputError: for a run of another model or guide, games that cannot be read or are earlier, and a
            folder that holds something.
    """
    assert run.folder is not None
    target = run.folder if out is None else out
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; give another --out, or none to update the run itself")
    standing = standing_of(run)
    games = games_of_results(new, columns)
    say_understood(games, show=progress)
    stage("natural gradients", show=progress)
    own = run.model.guides.get(run.settings.guide)
    make = own or (lambda model, *data: named_guide(run.settings.guide, model))
    found = learnt(standing, games, make_guide=make)
    after, fit = found.standing, found.fit
    fresh = sorted({*after.games.players} - {*standing.games.players})
    result = {
        **read_json(run.folder / "fit.json"),
        "elbo": fit.final.value, "elbo_mean": fit.final.mean, "reconstruction": fit.final.reconstruction,
        "kl": fit.final.kl, "num_units": fit.final.num_units, "steps": fit.steps, "seconds": fit.seconds,
        "converged": fit.converged, "reason": fit.reason, "engine": fit.engine, "method": fit.method,
        "out": str(target), "num_games": after.games.num_games, "new_games": games.num_games,
        "new_players": fresh,
    }  # fmt: skip
    if after.games.time is not None:
        result["last_date"] = date_in_words(after.last, after.games.time)
    settings = run.settings
    text = Settings(**{**_fields(settings), "data": after.games.name}).to_json()
    _replace(target, text, result, found.pair, after, fit.elbo.tolist())
    return result


def _fields(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def _replace(
    target: Path, settings: str, result: dict[str, Any], pair: Pair, after: Any, elbo: list[float]
) -> None:
    """Put a whole folder in the place of another: what is interrupted leaves the one that was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ppl-vae-", dir=target.parent) as temporary:
        made = Path(temporary) / "run"
        made.mkdir()
        after.games.dataset.to_netcdf(made / OWN_DATA)
        write_text(made / "config.json", settings)
        rows = "".join(f"{step},{value!r}\n" for step, value in enumerate(elbo, start=1))
        write_text(made / "elbo.csv", f"step,elbo\n{rows}")
        write_text(made / "held-out.csv", "step,elbo_mean\n")
        write_json(made / "fit.json", result)
        save_parameters(pair, made / "parameters.safetensors")
        before = Path(temporary) / "before"
        if target.exists():
            os.rename(target, before)
        os.rename(made, target)
        shutil.rmtree(before, ignore_errors=True)
