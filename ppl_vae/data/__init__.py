"""Data: one type for all of it, named data sets, file readers, and what is done to rows before a fit."""

from ppl_vae.data import inputs
from ppl_vae.data.accept import as_dataset
from ppl_vae.data.dataset import Dataset, Variable
from ppl_vae.data.games import Games
from ppl_vae.data.named import DatasetInfo, load, load_dataset, names
from ppl_vae.data.prepare import Prepared, prepare
from ppl_vae.data.preprocess import (
    assign_split,
    binarise,
    dequantise,
    dynamic_binarise,
    grid_step,
    split,
    standardise,
)
from ppl_vae.data.readers import SUFFIXES
from ppl_vae.data.rows import Rows

__all__ = [
    "SUFFIXES",
    "Dataset",
    "DatasetInfo",
    "Games",
    "Prepared",
    "Rows",
    "Variable",
    "as_dataset",
    "assign_split",
    "binarise",
    "dequantise",
    "dynamic_binarise",
    "grid_step",
    "inputs",
    "load",
    "load_dataset",
    "names",
    "prepare",
    "split",
    "standardise",
]
