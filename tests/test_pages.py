"""The Markdown pages: what they link to and the files that they name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in (".", "models", "inference", "benchmarks", "docs")
    for path in (ROOT / folder).glob("*.md")
)
# Rooms of the package, under which ARCHITECTURE.md and comments name files without ppl_vae/ before them.
ROOMS = sorted(path.name for path in (ROOT / "ppl_vae").iterdir() if path.is_dir())
NAMED = re.compile(rf"(?<![\w./-])((?:\.\./)?ppl_vae|{'|'.join(ROOMS)})((?:/[\w-]+)+\.(?:py|pyi|cpp))\b")


def missing(text: str, beside: Path) -> list[str]:
    """Files that a text names, by their path in the repository or in the package, and that are not there."""
    named = {"".join(match.groups()).removeprefix("../") for match in NAMED.finditer(text)}
    return sorted(
        name
        for name in named
        if not any((folder / name).exists() for folder in (ROOT, ROOT / "ppl_vae", beside))
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_names_files_that_there_are(page):
    text = page.read_text(encoding="utf-8")
    # What a recipe's blocks are to be written into is not there yet.
    recipes = set(re.findall(r'^```python title="([^"]+)"', text, flags=re.MULTILINE))
    assert [name for name in missing(text, page.parent) if name not in recipes] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose) if ":" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_docstrings_and_comments_name_files_that_there_are():
    named = {
        path.relative_to(ROOT).as_posix(): found
        for folder in ("ppl_vae", "benchmarks", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (found := missing(path.read_text(encoding="utf-8"), path.parent))
    }
    assert named == {}


def test_a_file_at_its_old_place_is_seen():
    text = "ppl_vae/diagnostics/verdict.py, inference/graph.py, data/rows.py, ../ppl_vae/cli/fit.py, my/a.py"
    assert missing(text, ROOT) == ["inference/graph.py", "ppl_vae/diagnostics/verdict.py"]
