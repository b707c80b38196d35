"""Plots and the HTML page."""

from ppl_vae.report.page import Picture, Section, write_page

__all__ = ["Picture", "Section", "write_page"]
