"""The next step after a run's check, as a command that can be typed."""

import shlex

from ppl_vae.base.options import shell_names
from ppl_vae.diagnostics.verdict.advice import JOINT
from ppl_vae.diagnostics.verdict.outcome import Check
from ppl_vae.inference.fitting.choice import SHARED
from ppl_vae.runs.run import OWN_DATA, Run, settings_for

__all__ = ["next_command"]


def next_command(run: Run, found: Check) -> str:
    """The command that follows a check's advice; "" where the advice is to change the model itself, or the
    fit has options that only Python takes.

    Args:
        run: a saved run.
        found: its check.
    """
    folder = str(run.folder)
    local = found.index is not None
    if found.advice == "use":
        what = "codes" if local else "draws"
        return _typed("ppl-vae", "export", folder, "--what", what, "--out", f"{what}.csv")
    answers = {"reweight": "reweighted", "linear response": "linear-response"}
    if name := {**answers, "use the reference": found.measures.reference}.get(found.advice):
        code = f"import ppl_vae; print(ppl_vae.load({folder!r}).check.answers[{name!r}].summary())"
        return _typed("python", "-c", code)
    if found.advice == "larger budget":
        return _typed("ppl-vae", "check", folder, "--budget", f"{max(120, round(4 * found.budget))}s")
    if found.advice == "train better":
        return _fit_again(run, method="auto")
    if found.advice == "more steps" and run.settings.fit.method == "svi":
        return _fit_again(run, steps=10 * run.settings.fit.num_steps)
    if found.advice in ("richer guide", "use what is right") and (guide := _richer(run, found.guide)):
        # Other methods than SVI take some guides alone, and the joint one is cheap by one of them.
        if run.settings.fit.method == "svi" and guide != JOINT:
            return _fit_again(run, guide=guide)
        return _fit_again(run, guide=guide, method="auto")
    return ""


def _richer(run: Run, advised: str) -> str:
    """The guide that is advised, else the model's other one of full covariance, by its name; "" for none."""
    if advised:
        return advised if advised != run.settings.guide else ""
    others = (name for name in run.model.guides if "full" in name and name != run.settings.guide)
    return next(others, "")


def _fit_again(run: Run, **other: int | str) -> str:
    """The fit of the run, with other steps, another guide or method, into a folder beside it."""
    settings = run.settings
    assert run.folder is not None
    # Data that were given in Python lie in the folder.
    own = run.folder / OWN_DATA
    data = str(own) if own.exists() else settings.data
    words = ["ppl-vae", "fit", settings.model, data, "--out", f"{run.folder}-again"]
    # What the command line takes by itself is left out.
    words += ["--seed", str(settings.seed)] if settings.seed else []
    words += ["--device", settings.device] if settings.device != "cpu" else []
    asked = {"guide": settings.guide, **other}
    usual = settings_for(settings.model, settings.data, {"stop": settings.fit.stop, **asked}, {})
    for name, value in asked.items():
        words += [f"--{name}", str(value)]
    said = {"num_steps"} if "steps" in other else set()
    if "method" in other:  # what belongs to SVI is no option of another method
        said = {"method", *(vars(settings.fit).keys() - set(SHARED))}
    words += [] if settings.fit.stop or "stop" in said else ["--no-stop"]
    for part, plain in (
        (settings.options, usual.options),
        (settings.preparation, usual.preparation),
        (settings.fit, usual.fit),
    ):
        names = shell_names(type(part))
        for field, value in vars(part).items():
            if value == getattr(plain, field) or (part is settings.fit and field in said):
                continue
            if field not in names or value is None:
                return ""
            words += _option(names[field], value)
    return _typed(*words)


def _option(name: str, value: object) -> list[str]:
    """An option as the shell takes it; a switch has a name for yes and, after a slash, one for no."""
    if isinstance(value, bool):
        return [word] if (word := name.split("/")[0 if value else -1]) else []
    if isinstance(value, tuple | list):
        return [name, ",".join(map(str, value)) or "none"]
    return [name, str(value)]


def _typed(*words: str) -> str:
    return shlex.join(words)
