"""Standardisation, binarisation and splits."""

import time

import numpy as np
import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.data import (
    Dataset,
    Rows,
    as_dataset,
    assign_split,
    binarise,
    dequantise,
    dynamic_binarise,
    load,
    load_dataset,
    split,
    standardise,
)


def rows_with(values, kind="real", **rest) -> Rows:
    values = np.asarray(values)
    return Rows("r", values, tuple(f"f{i}" for i in range(values.shape[1])), kind, **rest)


def test_standardised_rows_have_mean_0_and_1_over_n_deviation_1():
    wine = load("wine")
    rows = standardise(wine)
    assert np.abs(rows.values.mean(axis=0)).max() < 1e-13
    assert np.abs(rows.values.std(axis=0, ddof=0) - 1).max() < 1e-13
    assert np.array_equal(wine.values, load("wine").values)  # the argument is left alone
    assert rows.history == ("standardised",)
    assert rows.warnings == ()
    assert rows.kind == "real"
    assert rows.feature_names == wine.feature_names


def test_standardising_on_the_training_rows_applies_their_scale_to_all():
    rows = standardise(rows_with([[0.0], [2.0], [5.0]]), fit_on=np.array([0, 1]))
    assert rows.values.tolist() == [[-1], [1], [4]]
    assert "2 of 3 rows" in rows.history[0]


def test_constant_features_are_centred_unscaled_and_named_once():
    values = np.column_stack([np.arange(7.0), np.full(7, 0.1), np.full(7, 3.0)])
    rows = standardise(rows_with(values))
    assert np.array_equal(rows.values[:, 1:], np.zeros((7, 2)))
    assert rows.warnings == ("constant features are centred and left unscaled: f1, f2",)


def test_a_feature_constant_in_the_training_rows_only_is_left_unscaled():
    rows = standardise(rows_with([[1.0, 1.0], [1.0, 3.0], [6.0, 5.0]]), fit_on=np.array([0, 1]))
    assert rows.values[:, 0].tolist() == [0, 0, 5]
    assert rows.warnings[0].endswith(": f0")


def test_many_constant_features_are_counted():
    assert standardise(rows_with(np.ones((2, 13)))).warnings[0].endswith("f9 and 3 more")


def test_images_stay_float32():
    rows = standardise(load("digits"))
    assert rows.values.dtype == np.float32
    spread = rows.values.std(axis=0, dtype=np.float64)
    assert np.abs(spread[spread > 0] - 1).max() < 1e-5
    assert rows.image_shape == (8, 8)


@pytest.mark.parametrize("index", [[], [0, 3], [-1], [[0]], [0.5]])
def test_standardising_on_rows_that_are_not_there(index):
    with pytest.raises(InputError):
        standardise(rows_with(np.eye(3)), fit_on=np.array(index))


def test_features_too_large_to_square():
    with pytest.raises(InputError, match="f1"):
        standardise(rows_with([[0.0, 1e300], [1.0, -1e300]]))


def test_static_binarisation_is_one_bernoulli_draw():
    grey = rows_with(np.full((400, 50), 0.3), "grey")
    rows = binarise(grey, "static", seed=0)
    assert set(np.unique(rows.values)) == {0, 1}
    assert rows.kind == "binary"
    assert rows.history == ("binarised (static, seed 0)",)
    # 20,000 draws: five standard errors.
    assert abs(rows.values.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 20_000)
    assert np.array_equal(rows.values, binarise(grey, "static", seed=0).values)
    assert not np.array_equal(rows.values, binarise(grey, "static", seed=1).values)


def test_binary_rows_stay_what_they_are():
    values = np.random.default_rng(0).integers(0, 2, (200, 50)).astype(float)
    assert np.array_equal(binarise(rows_with(values, "binary"), "static", seed=3).values, values)


def test_what_cannot_be_binarised():
    with pytest.raises(InputError, match=r"r cannot be binarised.*\[0, 1\]"):
        binarise(rows_with(np.eye(2)), "static", seed=0)
    with pytest.raises(InputError, match="dynamic"):
        binarise(rows_with(np.eye(2), "grey"), "dynamic", seed=0)
    with pytest.raises(InputError, match="seed"):
        binarise(rows_with(np.eye(2), "grey"), "static", seed=-1)
    for bad in (1.5, -0.1, np.nan):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            dynamic_binarise(np.array([[0.5, bad]]), seed=0, epoch=0)


def test_dynamic_binarisation_is_a_function_of_seed_and_epoch():
    values = np.full((100, 100), 0.5, dtype=np.float32)
    draws = {
        (seed, epoch): dynamic_binarise(values, seed=seed, epoch=epoch)
        for seed in (0, 1, 2**32)
        for epoch in (0, 1, 2)
    }
    for (seed, epoch), draw in draws.items():
        assert draw.dtype == np.float32
        assert np.array_equal(draw, dynamic_binarise(values, seed=seed, epoch=epoch))
    flat = [draw.tobytes() for draw in draws.values()]
    flat += [binarise(rows_with(values, "grey"), "static", seed).values.tobytes() for seed in (0, 1)]
    assert len(set(flat)) == len(flat)


def test_dynamic_binarisation_keeps_the_mean_and_the_ends():
    values = np.tile(np.array([0, 0.1, 0.5, 1], dtype=np.float32), (10_000, 1))
    mean = dynamic_binarise(values, seed=0, epoch=3).mean(axis=0)
    assert mean[[0, 3]].tolist() == [0, 1]
    assert np.all(np.abs(mean[1:3] - [0.1, 0.5]) < 5 * np.sqrt([0.1 * 0.9 / 1e4, 0.25 / 1e4]))


