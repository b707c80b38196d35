"""What the site needs beside MkDocs' plugins: pages of names, links between the repository's pages, TeX.

The pages of names are made from the faces' stubs, so that a new name needs no line here. Links of the
repository's Markdown files are turned into links of the site; to a file that is on no page they become plain
text, and a link that leads nowhere ends the build. TeX becomes MathML, which browsers draw by themselves.
"""

import ast
import html
import posixpath
import re
import unicodedata
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# The page that each of the repository's files is on.
PAGES = {
    "README.md": "index.md",
    "models/README.md": "models.md",
    "inference/README.md": "methods.md",
    "ARCHITECTURE.md": "adding.md",
    "CHANGELOG.md": "changes.md",
}
FACES = {
    "ppl_vae": "The package",
    "ppl_vae.models": "Models",
    "ppl_vae.guides": "Guides",
    "ppl_vae.inference": "Inference",
    "ppl_vae.diagnostics": "Diagnostics",
    "ppl_vae.data": "Data",
    "ppl_vae.program": "Programs",
    "ppl_vae.views": "Views",
    "ppl_vae.report": "Reports",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
# Browsers know alphabets by their letters alone.
LETTER = re.compile(r'<mi mathvariant="(script|double-struck)">([A-Z])</mi>')
# "x, y: their heights" is one line for two attributes, which is read as x of type y.
JOINED = re.compile(
    r"<b><code><span[^>]*>(\w+),</span></code></b>\s*\(<code><span[^>]*>(\w+)</span></code>\)"
)
LOADS = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?https?:[^>]*>")


def on_config(config: Any) -> Any:
    """Put the pages of names where the navigation wants them."""
    config.nav = [
        {title: [{name: f"names/{face}.md"} for face, name in FACES.items()] if page == "NAMES" else page}
        for entry in config.nav
        for title, page in entry.items()
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of names, and the pictures of the repository's pages."""
    elsewhere = {name for face in FACES if face != "ppl_vae" for name in names(face)}
    for face, title in FACES.items():
        known = names(face)
        lines = [f"# {title}", f"`{face}`"]
        if face == "ppl_vae":
            # What another page describes is only named here.
            of_others = [name for name in known if name in elsewhere]
            known = [name for name in known if name not in elsewhere]
            lines.append(", ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name in of_others))
        lines += [f"::: {name}" for name in known]
        files.append(File.generated(config, f"names/{face}.md", content="\n\n".join(lines) + "\n"))
    for picture in sorted(ROOT.glob("models/pictures/*.png")):
        where = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, where, abs_src_path=str(picture)))
    return files


def names(face: str) -> list[str]:
    """The full names of what a face's stub exports, or a module's ``__all__``, in its order."""
    place = ROOT.joinpath(*face.split("."))
    stub = place / "__init__.pyi"
    if not stub.exists():
        assigned = {
            ast.unparse(node.targets[0]): node.value
            for node in ast.parse(place.with_suffix(".py").read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign)
        }
        return [f"{face}.{name}" for name in ast.literal_eval(assigned["__all__"])]
    found = []
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            source = f"{face}.{node.module}" if node.module else face
            found += [f"{source}.{alias.name}" for alias in node.names]
    # Faces within faces have pages of their own.
    return [name for name in found if name not in FACES]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the repository's links into the site's; what is included has them from docs/ on."""

    def turned(match: re.Match[str]) -> str:
        bang, text, target, anchor = match.groups(default="")
        if ":" in target or files.get_file_from_path(target):
            return match.group()
        where = posixpath.normpath(posixpath.join("docs", target))
        if not (ROOT / where).exists():
            raise PluginError(f"{page.file.src_uri}: a link to {target}, where there is nothing")
        if bang:
            return f"![{text}]({where})"
        where = PAGES.get(where, where)
        return f"[{text}]({where}{anchor})" if files.get_file_from_path(where) else text

    code = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(turned, part) for part in code)


def on_page_content(content: str, **_: Any) -> str:
    """TeX as MathML."""

    def drawn(match: re.Match[str]) -> str:
        display = "block" if match.group(2) == "[" else "inline"
        formula = LETTER.sub(_letter, convert(html.unescape(match.group(3)), display=display))
        return f'<div class="formula">{formula}</div>' if display == "block" else formula

    return MATH.sub(drawn, content)


def _letter(match: re.Match[str]) -> str:
    """One of Unicode's letters for mathematics; some are older than the others, and called otherwise."""
    kind, letter = match.group(1).upper(), match.group(2)
    for name in (f"MATHEMATICAL {kind} CAPITAL {letter}", f"{kind} CAPITAL {letter}"):
        try:
            return f"<mi>{unicodedata.lookup(name)}</mi>"
        except KeyError:
            continue
    return match.group()


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Join names that share a line, and refuse a page that would load something from elsewhere."""
    if found := [tag for tag in LOADS.findall(output) if 'rel="canonical"' not in tag]:
        raise PluginError(f"{page.file.src_uri} loads {found[0]}")
    return JOINED.sub(r"<b><code>\1, \2</code></b>", output)
