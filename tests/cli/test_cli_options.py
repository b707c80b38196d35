"""Options of the command line: help, defaults, names that stay, the catalogue, completion."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from importlib.resources import files

import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.cli.catalogue import catalogue
from ppl_vae.cli.cataloguing import declared

COMMANDS = ("demo", "fit", "check", "compare", "evidence", "gaps", "report", "datasets", "models")


def test_help_lists_every_command_within_a_second_and_without_torch():
    code = "import sys, ppl_vae.cli; sys.argv = ['ppl-vae', '--help']; ppl_vae.cli.main()"
    before = os.times()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = os.times()
    assert all(command in result.stdout for command in COMMANDS)
    # Of a processor, which a busy machine does not change much; half a second as this is written.
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 3
    probe = "import sys, ppl_vae.cli; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def flags(help_text):
    """The options that a help text shows."""
    return set(re.findall(r"--[a-z-]+", help_text))


# What `fit` took for every model, and each for its own, in version 0.1.0.
USUAL = {
    "--out", "--guide", "--steps", "--stop", "--no-stop", "--epochs", "--batch-size", "--lr", "--particles",
    "--kl-warmup", "--clip-norm", "--objective", "--doubly-reparameterised", "--train", "--set",
    "--standardize", "--no-standardize", "--binarize", "--dequantize", "--split", "--seed", "--average",
    "--precision", "--compile", "--device", "--data-dir", "--resume", "--overwrite", "--quiet", "--json",
}  # fmt: skip
OWN = {
    "vae": {"--latent-dim", "--hidden", "--likelihood", "--activation"},
    "ppca": {"--latent-dim"},
    "bayesian-ppca": {"--latent-dim"},
    "trueskill": {"--link", "--skill-mean", "--skill-sd", "--performance-sd", "--draw-margin"},
}


@pytest.mark.parametrize("model", OWN)
def test_fit_help_shows_a_models_options_with_their_defaults_and_no_other_models(run, model, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("fit", model, "--help")
    assert code == 0
    shown = flags(out)
    assert (USUAL | OWN[model]) - shown == set()
    assert shown & set().union(*OWN.values()) == OWN[model]
    assert out.count("(default: ") >= len(
        (USUAL | OWN[model]) - {"--out", "--quiet", "--json", "--no-stop", "--no-standardize"}
    )


# A value that is not the default, for every option that version 0.1.0 had.
GIVEN = {
    "--guide": "linear-mean-field", "--steps": 3, "--batch-size": 50, "--lr": 0.02, "--particles": 2,
    "--kl-warmup": 1, "--clip-norm": 5.0, "--objective": "iwae", "--train": "guide", "--binarize": "dynamic",
    "--split": "0.8,0.1,0.1", "--seed": 3, "--average": 0.5, "--precision": "bfloat16", "--compile": "off",
    "--data-dir": "/data", "--latent-dim": 3, "--hidden": "20,10", "--likelihood": "gaussian",
    "--activation": "tanh", "--link": "logistic", "--skill-mean": 1.0, "--skill-sd": 2.0,
    "--performance-sd": 3.0, "--draw-margin": 0.1, "--epochs": 2.0,
}  # fmt: skip
SWITCHES = {"--no-stop": ("stop", False), "--stop": ("stop", True), "--standardize": ("standardize", True),
            "--no-standardize": ("standardize", False), "--dequantize": ("dequantize", True),
            "--doubly-reparameterised": ("doubly_reparameterised", True)}  # fmt: skip


@pytest.fixture
def asked(run, monkeypatch):
    """What `fit` asks of Python for its arguments: the model, what was given, and the model's options."""
    found = []

    def settings_for(model, data, given, options):
        found.append((model, data, dict(given), dict(options)))
        raise InputError("that is all")

    monkeypatch.setattr("ppl_vae.runs.run.settings_for", settings_for)

    def call(*arguments):
        code, _, err = run("fit", *arguments)
        assert (code, err.strip()) == (2, "ppl-vae: that is all"), err
        return found.pop()

    return call


