"""Plots and the HTML page."""

from ppl_vae.report.page import Banner, Part, Picture, Section, Table, Tone, write_page
from ppl_vae.report.parts.check import check_section, write_check

__all__ = [
    "Banner",
    "Part",
    "Picture",
    "Section",
    "Table",
    "Tone",
    "check_section",
    "write_check",
    "write_page",
]
