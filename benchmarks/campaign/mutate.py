"""Inputs that are almost right: tables, arrays, files of runs and options, changed at random."""

import io
import json
import random
from collections.abc import Sequence

import numpy as np

ODD_CELLS = (
    "",
    " ",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "NA",
    "1e400",
    "1_000",
    "0x10",
    '"',
    '""',
    '"a,b"',
    "a\nb",
    "[/x]",
    "[red]",
    "é",
    "e\u0301",
    "\u200b",
    "\ufeff",
    "٣",
    "True",
    "1,5",
    "-",
    "1e-320",
    "9" * 40,
    "winner",
    "loser",
    "x" * 5000,
    "\x00",
)
ODD_VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1e308,
    float("inf"),
    "",
    "x",
    [],
    {},
    [[1]],
    {"a": 1},
    2**70,
    "nan",
    -0.5,
)


def table(generator: random.Random) -> bytes:
    """A table of games, of features, or of names and numbers, with some cells, lines or bytes changed."""
    rows = generator.choice((_games, _features, _mixed))(generator)
    for _ in range(generator.choice((0, 1, 1, 2, 5))):
        generator.choice((_cell, _row, _column, _again))(generator, rows)
    separator = generator.choice([","] * 8 + [";", "\t", ", "])
    text = generator.choice(["\n"] * 5 + ["\r\n", "\r"]).join(separator.join(row) for row in rows)
    content = (generator.choice(["", "", "", "\ufeff", "\n\n"]) + text).encode(generator.choice(ENCODINGS))
    return damaged(generator, content) if generator.random() < 0.3 else content


ENCODINGS = ["utf-8"] * 8 + ["utf-16", "utf-8-sig"]


def _games(generator: random.Random) -> list[list[str]]:
    players = ["Ann", "Bo", "Cy", "/dan", "[eve]"]
    return [["winner", "loser"], *(generator.sample(players, 2) for _ in range(generator.randint(0, 12)))]


def _features(generator: random.Random) -> list[list[str]]:
    width = generator.randint(1, 5)
    head = [[f"x{i}" for i in range(width)]] if generator.random() < 0.8 else []
    return head + [
        [f"{generator.gauss(0, 1):.3f}" for _ in range(width)] for _ in range(generator.randint(0, 12))
    ]


def _mixed(generator: random.Random) -> list[list[str]]:
    rows = [
        [generator.choice("abc"), str(generator.randint(0, 3)), f"{generator.gauss(0, 1):.2f}"]
        for _ in range(8)
    ]
    return [["name", "x", "y"], *rows]


def _cell(generator: random.Random, rows: list[list[str]]) -> None:
    if rows and (row := generator.choice(rows)):
        row[generator.randrange(len(row))] = generator.choice(ODD_CELLS)


def _row(generator: random.Random, rows: list[list[str]]) -> None:
    if rows:
        row = generator.choice(rows)
        row[:] = [*row, "1"] if generator.random() < 0.5 else row[:-1]


def _column(generator: random.Random, rows: list[list[str]]) -> None:
    for number, row in enumerate(rows):
        row.append(
            generator.choice(("draw", "count", "x", "")) if number == 0 else str(generator.randint(0, 1))
        )


def _again(generator: random.Random, rows: list[list[str]]) -> None:
    if rows:
        rows.insert(generator.randrange(len(rows) + 1), list(generator.choice(rows)))


def array(generator: random.Random) -> tuple[str, bytes]:
    """A .npy or .npz file, whole or damaged: its ending and its bytes."""
    kinds = (
        "float64",
        "float32",
        "int64",
        "uint8",
        "bool",
        "complex128",
        "S3",
        "U2",
        "datetime64[s]",
        "float16",
        "O",
    )
    shape = tuple(generator.choice((0, 1, 2, 7)) for _ in range(generator.choice((0, 1, 2, 2, 2, 3))))
    values = np.random.default_rng(generator.randrange(2**32)).normal(0.0, 3.0, shape)
    with np.errstate(all="ignore"):
        made = np.array(values, dtype=generator.choice(kinds))
    if made.dtype.kind == "f" and made.size and generator.random() < 0.3:
        made.flat[0] = generator.choice((np.nan, np.inf, 1e308 if made.dtype == np.float64 else 1.0))
    memory, ending = io.BytesIO(), generator.choice((".npy", ".npz"))
    if ending == ".npy":
        np.save(memory, made)
    else:
        names = generator.sample(("x", "X", "data", "y", "labels", "a", "b"), generator.randint(0, 3))
        np.savez(memory, **dict.fromkeys(names, made))
    content = memory.getvalue()
    return ending, damaged(generator, content) if generator.random() < 0.6 else content


def damaged(generator: random.Random, content: bytes) -> bytes:
    """Some bytes changed, cut off, doubled or put in front."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 3, 20))):
        if not changed:
            return b"\x00"
        at = generator.randrange(len(changed))
        match generator.randrange(5):
            case 0:
                changed[at] = generator.randrange(256)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = changed[at : at + 16]
            case 3:
                changed[at : at + 8] = bytes(generator.randrange(256) for _ in range(8))
            case _:
                del changed[at : at + generator.randint(1, 64)]
    return bytes(changed)


def json_of_a_run(generator: random.Random, content: bytes) -> bytes:
    """A JSON file whose values are gone, of other types, or whose bytes are damaged."""
    if generator.random() < 0.2:
        return damaged(generator, content)
    found = json.loads(content)
    for _ in range(generator.choice((1, 1, 2, 4))):
        place, keys = found, []
        while isinstance(place, dict | list) and place and (not keys or generator.random() < 0.6):
            keys.append(
                (place, generator.choice(list(place) if isinstance(place, dict) else range(len(place))))
            )
            place = keys[-1][0][keys[-1][1]]
        if keys:
            holder, key = keys[-1]
            if generator.random() < 0.3:
                del holder[key]
            else:
                holder[key] = generator.choice(ODD_VALUES)
    return json.dumps(found).encode()


def options(generator: random.Random, known: Sequence[tuple[str, bool]]) -> list[str]:
    """A few options of a command, each with a value that may or may not be one of its own."""
    values = (
        "0",
        "1",
        "-1",
        "2",
        "0.5",
        "nan",
        "inf",
        "",
        "x",
        "none",
        "auto",
        "iwae",
        "elbo",
        "gaussian",
        "200,200",
        "0:8",
        "8:0",
        "1:",
        "1e9",
        "mean-field",
        "cpu",
        "cuda",
        "guide",
        "prior",
        "exact",
        "[/x]",
        "é",
        "a=b",
        "0.8,0.1,0.1",
        "static",
        "latent_dim=1",
        "logistic",
        "1e-9",
        "99999999999999999999",
    )
    found = []
    for name, is_flag in generator.sample(list(known), min(len(known), generator.choice((1, 1, 2, 3)))):
        found += [name] if is_flag else [name, generator.choice(values)]
    return found
