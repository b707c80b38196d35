"""What `update` does: a run's folder with further games learnt."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import read_json, write_json, write_text
from ppl_vae.base.progress import stage
from ppl_vae.data.dates import date_in_words
from ppl_vae.data.game_joining import joined_games
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.learning import refuse_earlier
from ppl_vae.inference.fitting import ep, natural
from ppl_vae.inference.fitting.checkpoint import save_parameters
from ppl_vae.inference.fitting.choice import fit_by
from ppl_vae.inference.fitting.factors import quadrature
from ppl_vae.inference.fitting.fit_result import NAMES, Fit, Method
from ppl_vae.inference.fitting.growing.carrying import carry, check_carried
from ppl_vae.runs.game_jobs import check_games
from ppl_vae.runs.later_games import games_of_results, say_understood
from ppl_vae.runs.run import OWN_DATA, Run
from ppl_vae.runs.settings import Settings

__all__ = ["update_run"]


# What is said of a method whose answer is not the same to the digit.
RANDOM = "; its steps are random: a fit of all games from nothing ends elsewhere by their Monte Carlo error"


def update_run(
    run: Run,
    new: Any,
    *,
    out: Path | None = None,
    columns: Mapping[str, str] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Learn games that came after those of a run, the model's own numbers held.

    The guide is carried on to the further states, where the prior has them, and fitted to all games from
    there by the method that fitted the run: expectation propagation, natural gradients (also of runs by SVI,
    where they go by quadrature, as they do for games of two sides), SVI. By the first two the answer is that
    of a fit of all games from nothing with the same numbers, up to the tolerance. SVI's is so up to the Monte
    Carlo error of its steps. The folder then holds all games; what was found of the run before (checks,
    evidence, reports) is no longer in it.

    Args:
        run: a fitted run, of a guide that is Gaussian state by state: markov, mean-field, full-rank or
            sparse-precision.
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
    check_games(run)
    check_carried(run.pair.guide)
    known = cast(Games, run.source)
    games = games_of_results(new, columns)
    say_understood(games, show=progress)
    refuse_earlier(known, games)
    every = joined_games(known, games)
    after = _carried(run, every)
    before = read_json(run.folder / "fit.json")
    fit = _fitted(after, before.get("method", NAMES["svi"]), progress=progress)
    result = {
        **before, **fit.to_json(), "read": [*every.history], "out": str(target), "num_games": every.num_games,
        "new_games": games.num_games,
        "new_players": sorted({*every.players} - {*known.players}),
    }  # fmt: skip
    if every.time is not None:
        result["last_date"] = date_in_words(float(every.time.max()), every.time)
    _replace(target, result, after, every, fit.elbo.tolist())
    return result


def _carried(run: Run, every: Games) -> Run:
    """The run of all games as opening it will make it, with what the run of the first ones has learnt."""
    text = {name: getattr(run.settings, name) for name in run.settings.__dataclass_fields__}
    after = Run.make(Settings(**{**text, "data": every.name}), every.dataset, started=False)
    after.pair.initialise(*after.tensors("train"), seed=run.settings.seed)
    old, new = cast(Any, run.model), cast(Any, after.model)
    new.load_state_dict(old.state_dict())
    carry(run.pair, after.pair, old.places_in(new))
    return after


def _fitted(run: Run, method: str, *, progress: bool) -> Fit:
    """Go on from where the guide stands, the model's numbers held."""
    pair, data, asked = run.pair, run.tensors("train"), run.settings.fit
    if method == NAMES["ep"]:
        stage(method, show=progress)
        return ep.fit(pair, *data, warm=True, progress=progress)
    if quadrature.fits(pair):
        stage(NAMES["natural"], show=progress)
        return natural.fit(pair, *data, progress=progress)
    name: Method = next((name for name, words in NAMES.items() if words == method), "svi")
    options = replace(asked, method=name, train="guide", kl_warmup=0)
    stage(NAMES[name], show=progress)
    found = fit_by(pair, data, options, seed=run.settings.seed, progress=progress)
    return replace(found, reason=found.reason + RANDOM) if name == "svi" else found


def _replace(target: Path, result: dict[str, Any], after: Run, every: Games, elbo: list[float]) -> None:
    """Put a whole folder in the place of another: what is interrupted leaves the one that was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ppl-vae-", dir=target.parent) as temporary:
        made = Path(temporary) / "run"
        made.mkdir()
        every.dataset.to_netcdf(made / OWN_DATA)
        write_text(made / "config.json", after.settings.to_json())
        rows = "".join(f"{step},{value!r}\n" for step, value in enumerate(elbo, start=1))
        write_text(made / "elbo.csv", f"step,elbo\n{rows}")
        write_text(made / "held-out.csv", "step,elbo_mean\n")
        write_json(made / "fit.json", result)
        save_parameters(after.pair, made / "parameters.safetensors")
        before = Path(temporary) / "before"
        if target.exists():
            os.rename(target, before)
        os.rename(made, target)
        shutil.rmtree(before, ignore_errors=True)
