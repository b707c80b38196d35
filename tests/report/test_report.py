"""The report asks for nothing outside, says the verdict first, and is legible on a phone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import norm

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.compare import compare
from ppl_vae.diagnostics.verdict.check import Check
from ppl_vae.diagnostics.verdict.results import Results
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures
from ppl_vae.inference.fitting.stopping import Stopping
from ppl_vae.inference.fitting.stopping import TailCheck as Look
from ppl_vae.report import Banner, Part, Picture, Section, Table, check_section, write_check, write_page
from ppl_vae.report.figures.calibration import calibration_panels
from ppl_vae.report.figures.common import densities, evidence_gap, forest
from ppl_vae.report.figures.evidence import evidence_curves, worst_images
from ppl_vae.report.figures.pair import MASSES, pair_plot, pairs_to_show
from ppl_vae.report.figures.stopping import Marks, stopping_curve
from ppl_vae.report.parts.check import evidence_pictures
from ppl_vae.report.parts.comparison import worst_first
from ppl_vae.report.parts.fit import fit_part
from ppl_vae.report.parts.numbers import numbers_of
from ppl_vae.report.style import WIDTH, wrapped
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.jobs import compare_run
from ppl_vae.runs.run import Run, settings_for
from ppl_vae.runs.summary import write_report

NASTY = '<b>"New York" & $x$</b>'


class Page(HTMLParser):
    """The tags of a page in order, with the text that follows each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.closed = True
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        self.closed = False

    def handle_endtag(self, tag: str) -> None:
        # What follows a tag's end is not its text.
        self.closed = True

    def handle_data(self, data: str) -> None:
        if self.texts and not self.closed:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and text of every such tag."""
        both = zip(self.tags, self.texts, strict=True)
        return [(has, text.strip()) for (name, has), text in both if name == tag]

    def first(self, tag: str, kind: str = "") -> int:
        """Where the first such tag stands."""
        return next(
            k for k, (name, has) in enumerate(self.tags) if name == tag and kind in has.get("class", "")
        )


def answer(scales: list[float], correlation: float = 0.0, method: str = "guide", seed: int = 0) -> Posterior:
    """Normal draws of a vector whose first two entries are correlated."""
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(1, 4000, len(scales)))
    z[..., 1] = correlation * z[..., 0] + np.sqrt(1 - correlation**2) * z[..., 1]
    labels = [f"player {k} {NASTY}" for k in range(len(scales))]
    draws = xr.Dataset({"skill": (("chain", "draw", "player"), z * scales)}, coords={"player": labels})
    return Posterior(draws, method, "independent", seconds=0.5)


def evidence(method: str = "is") -> Evidence:
    values, error = -3 + np.linspace(-1, 1, 12), np.full(12, 0.1)
    sizes = 2.0 ** np.arange(1, 8)
    curve = np.column_stack([sizes, -3 - 1 / sizes, 0.5 / np.sqrt(sizes)])
    return Evidence(
        values, method, "datum", "estimate", error, -(error**2) / 2, ess=np.full(12, 150.0),
        elbo=values - 0.2, num_samples=200, curve=curve,
    )  # fmt: skip


def calibration() -> Calibration:
    generator = np.random.default_rng(0)
    ranks = np.stack([generator.integers(0, 100, 200), 25 + generator.integers(0, 50, 200)], axis=1)
    names = ["log-likelihood", "difference[Milwaukee − New York]"]
    return Calibration(
        xr.Dataset({"rank": (("simulation", "quantity"), ranks)}, coords={"quantity": names}), 99, "guide"
    )


@pytest.fixture(scope="module")
def found() -> Check:
    own, truth = answer([0.5, 1, 1]), answer([1, 1, 1], 0.8, "nuts", seed=1)
    answers = {"svi": own, "reweighted": answer([0.9, 1, 1], 0.7, "reweighted", seed=2), "nuts": truth}
    return Check(
        decision=Decision("do not trust", ("reference", "weights"), f"the guide is off for {NASTY}"),
        next_step="try `a full-rank guide`",
        findings=(
            Finding("convergence", "pass", "all is well", 0.01),
            Finding("reference", "fail", f"a spread is too narrow: {NASTY}", 3.21),
            Finding("calibration", "skipped", "there was no time"),
        ),
        measures=Measures(reference="nuts", reference_ok=True),
        results=Results(
            [
                *answers.items(),
                ("", compare({name: answers[name] for name in ("svi", "reweighted")}, reference=truth)),
                ("is", evidence()),
                ("exact", evidence("exact")),
                ("guide", calibration()),
            ]
        ),
        seconds=12.0,
        budget=30.0,
    )


@pytest.fixture(scope="module")
def page(found: Check, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return Page(write_check(found, path, f"a data set named {NASTY}", seed=3))


def test_nothing_is_fetched_and_nothing_is_run(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "video", "audio"}
    references = [
        has[key] for _, has in page.tags for key in ("src", "href", "srcset", "action") if key in has
    ]
    assert references
    assert [each[:30] for each in references if not each.startswith(("data:", "#"))] == []
    assert [name for _, has in page.tags for name in has if name.startswith("on")] == []
    (style,) = [text for _, text in page.of("style")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http://" not in page.source
    assert "https://" not in page.source


def test_links_lead_somewhere(page: Page) -> None:
    places = {has["id"] for _, has in page.tags if "id" in has}
    links = [has["href"][1:] for has, _ in page.of("a")]
    assert len(links) >= 3
    assert set(links) <= places
    assert len(places) == sum("id" in has for _, has in page.tags)


def test_the_verdict_comes_before_everything_else(page: Page) -> None:
    assert page.first("div", "banner bad") < page.first("ul", "checks") < page.first("figure")
    assert page.first("div", "banner") < page.first("table")
    assert "Do not trust" in page.source[: page.source.index("<figure")]


def test_everything_but_the_verdict_and_the_checks_is_folded(page: Page) -> None:
    folded = page.of("details")
    assert len(folded) == len(page.of("summary")) >= 3
    assert not any("open" in has for has, _ in folded)
    before = page.source[: page.source.index("<details")]
    assert all(f"<dt>{word}:</dt>" in before for word in ("Guide", "NUTS", "k̂", "Reweight"))
    assert "<figure" not in before
    assert "<table" not in before
    # Links into a folded part unfold it where they lead to something inside.
    inside = page.source.partition("<details")[2]
    links = [has["href"][1:] for has, _ in page.of("a")]
    assert all(f'<section id="{link}"' in inside for link in links if "-" in link)


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        (Measures(), []),
        (Measures(points=("z",)), []),
        (Measures("nuts", True, error=1.84, shift=9.0), [("guide's largest error", "1.84 × tolerable")]),
        (Measures(shift=250.0), [("guide's largest shift by its weights", "250 × tolerable")]),
        (Measures(shift=math.inf), [("guide's largest shift by its weights", "∞ × tolerable")]),
        (Measures(pareto_k=-0.123), [("k̂ of its weights, at worst", "−0.12")]),
        (Measures(gap=0.0004), [("log p(x) − ELBO, nats a unit", "0.000")]),
    ],
)
def test_the_numbers_behind_a_verdict_are_those_that_the_rule_read(
    measures: Measures, expected: list[tuple[str, str]]
) -> None:
    assert list(numbers_of(measures)) == expected


def test_gaps_of_an_exact_guide_are_no_histogram() -> None:
    some = replace(evidence(), elbo=evidence().log_evidence - np.linspace(0.1, 0.5, 12))
    assert len(evidence_pictures({"is": some})) == 1
    exact = replace(some, elbo=some.log_evidence - 1e-6 * np.arange(12))
    assert evidence_pictures({"is": exact}) == []


def test_no_line_leaves_its_panel() -> None:
    good = evidence()
    bad = replace(good, curve=good.curve - [0.0, 400.0, 0.0], pareto_k=np.full(12, 1.5), ess=np.full(12, 1.1))
    for figure in (evidence_curves({"is": bad, "ais": replace(good, method="ais")}),
                   stopping_curve(-np.exp(8 - np.arange(300) / 20), np.zeros((0, 2)), 1)):  # fmt: skip
        (axes,) = figure.axes
        low, high = axes.get_ylim()
        lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
        inside = np.concatenate([values[np.isfinite(values)] for values in lines])
        assert len(inside) > 5
        assert low <= inside.min() <= inside.max() <= high


def test_every_figure_has_a_caption_that_a_screen_reader_hears(page: Page) -> None:
    images, captions = page.of("img"), page.of("figcaption")
    assert len(images) == len(captions) == len(page.of("figure")) >= 5
    for (has, _), (_, caption) in zip(images, captions, strict=True):
        assert has["alt"] == caption
        assert caption.endswith(".")
        assert len(caption) > 30
        assert int(has["width"]) == round(96 * WIDTH)


def test_every_text_is_escaped(page: Page) -> None:
    assert "<b>" not in page.source
    assert page.source.count("&lt;b&gt;") >= 5
    (title,) = [text for _, text in page.of("title")]
    assert title == f"a data set named {NASTY}"
    assert [text for _, text in page.of("code")] == ["a full-rank guide"]


def test_checks_say_their_status_in_words_the_failed_ones_first(page: Page) -> None:
    spans = [text for _, text in page.of("span")]
    badges = [has["class"] for has, _ in page.of("span") if "badge" in has.get("class", "")]
    assert badges == ["badge bad", "badge good", "badge neutral"]
    places = [page.source.index(f"</span> {status}</span>") for status in ("fail", "pass", "skipped")]
    assert places == sorted(places)
    assert "(3.2 s)" in " ".join(spans)


def test_the_same_check_gives_the_same_page(found: Check, page: Page, tmp_path: Path) -> None:
    again = write_check(found, tmp_path / "again.html", f"a data set named {NASTY}", seed=3)
    assert again.read_text(encoding="utf-8") == page.source
    assert "seed 3" in page.source
    assert "Versions: ppl-vae" in page.source


def test_what_a_check_lacks_is_left_out() -> None:
    bare = Check(Decision("trust", (), "all is well"), "use it", (), Measures())
    section = check_section(bare, "bare")
    assert [part for part in section.parts if part] == []
    assert section.banner == Banner("Trust", "good", "All is well.", "Use it.")


def test_a_check_without_a_reference_shows_what_reweighting_does(found: Check) -> None:
    answers = {name: found.answers[name] for name in ("svi", "reweighted")}
    bare = Check(Decision("trust", (), "all is well"), "use it", (), Measures(), Results(answers.items()))
    (part,) = check_section(bare, "bare").parts
    assert part.title == "Reweighted, without a reference"


def test_the_worst_quantities_come_first(found: Check) -> None:
    assert found.comparison is not None
    table = found.comparison.table
    own = worst_first(table[table["answer"] == "svi"])
    assert own["name"].iloc[0].startswith("skill[player 0")
    tails = own.assign(q5_error_in_sd=[0.0, 0.0, -9.0])
    assert worst_first(tails)["name"].iloc[0] == own["name"].iloc[2]


@pytest.mark.usefixtures("undrawn")
def test_a_section_of_a_saved_check_shows_its_verdict_and_not_the_comparison_s(
    found: Check, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    fit_run(settings_for("ppca", "iris", {"steps": 40}, {}), folder, progress=False)
    unchecked = Page(write_report([Run.open(folder)], tmp_path / "0.html", title="0"))
    assert "Not checked yet" in unchecked.source
    compare_run(Run.open(folder), against="exact", draws=100, progress=False)
    compared = Page(write_report([Run.open(folder)] * 2, tmp_path / "1.html", title="1"))
    assert "from the exact posterior" in compared.source
    assert compared.first("div", "banner") < compared.first("figure")
    assert compared.source.count("Against the reference") == 4
    found.save(folder)
    checked = Page(write_report([Run.open(folder)], tmp_path / "2.html", title="2"))
    assert "Do not trust" in checked.source
    assert "Differs from" not in checked.source
    # The fit's own curve stays, and what the check found comes beside it.
    assert len(checked.of("img")) > len(compared.of("img")) / 2


def test_cells_keep_the_digits_that_matter() -> None:
    values = [1234.5, 2.5e7, -0.12345, 0.00001234, float("nan"), -np.inf, 0.0, 3, 12345, True, "text"]
    names = [f"a[{k}]" for k in range(11)]
    frame = pd.DataFrame({"value": pd.Series(values, index=names, dtype=object)})
    rows = Table("", frame).rows
    assert [cells[0] for _, cells in rows] == [
        "1,234", "2.5e+07", "−0.123", "1.2e−05", "–", "−∞", "0.000", "3", "12,345", "True", "text",
    ]  # fmt: skip
    assert rows[0][0] == "a\u200b[0]"
    mixed = Table("", pd.DataFrame({"a": ["+0.1 ± 0.2", "–"], "b": [1.0, -np.inf], "c": ["1", "x"]}))
    assert mixed.numeric == [False, True, True, False]


def test_drawings_stay_drawings_until_they_are_long() -> None:
    small, large = Figure(figsize=(WIDTH, 2)), Figure(figsize=(WIDTH, 2))
    small.subplots().plot([0, 1])
    large.subplots().plot(np.random.default_rng(0).normal(size=(5000, 2)), ".")
    assert Picture(small, "").source.startswith("data:image/svg+xml;base64,")
    assert Picture(large, "").source.startswith("data:image/png;base64,")
    assert Picture(small, "").source == Picture(small, "").source


def test_parts_without_content_are_left_out(tmp_path: Path) -> None:
    section = Section("one", parts=[Part("empty"), Part("full", ["text"])])
    written = Page(write_page("title", [section], tmp_path / "page.html"))
    assert "empty" not in written.source
    assert [text for _, text in written.of("h3")] == ["full"]


def test_a_forest_puts_the_reference_at_zero_and_one(oracles: ModuleType) -> None:
    answers = {"svi": answer([0.5, 3.0]), "nuts": answer([1.0, 1.5], method="nuts", seed=1)}
    names = list(answers["svi"].scalars())
    (axes,) = forest(answers, names, "nuts").axes
    bars = [
        np.array(each.get_segments())[:, :, 0] for each in axes.collections if hasattr(each, "get_segments")
    ]
    widths = [np.diff(each, axis=1).ravel() / (2 * norm.ppf(0.975)) for each in bars]
    # The error of a 2.5 % quantile of 4000 normal draws is 0.042 sd.
    close = oracles.z_limit(8) * 0.042 / 1.96
    np.testing.assert_allclose(widths[0], [0.5, 2.0], rtol=close)
    np.testing.assert_allclose(widths[1], [1.0, 1.0], rtol=close)
    dots = [line for line in axes.get_lines() if line.get_marker() == "s"]
    np.testing.assert_allclose(dots[0].get_xdata(), 0.0, atol=1e-12)


def test_contours_hold_the_mass_they_say(oracles: ModuleType) -> None:
    own, truth = answer([1.0, 2.0], 0.7), answer([1.0, 2.0], 0.7, "nuts", seed=1)
    names = list(own.scalars())
    figure = pair_plot(own, truth, names, ("svi", "nuts"))
    panel = next(axes for axes in figure.axes if len(axes.collections))
    draws = np.stack([own.scalars()[name].ravel() for name in names], axis=1)
    outer, inner = (path.contains_points(draws).mean() for path in panel.collections[-1].get_paths())
    # The level is a quantile over 1000 draws, and the density estimate is a little too wide.
    assert outer == pytest.approx(MASSES[1], abs=oracles.z_limit(2) * np.sqrt(0.09 / 1000) + 0.02)
    assert inner == pytest.approx(MASSES[0], abs=oracles.z_limit(2) * np.sqrt(0.25 / 1000) + 0.04)


def test_the_pair_with_the_lost_correlation_is_shown() -> None:
    own = answer([0.7, 1, 1, 1, 1], 0.0)
    truth = answer([1, 1, 1, 1, 1], 0.9, "nuts", seed=1)
    names = list(own.scalars())
    assert pairs_to_show(own, truth, names, most=2) == names[:2]
    assert pairs_to_show(own, truth, [names[0], *names[:0:-1]], most=2) == names[:2]
    assert pairs_to_show(own, truth, names[:1]) == []
    same = Posterior(truth.draws.assign(twice=-2 * truth.draws["skill"][..., 0]), "nuts", "independent")
    assert pairs_to_show(same, same, [names[0], "twice"]) == []
    assert pairs_to_show(same, same, [names[0], "twice", names[2]]) == [names[0], names[2]]


def test_divergences_are_marked_where_they_are() -> None:
    truth = answer([1.0, 1.0], method="nuts")
    flags = np.zeros((1, 4000), dtype=bool)
    flags[0, [5, 17]] = True
    truth = Posterior(
        truth.draws, "nuts", "chains", stats=xr.Dataset({"diverging": (("chain", "draw"), flags)})
    )
    names = list(truth.scalars())
    figure = pair_plot(answer([1.0, 1.0]), truth, names, ("svi", "nuts"))
    crosses = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() == "x"]
    np.testing.assert_array_equal(crosses[0].get_xdata(), truth.scalars()[names[0]][0, [5, 17]])


def stopping() -> Stopping:
    looks = [
        Look(100, 0, 0.1, 4.0, -3.2, 0.1, float("inf"), 0.0, "go on"),
        Look(200, 0, 0.1, 1.05, -3.1, 0.1, float("inf"), 0.0, "lower"),
        Look(300, 1, 0.03, 1.02, -3.0, 0.1, 0.003, 0.001, "stop"),
    ]
    return Stopping(tuple(looks), 300, True, "stopped", 0.003, 0.001, 0.01, 50.0, 0.05, "training data")


def test_the_stopping_decision_is_where_it_was_made() -> None:
    elbo = -3 - np.exp(-np.arange(300) / 40) + 0.1 * np.random.default_rng(0).normal(size=300)
    part = fit_part(["text"], elbo, np.zeros((0, 2)), 1, stopping=stopping())
    (picture,) = part.pictures
    upper, lower = picture.figure.axes
    verticals = {
        line.get_linestyle(): line.get_xdata()[0]
        for line in upper.get_lines()
        if len(set(line.get_xdata())) == 1
    }
    assert verticals == {":": 200, "-": 300}
    looks = next(line for line in lower.get_lines() if line.get_marker() == "D")
    np.testing.assert_array_equal(looks.get_xdata(), [100, 200, 300])
    np.testing.assert_array_equal(looks.get_ydata(), [4.0, 1.05, 1.02])
    assert "after step 300" in picture.caption
    assert "gain 0.003 nats" in picture.caption
    plain = fit_part([], elbo, np.zeros((0, 2)), 1).pictures[0]
    assert len(plain.figure.axes) == 1
    assert "rule" not in plain.caption


def figures() -> dict[str, Figure]:
    """Every figure of the report, with the longest names that data sets have."""
    generator = np.random.default_rng(0)
    teams = ["Milwaukee", "Toronto", "New York", "Boston", "Detroit", "Cleveland", "Baltimore"]
    pairs = [f"difference[{a} − {b}]" for a, b in itertools.combinations(teams, 2)][:12]
    draws = xr.Dataset({name: (("chain", "draw"), generator.normal(size=(1, 400))) for name in pairs})
    answers = {
        name: Posterior(draws + 0.1 * k, name, "independent") for k, name in enumerate(("svi", "nuts"))
    }
    elbo = -3 - np.exp(-np.arange(400) / 40) + 0.1 * generator.normal(size=400)
    held_out = np.array([[100, -3.3], [200, -3.2], [400, -3.1]])
    return {
        "densities": densities(answers, pairs[:6]),
        "forest": forest(answers, pairs, "nuts"),
        "pairs": pair_plot(answers["svi"], answers["nuts"], pairs[:3], ("svi", "nuts")),
        "worst": worst_images(generator.random((8, 64)), [f"{k * 100}: −123.4" for k in range(8)], (8, 8)),
        "elbo": stopping_curve(elbo, held_out, 1, marks=Marks.of(stopping())),
        "evidence": evidence_curves({name: evidence(name) for name in ("is", "ais", "prior", "bridge")}),
        "gap": evidence_gap(evidence()),
        "calibration": calibration_panels(calibration()),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return figures()


FIGURES = (
    "densities", "forest", "pairs", "worst", "elbo", "evidence", "gap", "calibration",
)  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_every_text_is_legible_on_a_phone_and_inside_its_figure(
    name: str, drawn: dict[str, Figure], legible: Callable[[Figure], None]
) -> None:
    legible(drawn[name])


def test_long_names_are_parted_at_their_bracket() -> None:
    assert wrapped("difference[Toronto − New York]", 20, 3) == "difference\n[Toronto − New York]"
    assert wrapped("z[0, 1]", 20) == "z[0, 1]"
    assert wrapped("a$b$", 20) == r"a\$b\$"
    assert wrapped("x" * 50, 10, 2) == "x" * 10 + "\n" + "x" * 9 + "…"


def test_negative_numbers_of_sentences_have_a_minus(tmp_path: Path) -> None:
    text = "from -3.5 to -1e-05 ± 3e-06, run 2026-11-26, rows 10-20 by `--seed -1`"
    source = write_page("title", [Section("one", sentences=[text])], tmp_path / "page.html").read_text(
        "utf-8"
    )
    shown = "from −3.5 to −1e−05 ± 3e−06, run 2026-11-26, rows 10-20 by <code>--seed -1</code>"
    assert shown in source
