"""Data: named data sets, file readers, and what is done to rows before a fit."""

from ppl_vae.data.games import Games
from ppl_vae.data.named import DatasetInfo, load, names
from ppl_vae.data.preprocess import binarise, dequantise, dynamic_binarise, grid_step, split, standardise
from ppl_vae.data.readers import SUFFIXES
from ppl_vae.data.rows import Rows

__all__ = [
    "SUFFIXES",
    "DatasetInfo",
    "Games",
    "Rows",
    "binarise",
    "dequantise",
    "dynamic_binarise",
    "grid_step",
    "load",
    "names",
    "split",
    "standardise",
]
