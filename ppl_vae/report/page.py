"""A report: one HTML file with everything in it, which asks the network for nothing and runs no script."""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from ppl_vae.base.files import write_text
from ppl_vae.diagnostics.verdict.rule import Finding, Status

__all__ = ["Banner", "Part", "Picture", "Section", "Table", "Tone", "write_page"]

Tone = Literal["good", "warn", "bad", "neutral"]
# Every sign stands beside its word, so that neither colour nor sign is alone.
TONE_SIGNS: dict[Tone, str] = {"good": "✓", "warn": "!", "bad": "✕", "neutral": "?"}
STATUS_SIGNS: dict[Status, str] = {"pass": "✓", "warn": "!", "fail": "✕", "cannot tell": "?", "skipped": "–"}
# Drawings up to this many bytes stay drawings; larger ones (many points) become pictures.
MAX_SVG = 40_000
PNG_DPI = 200
# Columns from which a table is set in smaller type.
WIDE = 7
LEGEND = (
    ("Guide", "the distribution that is fitted to the posterior"),
    ("NUTS", "the No-U-Turn sampler of Hamiltonian Monte Carlo, slow and nearly exact: the usual reference"),
    ("k̂", "how heavy the tail of the importance weights is; above 0.7 they cannot be trusted"),
    ("Reweight", "use the guide's draws with their importance weights, which turn them into the posterior's"),
)


@dataclass(frozen=True)
class Picture:
    """A figure and the sentence under it that says what to see.

    Attributes:
        figure: what is drawn.
        caption: what to see.
        kind: a chart follows a dark page; images of data keep their greys.
    """

    figure: Figure
    caption: str
    kind: Literal["chart", "images"] = "chart"

    @property
    def source(self) -> str:
        """The figure as a data URL: SVG, or PNG where that is smaller or the SVG is long.

        The same figure always gives the same text: it carries no date and no random name.
        """
        drawing = self._bytes("svg")
        if len(drawing) <= MAX_SVG:
            return "data:image/svg+xml;base64," + base64.b64encode(drawing).decode()
        pixels = self._bytes("png")
        kind, shorter = ("png", pixels) if len(pixels) < len(drawing) else ("svg+xml", drawing)
        return f"data:image/{kind};base64," + base64.b64encode(shorter).decode()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels, so that the page does not jump while it loads."""
        width, height = self.figure.get_size_inches() * 96
        return round(width), round(height)

    def _bytes(self, kind: Literal["svg", "png"]) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "ppl_vae", "svg.fonttype": "path"}):
            if kind == "svg":
                self.figure.savefig(buffer, format="svg", dpi=PNG_DPI, metadata={"Date": None})
                return buffer.getvalue()
            self.figure.savefig(buffer, format="rgba", dpi=PNG_DPI)
        width, height = (int(side * PNG_DPI) for side in self.figure.get_size_inches())
        # A palette of 256 colours takes a third of the room, and charts have few colours.
        image = Image.frombytes("RGBA", (width, height), buffer.getvalue()).convert("RGB").quantize(256)
        shorter = io.BytesIO()
        image.save(shorter, format="png", optimize=True)
        return shorter.getvalue()


@dataclass(frozen=True)
class Table:
    """A table and the sentence over it. Its index is the first column; every text in it is escaped."""

    caption: str
    frame: pd.DataFrame

    @property
    def wide(self) -> bool:
        """Whether it is set closer, to fit the page."""
        return len(self.frame.columns) >= WIDE

    @property
    def columns(self) -> list[str]:
        """Headings, that of the index first."""
        return [str(self.frame.index.name or ""), *map(str, self.frame.columns)]

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """Each row's name, which may be broken at its bracket, and its cells."""
        return [
            (str(name).replace("[", "\u200b["), [_cell(value) for value in values])
            for name, values in zip(self.frame.index, self.frame.itertuples(index=False), strict=True)
        ]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold nothing but numbers, that of the names first."""
        cells = [cells for _, cells in self.rows]
        return [False, *(all(map(_is_number, column)) for column in zip(*cells, strict=True))]


@dataclass(frozen=True)
class Banner:
    """What has to be read first.

    Attributes:
        word: the verdict.
        tone: how it looks.
        reason: why, in a sentence.
        next_step: what to do, in a sentence; "" for nothing.
        numbers: what the verdict rests on, names with values.
        command: the next step as it can be typed; "" where it is none.
        made: when and how it came about.
    """

    word: str
    tone: Tone
    reason: str
    next_step: str = ""
    numbers: Sequence[tuple[str, str]] = ()
    command: str = ""
    made: str = ""

    @property
    def sign(self) -> str:
        """The sign beside the word."""
        return TONE_SIGNS[self.tone]


@dataclass(frozen=True)
class Part:
    """A part of a section: a heading, what it says, its tables and figures.

    One without content is left out of the page.
    """

    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()

    def __bool__(self) -> bool:
        return bool(self.sentences or self.tables or self.pictures)

    @property
    def contents(self) -> str:
        """What unfolding shows besides text, such as "2 figures, 1 table"."""
        counts = {"figure": len(self.pictures), "table": sum(len(each.frame) > 0 for each in self.tables)}
        return ", ".join(f"{count} {name}{'s'[: count > 1]}" for name, count in counts.items() if count)


@dataclass(frozen=True)
class Section:
    """What the page says of one fit.

    Attributes:
        title: its heading.
        banner: the verdict, which comes first.
        sentences: what it says, one paragraph each.
        findings: the checks, in the order in which they are shown.
        parts: the rest.
    """

    title: str
    banner: Banner | None = None
    sentences: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    parts: Sequence[Part] = ()


def write_page(
    title: str,
    sections: Sequence[Section],
    path: Path,
    *,
    about: Sequence[str] = (),
    lead: Sequence[str] = (),
) -> Path:
    """Write the page, whole or not at all.

    Args:
        title: of the page.
        sections: one a fit; the page begins with all their verdicts where there are several.
        path: of the file.
        about: what stands at the foot: versions, seeds, budgets; never the date of the page.
        lead: sentences under the title.

    Raises:
        InputError: if it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("ppl_vae.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = _minus
    page = environment.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=[_anchored(section, number) for number, section in enumerate(sections, start=1)],
        about=about,
        signs=STATUS_SIGNS,
        legend=LEGEND,
    )
    write_text(path, page)
    return path


