"""The report asks for nothing outside, says the verdict first, and is legible on a phone."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ppl_vae.diagnostics.comparison.compare import compare
from ppl_vae.diagnostics.verdict.check import Check
from ppl_vae.diagnostics.verdict.results import Results
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures
from ppl_vae.report import Banner, Part, Picture, Section, Table, check_section, write_check, write_page
from ppl_vae.report.figures.evidence import evidence_curves
from ppl_vae.report.figures.stopping import stopping_curve
from ppl_vae.report.parts.check import evidence_pictures
from ppl_vae.report.parts.comparison import worst_first
from ppl_vae.report.parts.numbers import numbers_of
from ppl_vae.report.style import WIDTH
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.jobs import compare_run
from ppl_vae.runs.run import Run, settings_for
from ppl_vae.runs.summary import write_report
from tests.report.made import NASTY, answer, calibration, evidence


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
    whole = [(name.removesuffix(" a unit"), value) for name, value in expected]
    assert list(numbers_of(measures, whole=True)) == whole


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


def test_negative_numbers_of_sentences_have_a_minus(tmp_path: Path) -> None:
    text = "from -3.5 to -1e-05 ± 3e-06, run 2026-11-26, rows 10-20 by `--seed -1`"
    source = write_page("title", [Section("one", sentences=[text])], tmp_path / "page.html").read_text(
        "utf-8"
    )
    shown = "from −3.5 to −1e−05 ± 3e−06, run 2026-11-26, rows 10-20 by <code>--seed -1</code>"
    assert shown in source
