"""Features far from the scale that a Gaussian likelihood starts at get one hint, and no other note."""

import json

import numpy as np
import pytest

# The command line turns it into a line; the suite would turn it into an error first.
pytestmark = pytest.mark.filterwarnings("default:the features are far")


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    contents = {
        "greys": generator.integers(8, 239, (60, 16)).astype(np.float32),
        "years": generator.integers(1990, 2021, (60, 4)).astype(float),
        "metres": 1e-3 * generator.normal(size=(60, 4)),
        "mixed": generator.normal(size=(60, 4)) * [1.0, 1.0, 1.0, 700.0],
        "unit": generator.normal(size=(60, 4)),
        "shares": generator.uniform(size=(60, 4)),
    }
    for name, values in contents.items():
        np.save(tmp_path / f"{name}.npy", values)
    return tmp_path


GAUSSIAN = ("--likelihood", "gaussian")
FAR = {
    "greys": ("vae", "greys", *GAUSSIAN),
    "years, whose spread is small": ("vae", "years", "--likelihood", "gaussian-pixel"),
    "metres": ("vae", "metres", "--likelihood", "gaussian-fixed"),
    "one large feature": ("ppca", "mixed", "--no-standardize"),
    "greys to Bayesian PPCA": ("bayesian-ppca", "greys", "--no-standardize"),
}
NEAR = {
    "standard normal": ("vae", "unit", *GAUSSIAN),
    "shares": ("vae", "shares", *GAUSSIAN),
    "standardised": ("vae", "greys", *GAUSSIAN, "--standardize"),
    "standardised by default": ("ppca", "mixed"),
    "with its scale": ("vae", "greys", *GAUSSIAN, "--set", "start_scale=60"),
    "years to a model that starts at their mean": ("ppca", "years", "--no-standardize"),
}


def fit(run, files, model, name, *options):
    code, out, err = run(
        "fit",
        model,
        files / f"{name}.npy",
        *options,
        "--steps",
        2,
        "--quiet",
        "--json",
        "--out",
        files / "run",
    )
    assert code == 0, err
    return json.loads(out), err.splitlines()


@pytest.mark.parametrize("arguments", FAR.values(), ids=FAR.keys())
def test_features_far_from_scale_one_get_one_hint(run, files, arguments):
    _, notes = fit(run, files, *arguments)
    assert len(notes) == 1
    assert notes[0].startswith("note: the features are far from scale 1")
    assert "--standardize" in notes[0]
    assert ("start_scale" in notes[0]) == (arguments[0] == "vae")


@pytest.mark.parametrize("arguments", NEAR.values(), ids=NEAR.keys())
def test_features_of_the_likelihoods_scale_get_none(run, files, arguments):
    assert fit(run, files, *arguments)[1] == []


def test_a_likelihood_that_starts_at_the_datas_scale_fits_it_sooner(run, files):
    """By hundreds of nats a row: at σ = 0.3 a grey is hundreds of standard deviations from its mean."""
    far, _ = fit(run, files, "vae", "greys", *GAUSSIAN)
    near, _ = fit(run, files, "vae", "greys", *GAUSSIAN, "--set", "start_scale=60", "--overwrite")
    assert near["elbo_mean"] > far["elbo_mean"] + 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*GAUSSIAN, "--set", "start_scale=0"), "positive"),
        ((*GAUSSIAN, "--set", "start_scale=wide"), "it is a number"),
        (("--binarize", "static", "--set", "start_scale=1"), "gaussian-pixel"),
    ],
)
def test_a_scale_that_is_none_is_refused(run, files, options, words):
    code, _, err = run("fit", "vae", files / "shares.npy", *options, "--out", files / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
