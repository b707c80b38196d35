"""The part of the page that shows what a model and its guide have to show, of whatever kind they are."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ppl_vae.base.wording import with_error
from ppl_vae.report import page
from ppl_vae.report.figures.views import draw
from ppl_vae.report.page import Part, Picture
from ppl_vae.views import ImageGrid, Score, TableView, View

__all__ = ["views_part"]


def views_part(views: Sequence[View], title: str = "The model") -> Part:
    """Scores in one table, then tables and pictures, each in the order of the views."""
    pictures = [
        Picture(figure, _said(view), "images" if isinstance(view, ImageGrid) else "chart")
        for view in views
        if (figure := draw(view)) is not None
    ]
    scores = [view for view in views if isinstance(view, Score)]
    tables = [_table(view) for view in views if isinstance(view, TableView)]
    return Part(title, (), [*([_scores(scores)] if scores else []), *tables], pictures)


def _said(view: View) -> str:
    return f"{view.title}: {view.caption}" if view.title else view.caption


def _table(view: TableView) -> page.Table:
    index = pd.Index([str(name) for name in view.names], name=view.row_label)
    columns = {str(name): list(cells) for name, cells in view.columns.items()}
    return page.Table(_said(view), pd.DataFrame(columns, index=index, dtype=object))


def _scores(scores: Sequence[Score]) -> page.Table:
    cells = [
        f"{with_error(each.value, each.std_error, _digits(each))} {each.unit}".strip().replace("-", "−")
        for each in scores
    ]
    index = pd.Index([each.title for each in scores], name="score")
    frame = pd.DataFrame({"value": cells, "what it says": [each.caption for each in scores]}, index=index)
    return page.Table("Scores of the model's own.", frame)


def _digits(score: Score) -> int:
    """Decimals: two digits of the error where there is one, else three of the value."""
    size, digits = (score.std_error, 1) if score.std_error > 0 else (abs(score.value), 2)
    return int(np.clip(digits - np.floor(np.log10(size)), 0, 6)) if size > 0 else 0