def _anchored(section: Section, number: int) -> dict[str, Any]:
    """A section with the names that links lead to, and without its empty parts."""
    parts = [part for part in section.parts if part]
    names = [re.sub(r"[^a-z0-9]+", "-", part.title.lower()).strip("-") for part in parts]
    return {
        "section": section,
        "id": f"s{number}",
        "parts": [{"part": part, "id": f"s{number}-{name}"} for part, name in zip(parts, names, strict=True)],
    }


def _minus(text: str) -> str:
    """A sentence whose negative numbers have a minus instead of a hyphen."""
    return re.sub(r"(?<![\w.,−-])-(?=\d)|(?<=\de)-(?=\d)", "−", text)


def _is_number(text: str) -> bool:
    """Whether a cell holds a number, perhaps with its error; numbers stand below each other's last digit."""
    return re.fullmatch(r"[+−]?[\d.,]+(e[+−]\d+)?( ± [\d.,]+(e[+−]\d+)?)?|–|−?∞", text) is not None


def _cell(value: object) -> str:
    """A value as a reader wants it: three decimals, or three digits where that would say nothing."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, (float, np.floating)):
        return str(value)
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1000:
        written = f"{value:,.0f}" if size < 1e6 else f"{value:.3g}"
    else:
        written = f"{value:.3f}" if size >= 0.001 or value == 0 else f"{value:.1e}"
    return written.replace("-", "−")
