"""Output for terminals whose encoding lacks the letters of this field."""

import codecs
import sys
import unicodedata
from io import TextIOWrapper

__all__ = ["plain_letters"]

PLAIN = {
    "±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "×": "x",
    "β": "beta", "ε": "epsilon", "Δ": "Delta", "θ": "theta", "μ": "mu", "σ": "sigma", "τ": "tau", "Φ": "Phi",
    "√": "sqrt", "‘": "'", "’": "'", "“": '"', "”": '"', "·": "*",
}  # fmt: skip


def plain_letters() -> None:
    """Let stdout and stderr write letters that they cannot encode in plain ones, instead of failing."""
    codecs.register_error("ppl_vae.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="ppl_vae.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_letter, error.object[error.start : error.end])), error.end


def _letter(letter: str) -> str:
    if letter in PLAIN:
        return PLAIN[letter]
    # An accented letter without its accent; an accent that stands alone, as in k̂, is left out.
    apart = unicodedata.normalize("NFKD", letter)
    plain = "".join(one for one in apart if one.isascii())
    return plain if plain or unicodedata.combining(letter) else "?"
