"""Draws in files that other programs wrote."""

from pathlib import Path
from typing import Any

import arviz
import numpy as np
import pytest
import xarray as xr

from ppl_vae.answers.foreign import dataset_of_columns, foreign_draws
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import compare

PLAYERS = ["Ann", "Bob", "Cyd"]
# Files that hold more or less than the model does, for tests of something else.
others = pytest.mark.filterwarnings("ignore:.*compared:")


@pytest.fixture
def like() -> Posterior:
    """What the model's own inference answers."""
    generator = np.random.default_rng(0)
    draws = xr.Dataset(
        {
            "skill": (("chain", "draw", "player"), generator.normal([0.0, 1.0, 2.0], size=(1, 500, 3))),
            "scale": (("chain", "draw"), generator.gamma(5.0, size=(1, 500))),
        },
        coords={"player": PLAYERS},
    )
    return Posterior(draws, "guide", "independent")


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        "skill": generator.normal([0.0, 1.0, 2.0], size=(4, 500, 3)),
        "scale": generator.gamma(5.0, size=(4, 500)),
        "lp": generator.normal(size=(4, 500)),
    }


def _from_dict(groups: dict[str, Any], attrs: dict[str, Any] | None = None, **options: object) -> Any:
    """What ArviZ makes of dictionaries, which it takes one by one before its 1.0."""
    if arviz.__version__.startswith("0."):
        about = {f"{group}_attrs": values for group, values in (attrs or {}).items()}
        return arviz.from_dict(**groups, **about, **options)
    return arviz.from_dict(groups, attrs=attrs, **options)


def _arviz_file(values: dict[str, np.ndarray], path: Path, **options: object) -> Path:
    diverging = np.zeros((4, 500), dtype=bool)
    diverging[2, 7] = True
    data = _from_dict(
        {"posterior": values, "sample_stats": {"diverging": diverging}},
        {"posterior": {"inference_library": "numpyro", "sampling_time": 3.5}},
        **options,
    )
    data.to_netcdf(str(path))
    return path


