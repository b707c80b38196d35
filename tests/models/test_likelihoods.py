"""Every likelihood against its own sums and SciPy; what is refused names its place and what takes it."""

import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.models.likelihoods import base


def test_a_wrong_value_in_a_later_block_of_rows_is_named_by_its_own_row(monkeypatch) -> None:
    monkeypatch.setattr(base, "BLOCK", 10)
    x = torch.zeros(9, 3)
    x[7, 2] = x[8, 0] = 0.25
    with pytest.raises(InputError, match=r"^only zeros, and row 7, column 2 is 0\.25: think$"):
        base.check_values(x, lambda rows: rows != 0, "only zeros", "think")


def test_what_takes_no_greys_but_binary_values_binarises_them() -> None:
    assert {name for name in base.LIKELIHOODS if base.binarises(name)} == {"bernoulli"}
    assert not base.binarises("unheard of")
