"""From a data set to a model's arguments: what a fit does with data, step by step."""

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data import (
    Rows,
    as_dataset,
    binarise,
    dynamic_binarise,
    load,
    load_dataset,
    prepare,
    split,
    standardise,
)
from ppl_vae.data.inputs import DUELS, Category, Features, Sequence

X = {"x": Features()}
SHARES = (0.7, 0.2, 0.1)


def test_rows_arrive_as_they_did_step_by_step():
    rows = load("wine")
    parts = split(rows, SHARES, 3)
    by_hand = standardise(rows, fit_on=parts["train"]).take(parts["train"]).tensors(torch.float64)
    ready = prepare(load_dataset("wine"), X, seed=3, fractions=SHARES, standardize=True)
    assert torch.equal(ready.arguments("train", torch.float64)[0], by_hand[0])
    view = Rows.of(ready.dataset)
    assert view.history == standardise(rows, fit_on=parts["train"]).history
    assert np.array_equal(view.labels, rows.labels)
    assert view.feature_names == rows.feature_names


def test_greys_are_drawn_once_or_anew_for_every_epoch():
    rows = load("digits")
    parts = split(rows, SHARES, 3)
    static = binarise(rows, "static", 3).take(parts["train"]).values
    for how in ("static", "dynamic"):
        ready = prepare(load_dataset("digits"), X, seed=3, fractions=SHARES, binarize=how)
        assert np.array_equal(ready.arguments("train", torch.float32)[0].numpy(), static)
        assert (ready.grey is None) == (how == "static")
    (drawn,) = ready.epoch(3, 2, torch.float32)
    assert np.array_equal(drawn.numpy(), dynamic_binarise(rows.values[parts["train"]], 3, 2))


def test_what_a_model_is_conditioned_on_follows_its_units_and_keeps_its_levels():
    labelled = {"image": Features(), "label": Category()}
    digits = load("digits")
    ready = prepare(load_dataset("digits"), labelled, seed=1, fractions=SHARES, binarize="dynamic")
    parts = split(digits, SHARES, 1)
    for part in ("train", "validation", "test"):
        image, label = ready.arguments(part, torch.float32)
        assert image.shape == (len(label), 64)
        assert label.tolist() == digits.labels[parts[part]].tolist()
    fresh, label = ready.epoch(1, 0, torch.float32)
    assert set(fresh.unique().tolist()) == {0, 1}
    assert label.tolist() == digits.labels[parts["train"]].tolist()
    assert len(ready.dataset["label"].levels) == 10


def test_float32_columns_are_standardised_in_float64(tmp_path):
    values = np.random.default_rng(0).normal(1e3, 1, (50, 2)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    ready = prepare(as_dataset(tmp_path / "a.npy"), X, standardize=True)
    expected = standardise(load(str(tmp_path / "a.npy"))).values
    assert np.array_equal(ready.arguments("train", torch.float64)[0].numpy(), expected)


def test_games_are_all_for_training():
    ready = prepare(load_dataset("al-east-1987"), DUELS)
    outcome, players = ready.arguments("train", torch.float64)
    assert (outcome == 1).all()
    assert torch.equal(players, load("al-east-1987").duels()[1])


@pytest.mark.parametrize(
    ("data", "inputs", "asked", "words"),
    [
        ("al-east-1987", X, {}, "needs rows of features; al-east-1987 is a table of games"),
        ("iris", DUELS, {}, "iris has no column 'winner'"),
        ("iris", X, {"standardize": True, "binarize": "static"}, "exclude each other"),
        ("iris", X, {"binarize": "static"}, "iris cannot be binarised"),
        ("iris", {"label": Category(observed=True)}, {"standardize": True}, "takes no matrix of features"),
        ("iris", {"y": Sequence()}, {}, "iris has no column 'y'"),
    ],
)
def test_what_cannot_be_prepared_is_said(data, inputs, asked, words):
    with pytest.raises(InputError, match=words):
        prepare(load_dataset(data), inputs, **asked)


def test_parts_that_are_empty_are_said():
    with pytest.raises(InputError, match="no test rows; it has train"):
        prepare(load_dataset("iris"), X).arguments("test", torch.float64)
