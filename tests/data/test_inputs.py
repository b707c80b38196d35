"""What a model declares, and the tensors that it gets from data of any form."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows, Variable, as_dataset, load, load_dataset
from ppl_vae.data.inputs import (
    DUELS,
    Category,
    Count,
    Features,
    Group,
    Index,
    Mask,
    Points,
    Sequence,
    Time,
)
from ppl_vae.data.matching import resolve
from ppl_vae.data.ragged import grouped

TABLE = (
    "a,species,b,visits,site,day\n1,v,0.5,3,9007199254740993,1700000000\n2,u,1,0,7,1700000001\n"
    "4,v,2,12,7,1700000003\n"
)


def written(folder, text):
    path = folder / "t.csv"
    path.write_text(text)
    return as_dataset(path)


def test_a_table_becomes_what_a_model_takes_in_its_order(tmp_path):
    inputs = {"species": Category(), "x": Features(), "visits": Count(), "site": Group(), "day": Time()}
    x, visits, species, site, day = written(tmp_path, TABLE).arguments(inputs, torch.float32)
    # Observed ones first, then what they are conditioned on; features are what nobody else takes.
    assert (x.dtype, x.tolist()) == (torch.float32, [[1, 0.5], [2, 1], [4, 2]])
    assert (visits.dtype, visits.tolist()) == (torch.float32, [3, 0, 12])
    assert (species.dtype, species.tolist()) == (torch.int64, [1, 0, 1])
    assert (site.dtype, site.tolist()) == (torch.int64, [1, 0, 0])
    assert (day.dtype, day.tolist()) == (torch.float64, [1_700_000_000, 1_700_000_001, 1_700_000_003])


def test_observed_inputs_come_first_whatever_their_kind(tmp_path):
    inputs = {"x": Features(observed=False), "species": Category(observed=True)}
    species, x = written(tmp_path, TABLE).select(["a", "species"]).arguments(inputs, torch.float64)
    assert species.tolist() == [1, 0, 1]
    assert x.shape == (3, 1)


def test_a_model_may_ask_for_whole_counts(tmp_path):
    (visits,) = written(tmp_path, TABLE).arguments({"visits": Count(integers=True)})
    assert (visits.dtype, visits.tolist()) == (torch.int64, [3, 0, 12])


def test_columns_may_be_named_by_the_user(tmp_path):
    data = written(tmp_path, TABLE)
    inputs = {"x": Features(), "label": Category()}
    x, label = data.arguments(inputs, torch.float64, columns={"label": "species", "x": ["b", "a"]})
    assert x.tolist() == [[0.5, 1], [1, 2], [2, 4]]
    assert label.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("inputs", "columns", "words"),
    [
        (
            {"label": Category()},
            None,
            r"t.csv has no column 'label', which the model takes: it has a, species, b",
        ),
        ({"label": Category()}, {"label": "kind"}, "t.csv has no variable 'kind': it has a, species"),
        ({"label": Category()}, {"labl": "a"}, "no input 'labl' to take a column for: the model takes label"),
        ({"label": Category()}, {"label": ["a", "b"]}, "one column, not 2"),
        ({"label": Category()}, {"label": "b"}, "Reals are no categories"),
        ({"label": Category(levels=("u", "w"))}, {"label": "species"}, "'v' is none of the categories u, w"),
        ({"x": Features()}, {"x": ["a", "species"]}, "row 2, column 'species': 'v' is not a number"),
        (
            {"x": Features(kinds=("binary", "grey"))},
            {"x": "a"},
            "'x' are real, and the model takes binary or grey",
        ),
        ({"n": Count()}, {"n": "b"}, "must be counts, whole and not negative, not 0.5"),
        ({"n": Count()}, {"n": "species"}, "row 2, column 'species': 'v' is not a number"),
        ({"i": Index()}, {"i": "b"}, "positions that count from 0"),
        ({"t": Time()}, {"t": "species"}, "no date"),
        ({"t": Time()}, {"t": "site"}, r"beyond 2\^53"),
        ({"x": Features()}, {"x": "site"}, "whole numbers are too long for features"),
        ({"s": Sequence()}, None, "no column 's'"),
        ({"p": Points()}, {"p": ["a", "b"]}, "must be sets of points"),
        (
            DUELS,
            None,
            "no column 'winner': games need the columns winner and loser, and it has a, spec",
        ),
    ],
)
def test_what_is_missing_or_unfit_is_said_in_a_sentence(tmp_path, inputs, columns, words):
    with pytest.raises(InputError, match=words) as error:
        written(tmp_path, TABLE).arguments(inputs, columns=columns)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_columns_of_words_are_no_features_and_a_word_among_numbers_is_a_fault(tmp_path):
    data = resolve(written(tmp_path, "a,name\n1,u\n2,v\n"), {"x": Features()})
    assert data["x"].labels == {"feature": ("a",)}
    assert data.warnings == ("columns that hold no numbers are left out: name",)
    with pytest.raises(InputError, match=r"row 3, column 'b': 'two' is not a number\.$"):
        written(tmp_path, "a,b\n1,1\n2,two\n").arguments({"x": Features()})
    with pytest.raises(InputError, match=r"t\.csv has no numeric column for 'x': it has name"):
        written(tmp_path, "name\nu\nv\n").arguments({"x": Features()})


def test_features_of_rows_are_the_tensors_of_rows():
    for name in ("digits", "wine"):
        rows = load(name)
        (x,) = load_dataset(name).arguments({"x": Features()}, torch.float64)
        assert torch.equal(x, rows.tensors(torch.float64)[0])


def test_reals_are_shared_and_never_rounded_in_silence():
    values = np.random.default_rng(0).random((5, 2)).astype(np.float32)
    data = as_dataset(values)
    (x,) = data.arguments({"x": Features()}, torch.float32)
    assert x.data_ptr() == values.ctypes.data
    times = as_dataset({"a": [0.0, 1, 2], "t": 1.7e9 + np.arange(3)})
    with pytest.raises(InputError, match=r"feature t: its values differ by less than float32"):
        times.arguments({"x": Features()}, torch.float32)
    assert times.arguments({"x": Features()}, torch.float64)[0][:, 1].tolist() == [
        1.7e9,
        1.7e9 + 1,
        1.7e9 + 2,
    ]
    with pytest.raises(InputError, match="float32"):
        as_dataset({"n": [2**24, 2**24 + 1]}).arguments({"n": Count()}, torch.float32)


def test_bytes_of_images_fold_into_greys():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 2), dtype=np.uint8)
    data = as_dataset(pixels)
    assert data["x"].kind == "image"
    (x,) = data.arguments({"x": Features(kinds=("grey",))}, torch.float32)
    assert torch.equal(x, torch.tensor(pixels.reshape(4, 6)).float() / 255)
    rows = Rows.of(data)
    assert (rows.image_shape, rows.feature_names[3]) == ((3, 2), "pixel_1_1")


def test_categories_keep_their_levels_in_every_part(tmp_path):
    data = resolve(
        written(tmp_path, TABLE).select(["a", "species", "b"]), {"species": Category(), "x": Features()}
    )
    part = data.take(np.array([0, 2]))
    assert part["species"].levels == ("u", "v")
    (x, species) = part.arguments({"species": Category(), "x": Features()})
    assert species.tolist() == [1, 1]
    assert x.tolist() == [[1, 0.5], [4, 2]]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([10, 9, 10], ("9", "10")),
        (["10", "9", "10"], ("9", "10")),
        ([10.0, 9, 10], ("9", "10")),
        (["b", "a", "b"], ("a", "b")),
        ([True, False, True], ("False", "True")),
        ([2**60 + 1, 2**60, 2**60 + 1], (str(2**60), str(2**60 + 1))),
    ],
)
def test_levels_come_in_their_order(values, levels):
    data = resolve(as_dataset({"label": values}), {"label": Category()})
    assert data["label"].levels == levels
    assert data["label"].values.tolist() == [1, 0, 1]


def test_an_index_is_a_position_or_a_name():
    assert as_dataset({"i": [4, 0, 1]}).arguments({"i": Index()})[0].tolist() == [4, 0, 1]
    assert as_dataset({"i": ["b", "a", "b"]}).arguments({"i": Index()})[0].tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="count from 0"):
        as_dataset({"i": [-1, 2]}).arguments({"i": Index()})


# Missing values


def test_missing_values_are_nan_with_a_mask(tmp_path):
    data = written(tmp_path, "a,b,kind\n1,,u\n,3,v\n4,5,\n")
    inputs = {"x": Features(), "kind": Category(), "x_observed": Mask(), "kind_observed": Mask()}
    x, kind, there, kind_there = data.arguments(inputs, torch.float64)
    assert there.tolist() == [[True, False], [False, True], [True, True]]
    assert torch.equal(there, ~x.isnan())
    assert (kind.tolist(), kind_there.tolist()) == ([0, 1, -1], [True, True, False])


def test_missing_values_without_a_mask_are_refused_with_their_place(tmp_path):
    data = written(tmp_path, "a,b,kind\n1,2,u\n3,,v\n4,5,\n")
    with pytest.raises(InputError, match=r"'b': the cell is empty, and the model takes no missing values\."):
        data.arguments({"x": Features()})
    with pytest.raises(InputError, match=r"row 3, 'kind': the value is missing"):
        data.arguments({"kind": Category()})
    table = pd.DataFrame({"a": [1.0, 2], "b": [1, np.nan]})
    with pytest.raises(InputError, match=r"row 2, 'b': the value is missing"):
        as_dataset(table).arguments({"x": Features()})


def test_a_mask_of_the_users_own_is_taken_together_with_what_is_missing():
    x = np.array([[1.0, np.nan], [3, 4]])
    data = as_dataset({"x": x, "held": np.array([[True, True], [False, True]])})
    inputs = {"x": Features(), "m": Mask(of="x")}
    assert data.arguments(inputs, columns={"m": "held"})[1].tolist() == [[True, False], [False, True]]
    with pytest.raises(InputError, match=r"must be booleans of shape \(2, 2\)"):
        as_dataset({"x": x, "held": [True, False]}).arguments(inputs, columns={"m": "held"})


# Sequences and sets


def test_sequences_are_arrays_wide_columns_or_lines_of_a_table(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    (array,) = as_dataset({"y": values}).arguments({"y": Sequence()})
    (wide,) = written(tmp_path, "y10,y2,y1\n2,1,0\n5,4,3\n").arguments({"y": Sequence()})
    long = "patient,y\nb,0\na,3\nb,1\nb,2\na,4\na,5\n"
    (lines,) = written(tmp_path, long).arguments({"y": Sequence()}, columns={"unit": "patient"})
    for found in (array, wide, lines):
        assert found.tolist() == values.tolist()


def test_sequences_of_several_lengths_end_in_nan_with_a_mask(tmp_path):
    text = "patient,age,u,v\nb,50,1,2\na,40,5,6\nb,50,3,4\n"
    inputs = {"x": Sequence(), "age": Time(), "x_observed": Mask()}
    x, age, there = written(tmp_path, text).arguments(inputs, torch.float64, columns={"unit": "patient"})
    assert x.shape == (2, 2, 2)
    assert x[0].tolist() == [[1, 2], [3, 4]]
    assert (x[1, 0].tolist(), x[1, 1].isnan().tolist()) == ([5, 6], [True, True])
    assert torch.equal(there, ~x.isnan())
    # What is one value a unit stays one.
    assert age.tolist() == [50, 40]
    with pytest.raises(InputError, match="the value is missing, and the model takes no missing values"):
        written(tmp_path, text).arguments({"x": Sequence()}, columns={"unit": "patient"})


def test_points_come_from_arrays_and_ragged_ones(tmp_path):
    values = np.random.default_rng(0).random((3, 4, 2))
    (points,) = as_dataset({"p": values}).arguments({"p": Points()}, torch.float64)
    assert torch.equal(points, torch.tensor(values))
    np.savez(tmp_path / "p.npz", p=values.reshape(12, 2), p_offsets=np.array([0, 4, 5, 12]))
    inputs = {"p": Points(), "there": Mask(of="p")}
    points, there = as_dataset(tmp_path / "p.npz").arguments(inputs, torch.float64)
    assert points.shape == (3, 7, 2)
    assert there[:, :, 0].sum(1).tolist() == [4, 1, 7]
    assert torch.equal(points[2], torch.tensor(values.reshape(12, 2)[5:]))


def test_grouping_keeps_the_order_of_first_appearance_and_is_noted():
    data = grouped(as_dataset({"who": ["z", "a", "z"], "y": [1.0, 2, 3]}), "who")
    assert data["who"].names().tolist() == ["z", "a"]
    assert data["y"].offsets.tolist() == [0, 2, 3]
    assert data["y"].values.tolist() == [1, 3, 2]
    assert data.history == ("grouped by who",)
    with pytest.raises(InputError, match="ragged already"):
        grouped(data, "who")


# Dates and games


def test_dates_are_seconds_since_1970_in_float64():
    text = as_dataset({"t": ["1970-01-02", "2024-02-29T12:00", None]})
    dates = as_dataset({"t": np.array(["1970-01-02", "2024-02-29T12:00", "NaT"], dtype="datetime64[s]")})
    expected = pd.Timestamp("2024-02-29T12:00").timestamp()
    for data in (text, dates):
        time, there = data.arguments({"t": Time(), "t_observed": Mask()}, torch.float32)
        assert time[:2].tolist() == [86_400, expected]
        assert there.tolist() == [True, True, False]


def test_games_come_from_files_and_tables_alike(tmp_path):
    text = "winner,loser\nAnn,Bo\nCy,Ann\n"
    path = tmp_path / "g.csv"
    path.write_text(text)
    for data in (as_dataset(path), as_dataset(pd.read_csv(path)), load(str(path))):
        outcome, players = as_dataset(data).arguments(DUELS)
        assert players.dtype == torch.int64
        assert (outcome.tolist(), players.tolist()) == ([1, 1], [[0, 1], [2, 0]])
    ready = resolve(as_dataset(path), DUELS)
    assert ready["players"].levels == ("Ann", "Bo", "Cy")
    assert all(resolve(ready, DUELS)[name] is ready[name] for name in DUELS)


def test_resolving_twice_is_resolving_once(tmp_path):
    inputs = {"x": Features(), "species": Category(), "visits": Count(), "site": Group(), "day": Time()}
    once = resolve(written(tmp_path, TABLE), inputs)
    twice = resolve(once, inputs)
    for name in inputs:
        assert np.array_equal(once[name].values, twice[name].values)
        assert once[name].levels == twice[name].levels


def test_the_split_is_kept_and_is_no_feature(tmp_path):
    data = resolve(written(tmp_path, "a,split\n1,train\n2,test\n3,train\n"), {"x": Features()})
    assert data.part("train")["x"].values.tolist() == [[1], [3]]
    assert data.warnings == ()
    assert json.dumps(data["split"].levels) == '["test", "train"]'


def test_only_matrices_that_are_told_apart_are_features():
    with pytest.raises(InputError, match=re.escape("its only one; it holds u (2, 2), v (2, 3)")):
        as_dataset({"u": np.eye(2), "v": np.ones((2, 3))}).arguments({"x": Features()})
    data = as_dataset({"X": np.eye(2), "v": np.ones((2, 3)), "y": [0, 1]})
    x, label, v = data.arguments({"x": Features(), "label": Category(), "v": Features(observed=False)})
    assert (x.shape, v.shape, label.tolist()) == ((2, 2), (2, 3), [0, 1])


def test_a_variable_may_be_given_with_its_kind():
    data = as_dataset({"y": Variable(np.array([3, 1]), "count"), "x": [[1.0], [2.0]]})
    assert data["y"].kind == "count"
