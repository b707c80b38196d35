"""What the tests of figures share."""

import itertools
from collections.abc import Callable

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from ppl_vae.report.style import WIDTH

# A phone of 400 CSS pixels leaves so many for a figure; smaller text than nine of them is hard to read.
PHONE, LEAST = 350, 9.0


@pytest.fixture(scope="session")
def legible() -> Callable[[Figure], None]:
    """Asserts that every text of a figure is legible on a phone and inside the figure."""

    def check(figure: Figure) -> None:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        assert figure.get_figwidth() == WIDTH
        texts = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]
        texts = [each for each in texts if each.axes is None or each.axes.get_visible()]
        pixels = {each.get_text(): each.get_fontsize() / 72 * PHONE / WIDTH for each in texts}
        assert {text: size for text, size in pixels.items() if size < LEAST} == {}
        drawn_on = figure.get_tightbbox(renderer)
        # A hundredth of an inch is a pixel of the phone.
        assert min(drawn_on.x0, drawn_on.y0) > -0.01
        assert (drawn_on.x1, drawn_on.y1) < (WIDTH + 0.01, figure.get_figheight() + 0.01)
        titles = [each.get_window_extent(renderer) for each in texts if each.axes and each is each.axes.title]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(titles, 2))

    return check