def test_dynamic_binarisation_goes_through_every_block_of_any_layout():
    values = np.full((700, 300), 0.5)[:, ::2]  # not contiguous, and more than one block
    draw = dynamic_binarise(values, seed=0, epoch=0)
    assert draw.shape == (700, 150)
    assert draw.dtype == np.float64
    assert set(np.unique(draw)) == {0, 1}
    # No block is a copy of another.
    halves = draw.reshape(-1)[: 2**16], draw.reshape(-1)[2**16 :]
    assert not np.array_equal(halves[0][: len(halves[1])], halves[1])


def test_dynamic_binarisation_is_fast():
    values = np.full((15_000, 784), 0.5, dtype=np.float32)
    start = time.process_time()
    dynamic_binarise(values, seed=0, epoch=0)
    assert time.process_time() - start < 2  # a quarter of MNIST; about 0.1 s on an idle core


def test_split_is_disjoint_covering_sorted_and_seeded():
    rows = rows_with(np.zeros((101, 1)))
    parts = split(rows, (0.8, 0.1, 0.1), seed=0)
    assert list(parts) == ["train", "validation", "test"]
    assert [len(part) for part in parts.values()] == [81, 10, 10]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(101))
    assert all(np.array_equal(part, np.sort(part)) for part in parts.values())
    again, other = split(rows, (0.8, 0.1, 0.1), seed=0), split(rows, (0.8, 0.1, 0.1), seed=1)
    assert np.array_equal(parts["test"], again["test"])
    assert not np.array_equal(parts["test"], other["test"])
    assert not np.array_equal(parts["test"], np.arange(91, 101))


def test_everything_may_be_training():
    parts = split(rows_with(np.zeros((5, 1))), (1, 0, 0), seed=0)
    assert [part.tolist() for part in parts.values()] == [[0, 1, 2, 3, 4], [], []]


def test_an_official_test_split_is_kept():
    rows = rows_with(np.zeros((70, 1)), splits={"train": np.arange(60), "test": np.arange(60, 70)})
    parts = split(rows, (0.75, 0.25, 0.0), seed=0)
    assert parts["test"].tolist() == list(range(60, 70))
    assert len(parts["validation"]) == 15
    assert sorted([*parts["train"], *parts["validation"]]) == list(range(60))
    with_test = split(rows, (0.6, 0.2, 0.2), seed=0)
    assert np.array_equal(with_test["validation"], parts["validation"])


@pytest.mark.parametrize(
    ("fractions", "word"),
    [
        ((0.5, 0.1, 0.1), "sum to 0.7"),
        ((1.1, -0.1, 0.0), "-0.1"),
        ((0.0, 0.5, 0.5), "training"),
        ((float("nan"), 0.5, 0.5), "nan"),
        ((0.5, 0.5), "three"),
    ],
)
def test_bad_fractions(fractions, word):
    with pytest.raises(InputError, match=word):
        split(rows_with(np.zeros((10, 1))), fractions, seed=0)


def test_too_few_rows_for_a_part():
    with pytest.raises(InputError, match="3 rows, too few for a validation part"):
        split(rows_with(np.zeros((3, 1))), (0.8, 0.1, 0.1), seed=0)


# Data sets


def table_of(values, **rest) -> Dataset:
    names = {f"f{place}": np.asarray(column) for place, column in enumerate(np.asarray(values).T)}
    return as_dataset({**names, **rest}, "r")


def test_of_a_data_set_the_features_are_changed_and_noted_and_nothing_else():
    values = np.random.default_rng(0).normal(3.0, 2.0, (20, 2))
    data = table_of(values, species=["u", "v"] * 10)
    after = standardise(data, fit_on=np.arange(15))
    expected = standardise(rows_with(values), fit_on=np.arange(15))
    assert np.array_equal(after["x"].values, expected.values)
    assert after["x"].labels == {"feature": ("f0", "f1")}
    assert list(after) == ["x", "species"]
    assert after["species"] is data["species"]
    assert after.history == expected.history
    assert list(data) == ["f0", "f1", "species"]


def test_every_step_of_preparing_images_is_in_the_history_of_a_data_set():
    rows, data = load("digits"), load_dataset("digits")
    for one, other in (
        (binarise(data, "static", 3), binarise(rows, "static", 3)),
        (dequantise(data, 3), dequantise(rows, 3)),
        (standardise(data), standardise(rows)),
    ):
        assert one["x"].values.dtype == np.float32
        assert np.array_equal(one["x"].values, other.values)
        assert (one.history, one["x"].kind, one["x"].image_shape) == (other.history, other.kind, (8, 8))
    assigned = assign_split(binarise(data, "static", 3), (0.8, 0.1, 0.1), seed=1)
    for name, part in split(rows, (0.8, 0.1, 0.1), seed=1).items():
        assert np.array_equal(assigned.part(name)["label"].values, rows.labels[part])
    assert assigned.history[-1] == "split (train 1437, validation 180, test 180; seed 1)"


def test_missing_values_are_standardised_around():
    after = standardise(table_of([[1.0, 5], [3, np.nan], [np.nan, 7]]))
    np.testing.assert_array_equal(after["x"].values, [[-1, -1], [1, np.nan], [np.nan, 1]])
    with pytest.raises(InputError, match="has no value of f1"):
        standardise(table_of([[1.0, np.nan], [2, np.nan]]))
    with pytest.raises(InputError, match="missing"):
        binarise(table_of([[0.5, np.nan], [1, 0.25]]), "static", 0)


def test_an_official_test_part_of_a_data_set_is_kept():
    data = table_of(np.zeros((6, 1)), split=["train"] * 4 + ["test"] * 2)
    assert split(data, (0.75, 0.25, 0.0), seed=0)["test"].tolist() == [4, 5]
    assert assign_split(data, (1, 0, 0), seed=0).part("test").num_units == 2