@pytest.mark.parametrize("before", [True, False], ids=["before the model", "after the data"])
@pytest.mark.parametrize("flag", [*GIVEN, *SWITCHES])
def test_every_option_of_the_first_version_keeps_its_name_and_its_places(asked, flag, before):
    model = next((name for name, own in OWN.items() if flag in own), "ppca")
    option = [flag] if flag in SWITCHES else [flag, GIVEN[flag]]
    there = [*option, model, "some-data"] if before else [model, "some-data", *option]
    name, data, given, options = asked("--out", "run", *there)
    assert (name, data) == (model, "some-data")
    both = {**given, **options}
    if flag in SWITCHES:
        field, value = SWITCHES[flag]
        assert both == {field: value}
    else:
        assert list(both.values()) == [_read(GIVEN[flag])]


def _read(value):
    """Several numbers as the command line reads them."""
    if isinstance(value, str) and "," in value:
        return tuple(float(part) if "." in part else int(part) for part in value.split(","))
    return value


def test_the_model_is_found_between_options_that_take_values(asked):
    words = (
        "--out",
        "ppca",
        "--lr",
        "-1",
        "--set",
        "a=1",
        "--no-stop",
        "--seed=2",
        "vae",
        "--quiet",
        "digits",
    )
    assert asked(*words) == ("vae", "digits", {"lr": -1.0, "stop": False, "seed": 2}, {"a": 1})


def test_the_catalogue_is_what_the_classes_declare():
    """Or `python -m ppl_vae.cli.cataloguing` was forgotten."""
    from ppl_vae.cli.catalogue import FILE
    from ppl_vae.cli.cataloguing import made_catalogue

    written = files("ppl_vae.cli").joinpath(FILE).read_text(encoding="utf-8")
    assert made_catalogue().to_json() == written


def test_no_models_option_has_the_name_of_a_fits():
    known = catalogue()
    usual = {word for option in known.fit for word in (option.name, option.flag)}
    for entry in known.models.values():
        assert usual & {word for option in entry.options for word in (option.name, option.flag)} == set()


@pytest.mark.parametrize("model", OWN)
def test_models_says_of_one_what_it_takes_and_what_it_is_tested_against(run, model):
    code, out, _ = run("models", model, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["name"] == model
    assert {option["flag"] for option in found["options"]} >= OWN[model]
    assert found["oracle"]
    assert found["exact"] == (["posterior", "log p(x)"] if model == "ppca" else [])
    assert run("models", model)[0] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [("ppl-vae ", "evidence"), ("ppl-vae fit ", "trueskill"), ("ppl-vae fit vae --la", "--latent-dim")],
)
def test_the_shell_completes_commands_models_and_their_options(words, expected):
    env = {
        **os.environ, "_PPL_VAE_COMPLETE": "complete_bash", "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }  # fmt: skip
    code = (
        "import sys; sys.argv = ['ppl-vae']; from ppl_vae.cli import main; main(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert expected in done.stdout.split(), done.stderr
    assert "True" not in done.stdout


def test_widths_may_be_none_at_all():
    from ppl_vae.cli.common import numbers

    assert numbers("--hidden", "none", int) == ()
    assert numbers("--hidden", "3,4", int) == (3, 4)
    with pytest.raises(InputError, match="it is numbers with commas between, such as 200,200, or none"):
        numbers("--hidden", "wide", int)
    with pytest.raises(InputError, match=r"--split is 'none'; .* such as 0\.8,0\.1,0\.1"):
        numbers("--split", "none", float)


def test_a_line_of_help_that_ends_in_parentheses_keeps_them():
    @dataclasses.dataclass(frozen=True)
    class Options:
        """Options.

        Attributes:
            pace: How fast (or slow).
            size: How large (or small) (default: as large as can be)
        """

        pace: str = "usual"
        size: int | None = None

    pace, size = declared(Options)
    assert (pace.help, pace.default) == ("How fast (or slow).", "usual")
    assert (size.help, size.default) == ("How large (or small).", "as large as can be")