@others
def test_a_file_of_arviz_is_matched_by_name_and_place(
    like: Posterior, values: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = _arviz_file(values, tmp_path / "draws.nc")
    plain = foreign_draws(path)
    assert set(plain.draws) == {"skill", "scale", "lp"}
    assert plain.draws["skill"].dims == ("chain", "draw", "skill_dim_0")
    found = foreign_draws(path, like)
    assert set(found.draws) == {"skill", "scale"}
    assert list(found.scalars()) == ["skill[Ann]", "skill[Bob]", "skill[Cyd]", "scale"]
    np.testing.assert_array_equal(found.draws["skill"], values["skill"])
    assert (found.method, found.dependence, found.seconds) == ("numpyro", "chains", 3.5)
    assert int(found.stats["diverging"].sum()) == 1
    compared = compare(like, reference=found)
    assert compared.verdicts == {"guide": "agrees"}
    assert compared.reference == "numpyro"


@others
def test_labels_in_another_order_are_brought_into_the_models(
    like: Posterior, values: dict[str, np.ndarray], tmp_path: Path
) -> None:
    moved = {**values, "skill": values["skill"][..., [2, 0, 1]]}
    path = _arviz_file(
        moved, tmp_path / "d.nc", coords={"name": ["Cyd", "Ann", "Bob"]}, dims={"skill": ["name"]}
    )
    np.testing.assert_array_equal(foreign_draws(path, like).draws["skill"], values["skill"])


@others
def test_a_tree_of_xarray_is_read_too(like: Posterior, values: dict[str, np.ndarray], tmp_path: Path) -> None:
    """As ArviZ 1.x writes it, here with the dimensions in another order."""
    posterior = xr.Dataset(
        {"skill": (("player", "chain", "draw"), np.moveaxis(values["skill"], 2, 0))},
        attrs={"inference_library": "pymc"},
    )
    tree = xr.DataTree.from_dict({"posterior": posterior, "observed_data": xr.Dataset({"y": ("i", [1.0])})})
    path = tmp_path / "tree.nc"
    tree.to_netcdf(path, engine="h5netcdf")
    found = foreign_draws(path, like)
    np.testing.assert_array_equal(found.draws["skill"], values["skill"])
    assert found.method == "pymc"
    assert np.isnan(found.seconds)


def test_our_own_files_keep_what_they_say(like: Posterior, tmp_path: Path) -> None:
    like.save(tmp_path / "own.nc")
    found = foreign_draws(tmp_path / "own.nc", like)
    assert (found.method, found.dependence) == ("guide", "independent")
    assert found.draws.equals(like.draws.drop_vars(["chain", "draw"], errors="ignore"))


# CmdStan -----------------------------------------------------------------------------------------


def _cmdstan(path: Path, values: dict[str, np.ndarray], chain: int) -> None:
    head = "# stan_version_major = 2\nlp__,accept_stat__,divergent__,skill.1,skill.2,skill.3,scale\n"
    lines = []
    for draw in range(500):
        numbers = [values["lp"][chain, draw], 0.9, float(draw == 3), *values["skill"][chain, draw]]
        lines.append(",".join(map(repr, map(float, [*numbers, values["scale"][chain, draw]]))))
    adapted = "# Adaptation terminated\n# Step size = 0.5\n"
    path.write_text(head + adapted + "\n".join(lines) + "\n# Elapsed Time: 0.1 seconds\n")


def test_tables_of_cmdstan_are_chains(like: Posterior, values: dict[str, np.ndarray], tmp_path: Path) -> None:
    for chain in range(4):
        _cmdstan(tmp_path / f"out_{chain + 1}.csv", values, chain)
    found = foreign_draws(tmp_path, like)
    np.testing.assert_allclose(found.draws["skill"], values["skill"])
    assert found.stats["diverging"].sum("draw").to_numpy().tolist() == [1] * 4
    np.testing.assert_allclose(found.stats["lp"], values["lp"])
    assert found.method == "cmdstan"
    one = foreign_draws(tmp_path / "out_3.csv", like)
    np.testing.assert_allclose(one.draws["scale"], values["scale"][2:3])


def test_columns_become_arrays_whatever_their_order() -> None:
    values = np.arange(10.0).reshape(1, 1, 10)
    names = ["b[2,1]", "b[1,1]", "b[1,2]", "b[2,2]", "a", "c.2", "c.1", "b[1,3]", "b[2,3]", "d[1]"]
    found = dataset_of_columns(names, values)
    assert found["b"][0, 0].to_numpy().tolist() == [[1, 2, 7], [0, 3, 8]]
    assert found["c"][0, 0].to_numpy().tolist() == [6, 5]
    assert found["a"].dims == ("chain", "draw")
    assert found["d"].shape == (1, 1, 1)
    with pytest.raises(InputError, match="columns of b are no full array"):
        dataset_of_columns(["b[1]", "b[3]"], values[..., :2])
    with pytest.raises(InputError, match="columns of b are no full array"):
        dataset_of_columns(["b", "b[1]"], values[..., :2])


# Bad files ---------------------------------------------------------------------------------------


@others
def test_a_posterior_of_other_parameters_gets_a_sentence(
    like: Posterior, values: dict[str, np.ndarray], tmp_path: Path
) -> None:
    other = _arviz_file({"alpha": values["scale"], "beta": values["skill"]}, tmp_path / "other.nc")
    with pytest.raises(
        InputError, match=r"of other parameters: it has alpha, beta; the model has skill, scale"
    ):
        foreign_draws(other, like)
    short = _arviz_file({"skill": values["skill"][..., :2]}, tmp_path / "short.nc")
    with pytest.raises(InputError, match=r"its skill has the shape \(2,\), the model's \(3,\)"):
        foreign_draws(short, like)
    named = _arviz_file(
        values, tmp_path / "named.nc", coords={"name": ["Dan", "Ann", "Bob"]}, dims={"skill": ["name"]}
    )
    with pytest.raises(InputError, match="has the labels Dan, Ann, Bob, the model's Ann, Bob, Cyd"):
        foreign_draws(named, like)


def test_files_without_draws_get_a_sentence(values: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        foreign_draws(tmp_path / "nothing.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(InputError, match="no NetCDF file"):
        foreign_draws(tmp_path / "text.nc")
    _from_dict({"prior": values}).to_netcdf(str(tmp_path / "prior.nc"))
    with pytest.raises(InputError, match=r"no group 'posterior' \(its groups: prior\)"):
        foreign_draws(tmp_path / "prior.nc")
    (tmp_path / "words.csv").write_text("name,place\nAnn,Bonn\n")
    with pytest.raises(InputError, match="is no table of draws"):
        foreign_draws(tmp_path / "words.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.csv files"):
        foreign_draws(tmp_path / "empty")


NAMED_OTHERWISE = {
    "one renamed": (
        {"skill": "skill", "sigma": "scale"},
        "lacks the model's scale and holds sigma, which the model does not have; compared: skill",
    ),
    "one missing": ({"skill": "skill"}, "lacks the model's scale; compared: skill"),
    "one of another case": (
        {"Skill": "skill", "scale": "scale"},
        "lacks the model's skill and holds Skill, which the model does not have; compared: scale",
    ),
    "one too many": (
        {"skill": "skill", "scale": "scale", "lp": "lp"},
        "holds lp, which the model does not have; compared: skill, scale",
    ),
}


@pytest.mark.parametrize(("names", "words"), NAMED_OTHERWISE.values(), ids=NAMED_OTHERWISE.keys())
def test_variables_without_a_partner_are_named(
    like: Posterior, values: dict[str, np.ndarray], tmp_path: Path, names: dict[str, str], words: str
) -> None:
    path = _arviz_file({new: values[old] for new, old in names.items()}, tmp_path / "d.nc")
    with pytest.warns(UserWarning, match="^[^\n]*d.nc " + words + "$"):
        found = foreign_draws(path, like)
    if "lacks" not in words:
        assert set(found.draws) == {"skill", "scale"}
        return
    with pytest.raises(
        InputError, match=r"d.nc lacks the model's \w+.*; all variables of the model are needed"
    ):
        foreign_draws(path, like, whole=True)


@pytest.mark.filterwarnings("error")
def test_the_models_own_variables_get_no_note(
    like: Posterior, values: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = _arviz_file({name: values[name] for name in ("scale", "skill")}, tmp_path / "d.nc")
    assert set(foreign_draws(path, like, whole=True).draws) == {"skill", "scale"}
