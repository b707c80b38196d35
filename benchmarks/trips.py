"""Which rooms data pass through: ``python -m benchmarks.trips [CHECKOUT …] [--at REF …] [--lines]``.

Three counts for each checkout, by default this one, and for each revision (``--at ea19372`` is 0.1.0), all on
the floors of this checkout's import law; modules that have moved since count for the room they are in now.

- **imports**, read off the source: arrows between rooms, those that point to a higher floor or to a neighbour
  on the same one, and rooms that depend on each other in a circle;
- **calls**, from a profile of a fit of a small data set and its check, both from the command line, and of
  `importance.log_evidence` on that run: how many rooms and files they enter, how many different calls cross
  from room to room, and how many of those go to a higher floor or to a neighbour. They *climb* where the
  caller's file imports what it calls; else the caller was *handed* it: a model or guide, a function to trace,
  a handler that PyTorch or Pyro calls. A call belongs to the nearest function of the package on the stack;
- **lines** of Python by room, side by side: what grew, and what became smaller (``--lines``: nothing else).

Only the main thread is profiled. ``--list`` names every arrow up and every climb.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

HERE = Path(__file__).resolve().parent.parent
TRIPS = ("fit", "check", "log_evidence")
CASE = ("ppca", "iris")
BUDGET = "60s"
# Of 0.1.0, and neither moved nor kept: the rooms of what took their place.
GONE = {
    "ppl_vae.diagnostics.checking": "ppl_vae.diagnostics.verdict",
    "ppl_vae.inference.stops": "ppl_vae.inference.fitting",
}


@dataclass(frozen=True)
class Law:
    """Floors of rooms, the highest first, rooms of one floor together; and where old modules are now."""

    floors: tuple[tuple[str, ...], ...]
    moved: Mapping[str, str]

    def room(self, module: str) -> str | None:
        """The room that a module is in; None for faces, which are in none."""
        module = GONE.get(module, self.moved.get(module, module))
        rooms = (room for floor in self.floors for room in floor)
        return next((room for room in rooms if f"{module}.".startswith(f"{room}.")), None)

    def height(self, room: str) -> int:
        """Of its floor; the lowest is 0."""
        return next(i for i, floor in enumerate(reversed(self.floors)) if room in floor)


def law_of(checkout: Path) -> Law:
    """The law that a checkout's pyproject.toml states."""
    settings = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(found["layers"] for found in settings["contracts"] if found["type"] == "layers")
    floors = tuple(tuple(room.strip() for room in layer.split("|")) for layer in layers)
    spec = importlib.util.spec_from_file_location("moved", checkout / "ppl_vae" / "moved.py")
    if spec is None or spec.loader is None:
        return Law(floors, {})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Law(floors, module.MOVED)


# Imports ---------------------------------------------------------------------------------------------------


def imports(root: Path) -> set[tuple[str, str]]:
    """(importer, imported) for the modules of the package at root, those inside functions too.

    A name that comes from a face is followed to the module that defines it; what the faces themselves import
    counts for nobody.
    """
    trees = {_module(path, root): ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}
    for stub in sorted(root.rglob("__init__.pyi")):
        trees[_module(stub, root)].body += ast.parse(stub.read_text()).body
    packages = {_module(path, root) for path in root.rglob("__init__.py")}
    names = {face: _named(face, trees[face], packages) for face in packages}
    return {
        (module, found)
        for module, tree in trees.items()
        if module not in packages
        for source, name in _targets(module, tree, packages)
        if (found := _origin(source, name, trees, names)) is not None and found != module
    }


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(module: str, tree: ast.AST, packages: set[str]) -> Iterator[tuple[str, str]]:
    """(module, name) of every import; the name is empty where a module itself is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + (module in packages)]
                source = ".".join([*base, *filter(None, [node.module])])
            yield from ((source, alias.name) for alias in node.names)


def _named(face: str, tree: ast.AST, packages: set[str]) -> dict[str, tuple[str, str]]:
    return {name: (source, name) for source, name in _targets(face, tree, packages) if name}


def _origin(
    source: str, name: str, trees: Mapping[str, Any], names: Mapping[str, Mapping[str, tuple[str, str]]]
) -> str | None:
    """The module that a name comes from, through any number of faces; None for other packages."""
    if source not in trees:
        return None
    if f"{source}.{name}" in trees:
        return f"{source}.{name}"
    further = names.get(source, {}).get(name)
    return source if further is None or further == (source, name) else _origin(*further, trees, names)


def arrows(edges: Iterable[tuple[str, str]], law: Law) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The imports between rooms, by the two rooms."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for edge in sorted(edges):
        one, other = map(law.room, edge)
        if one and other and one != other:
            found.setdefault((one, other), []).append(edge)
    return found


def upwards(pairs: Iterable[tuple[str, str]], law: Law) -> list[tuple[str, str]]:
    """Those pairs of rooms of which the second is not on a lower floor."""
    return [pair for pair in pairs if law.height(pair[1]) >= law.height(pair[0])]


def circles(pairs: Iterable[tuple[str, str]]) -> list[set[str]]:
    """Rooms that depend on each other: strongly connected sets of more than one."""
    reached: dict[str, set[str]] = {}
    for one, other in pairs:
        reached.setdefault(one, set()).add(other)
        reached.setdefault(other, set())
    for middle in reached:
        for room in reached:
            if middle in reached[room]:
                reached[room] |= reached[middle]
    found: list[set[str]] = []
    for room in reached:
        circle = {other for other in reached[room] if room in reached[other]} | {room}
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


# Calls -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A function of the package that another called, directly or through other packages."""

    from_module: str
    from_function: str
    to_module: str
    to_function: str


