"""A report: one HTML file with everything in it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from ppl_vae.files import write_text

__all__ = ["Picture", "Section", "write_page"]


@dataclass(frozen=True)
class Picture:
    """A figure and the sentence under it that says what to see."""

    figure: Figure
    caption: str

    @property
    def source(self) -> str:
        """The figure as a data URL."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=130)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        title: its heading.
        sentences: what it says, one paragraph each.
        tables: captions and tables.
        pictures: figures.
    """

    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[tuple[str, pd.DataFrame]] = ()
    pictures: Sequence[Picture] = field(default_factory=tuple)

    def html_tables(self) -> list[tuple[str, str]]:
        """Tables as HTML; every text in them is escaped."""
        return [
            (caption, table.to_html(border=0, float_format=lambda value: f"{value:.3f}", na_rep="–"))
            for caption, table in self.tables
        ]


def write_page(title: str, summary: Sequence[str], sections: Sequence[Section], path: Path) -> Path:
    """Write the page, whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    environment = Environment(loader=PackageLoader("ppl_vae.report", "."), autoescape=True)
    page = environment.get_template("page.html").render(title=title, summary=summary, sections=sections)
    write_text(path, page)
    return path
