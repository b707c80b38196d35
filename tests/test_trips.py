"""The counts of `benchmarks.trips`, on a package of which they can be seen."""

import importlib
import sys

import pytest

from benchmarks.trips import (
    HERE,
    Call,
    Law,
    Profile,
    arrows,
    circles,
    imports,
    law_of,
    lines_by_room,
    lines_table,
    trip,
    upwards,
)

FILES = {
    "__init__.py": "from house.top.face import run\n",
    "top/__init__.py": "",
    "top/face.py": "from house.middle import work\n\n\ndef run(data):\n    return work(data, lambda x: x)\n",
    # A face: what it names is somewhere else.
    "middle/__init__.py": "from house.middle.work import work\n",
    "middle/work.py": "from house.low import ground\n\ndef work(x, then):\n    return ground.add(x, then)\n",
    "low/__init__.py": "",
    "low/ground.py": (
        "def add(data, then):\n"
        "    from house.top.aside import again\n\n"
        "    return sum(then(x) + again(x) for x in data)\n"
    ),
    "top/aside.py": "def again(x):\n    return x\n",
    "low/old.py": "from house.top import aside\n\nassert aside\n",
}  # fmt: skip
LAW = Law((("house.top",), ("house.middle",), ("house.low",)), {"house.low.old": "house.top.old"})


@pytest.fixture
def house(tmp_path, monkeypatch):
    root = tmp_path / "house"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
        del sys.modules[name]


def test_imports_are_followed_through_faces_and_into_functions(house):
    assert imports(house) == {
        ("house.top.face", "house.middle.work"),
        ("house.middle.work", "house.low.ground"),
        ("house.low.ground", "house.top.aside"),
        ("house.low.old", "house.top.aside"),
    }


def test_arrows_up_and_circles(house):
    # What has moved is judged in its new room, where its import is nobody else's.
    between = arrows(imports(house), LAW)
    assert set(between) == {
        ("house.top", "house.middle"),
        ("house.middle", "house.low"),
        ("house.low", "house.top"),
    }
    assert upwards(between, LAW) == [("house.low", "house.top")]
    assert circles(between) == [{"house.top", "house.middle", "house.low"}]
    assert circles(pair for pair in between if pair != ("house.low", "house.top")) == []


def test_calls_climb_where_they_are_imported_and_are_handed_otherwise(house):
    edges = imports(house)
    run = importlib.import_module("house").run
    with Profile(house) as profile:
        assert run([1, 2]) == 6
    found = trip(profile.calls, edges, LAW)
    assert found.rooms == ("house.top", "house.middle", "house.low")
    assert found.files == 4
    assert [(call.to_module, call.to_function) for call in found.climbs] == [("house.top.aside", "again")]
    assert [(call.to_module, call.to_function) for call in found.handed] == [
        ("house.top.face", "run.<locals>.<lambda>")
    ]
    # Down to the middle, down to the ground, and the two calls up; what calls itself crosses nothing.
    assert found.crossings == 4


def test_neighbours_on_one_floor_count_as_climbs():
    law = Law((("a",), ("b", "c"), ("d",)), {})
    call = Call("b.x", "f", "c.y", "g")
    assert trip([call], {("b.x", "c.y")}, law).climbs == (call,)
    assert trip([Call("a.x", "f", "d.y", "g")], {("a.x", "d.y")}, law).climbs == ()


def test_the_house_points_one_way():
    law = law_of(HERE)
    between = arrows(imports(HERE / "ppl_vae"), law)
    assert len(between) > 20
    assert upwards(between, law) == []
    assert circles(between) == []


def test_lines_count_for_the_room_that_a_module_is_in_now(house):
    counts = {"now": lines_by_room(house, LAW), "before": {"house.low": 1200}}
    assert counts["now"] == {"": 1, "house.top": 10, "house.middle": 5, "house.low": 4}
    table = [line.split() for line in lines_table(counts, LAW)]
    assert table == [
        ["lines", "now", "before"],
        ["house.top", "10", "0"],
        ["house.middle", "5", "0"],
        ["house.low", "4", "1,200"],
        ["faces", "and", "the", "rest", "1", "0"],
        ["all", "20", "1,200"],
    ]