class Profile:
    """Writes down the different calls within a package, in the order in which they first came.

    Args:
        root: the package's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = f"{root.resolve()}{os.sep}"
        self.calls: list[Call] = []
        self._inside: dict[CodeType, bool] = {}
        self._seen: set[tuple[int, int]] = set()

    def __enter__(self) -> Profile:
        self._before = sys.getprofile()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not self._belongs(frame.f_code):
            return
        caller = frame.f_back
        while caller is not None and not self._belongs(caller.f_code):
            caller = caller.f_back
        if caller is None or (key := (id(caller.f_code), id(frame.f_code))) in self._seen:
            return
        self._seen.add(key)
        if "<module>" not in (caller.f_code.co_name, frame.f_code.co_name):
            self.calls.append(Call(*_place(caller), *_place(frame)))

    def _belongs(self, code: CodeType) -> bool:
        # What dataclasses and templates generate has no file of Python, and so makes no call of its own.
        if code not in self._inside:
            name = code.co_filename
            self._inside[code] = name.startswith(self.root) and name.endswith(".py")
        return self._inside[code]


def _place(frame: FrameType) -> tuple[str, str]:
    return frame.f_globals["__name__"], getattr(frame.f_code, "co_qualname", frame.f_code.co_name)


@dataclass(frozen=True)
class Trip:
    """What the calls of one trip come to.

    Attributes:
        rooms, files: that they enter.
        crossings: different calls from one room into another.
        climbs: those to a higher floor or a neighbour on the same one, of what the caller's file imports.
        handed: the same, of what the caller was handed.
    """

    rooms: tuple[str, ...]
    files: int
    crossings: int
    climbs: tuple[Call, ...]
    handed: tuple[Call, ...]


def trip(calls: Iterable[Call], edges: set[tuple[str, str]], law: Law) -> Trip:
    """Count calls on the floors of a law; those of modules without a room are left out.

    Args:
        calls: from a `Profile`.
        edges: from `imports`.
        law: whose floors count.
    """
    ends = [(call, law.room(call.from_module), law.room(call.to_module)) for call in calls]
    inside = [(call, one, other) for call, one, other in ends if one and other]
    crossing = [(call, one, other) for call, one, other in inside if one != other]
    rising = [call for call, one, other in crossing if law.height(other) >= law.height(one)]
    entered = dict.fromkeys(room for _, one, other in inside for room in (one, other))
    files = {module for call, _, _ in inside for module in (call.from_module, call.to_module)}
    return Trip(
        rooms=tuple(entered),
        files=len(files),
        crossings=len(crossing),
        climbs=tuple(call for call in rising if (call.from_module, call.to_module) in edges),
        handed=tuple(call for call in rising if (call.from_module, call.to_module) not in edges),
    )


def _record(run: Path, written: Path) -> None:
    """In a process whose ppl_vae is the one to profile: make the trips, and write their calls down."""
    import ppl_vae
    from ppl_vae import importance
    from ppl_vae.cli import main

    def shell(*arguments: str) -> None:
        sys.argv = ["ppl-vae", *arguments]
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                raise

    profiles = {name: Profile(Path(ppl_vae.__file__).parent) for name in TRIPS}
    with profiles["fit"]:
        shell("fit", *CASE, "--no-stop", "--steps", "200", "--out", str(run), "--json")
    with profiles["check"]:
        shell("check", str(run), "--budget", BUDGET, "--json")
    try:
        opened = ppl_vae.load(run)
    except AttributeError:
        from ppl_vae.run import Run

        opened = Run.open(run)
    pair, data = opened.pair, opened.tensors("train")
    with profiles["log_evidence"]:
        importance.log_evidence(pair, *data, num_samples=100)
    found = {name: [astuple(call) for call in profile.calls] for name, profile in profiles.items()}
    written.write_text(json.dumps(found))


def profiled(checkout: Path, folder: Path) -> dict[str, list[Call]]:
    """The calls of each trip in a checkout, made by this Python in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "PPL_VAE_CACHE": str(folder / "cache")}
    written = folder / "calls.json"
    # -P: nothing beside this file may be taken for a module of the checkout's.
    arguments = ["-P", __file__, "--record", str(folder / "run"), str(written)]
    done = subprocess.run([sys.executable, *arguments], cwd=checkout, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{checkout}: the trips failed\n{done.stderr[-2000:]}")
    return {name: [Call(*call) for call in calls] for name, calls in json.loads(written.read_text()).items()}


# The table -------------------------------------------------------------------------------------------------


def report(name: str, checkout: Path, law: Law, *, list_all: bool) -> list[str]:
    """The lines that are printed of a checkout."""
    edges = imports(checkout / "ppl_vae")
    between = arrows(edges, law)
    up = upwards(between, law)
    modules = {module for edge in edges for module in edge if law.room(module)}
    lines = [
        f"{name}: {len(modules)} files import each other; {len(between)} arrows between "
        f"{len({law.room(module) for module in modules})} rooms, {len(up)} of them up "
        f"({sum(len(between[pair]) for pair in up)} imports); "
        f"in circles: {sum(map(len, circles(between)))} rooms",
        f"  {'trip':14}{'rooms':>7}{'files':>7}{'crossings':>11}{'climbs':>8}{'handed up':>11}",
    ]
    if list_all:
        lines += [f"  up: {one} → {other}" for pair in up for one, other in between[pair]]
    with tempfile.TemporaryDirectory() as folder:
        for trip_name, calls in profiled(checkout, Path(folder)).items():
            found = trip(calls, edges, law)
            lines.append(
                f"  {trip_name:14}{len(found.rooms):7}{found.files:7}{found.crossings:11}"
                f"{len(found.climbs):8}{len(found.handed):11}"
            )
            if list_all:
                lines.append(f"    enters: {', '.join(found.rooms)}")
                lines += [f"    climbs: {_spelt(call)}" for call in found.climbs]
                lines += [f"    handed: {_spelt(call)}" for call in found.handed]
    return lines


def lines_by_room(root: Path, law: Law) -> dict[str, int]:
    """Lines of Python, comments and blank ones too, by room; of faces and what else has none under ""."""
    found: dict[str, int] = {}
    for path in sorted(root.rglob("*.py")):
        room = law.room(_module(path, root)) or ""
        found[room] = found.get(room, 0) + len(path.read_text().splitlines())
    return found


def lines_table(counts: Mapping[str, Mapping[str, int]], law: Law) -> list[str]:
    """A row for each room from the top floor down, a column for each checkout."""
    rooms = [*(room for floor in law.floors for room in floor), ""]
    rows = {room or "faces and the rest": [found.get(room, 0) for found in counts.values()] for room in rooms}
    rows["all"] = [sum(found.values()) for found in counts.values()]
    head = f"  {'lines':34}" + "".join(f"{name[-14:]:>16}" for name in counts)
    return [head, *(f"  {name:34}" + "".join(f"{n:16,}" for n in row) for name, row in rows.items())]


def _spelt(call: Call) -> str:
    return f"{call.from_module}.{call.from_function} → {call.to_module}.{call.to_function}"


def main() -> None:
    """Print the table of every checkout and revision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkouts", type=Path, nargs="*", metavar="CHECKOUT", help="by default this one")
    parser.add_argument(
        "--at", action="append", default=[], metavar="REF", help="a revision of this repository"
    )
    parser.add_argument("--list", action="store_true", help="name every arrow up and every climb")
    parser.add_argument("--lines", action="store_true", help="count lines alone")
    parser.add_argument("--record", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.record:
        _record(*given.record)
        return
    law, counts = law_of(HERE), dict[str, Mapping[str, int]]()
    for name, checkout in _checkouts(given.checkouts or [HERE], given.at):
        counts[name] = lines_by_room(checkout / "ppl_vae", law)
        if not given.lines:
            print(*report(name, checkout, law, list_all=given.list), sep="\n", flush=True)
    print(*lines_table(counts, law), sep="\n")


def _checkouts(folders: Iterable[Path], refs: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Each checkout by its name; a revision's stays while it is looked at."""
    yield from ((str(folder), folder.resolve()) for folder in folders)
    for ref in refs:
        with tempfile.TemporaryDirectory() as folder:
            tree = f"{folder}/tree"
            git = ["git", "-C", str(HERE), "worktree"]
            subprocess.run([*git, "add", "--quiet", "--detach", tree, ref], check=True)
            try:
                yield ref, Path(tree)
            finally:
                subprocess.run([*git, "remove", "--force", tree], check=True)


if __name__ == "__main__":
    main()
