"""Products of design matrices against dense ones, by blocks of rows and by SciPy."""

import pytest
import torch
from torch import Tensor

from ppl_vae.program import products
from ppl_vae.program.design import Design
from ppl_vae.program.products import EvenProducts, RaggedProducts, products_of

STATES = 7


def _dense(design: Design) -> Tensor:
    found = torch.zeros(design.num_rows, STATES, dtype=torch.float64)
    row = torch.arange(design.num_rows).repeat_interleave(design.pointer.diff())
    return found.index_put((row, design.column.long()), design.value, accumulate=True)


def _designs() -> dict[str, Design]:
    generator = torch.Generator().manual_seed(0)
    column = torch.stack([torch.randperm(STATES, generator=generator)[:3] for _ in range(100)])
    value = torch.randn(100, 3, generator=generator, dtype=torch.float64)
    pointer = torch.tensor([0, 2, 3, 3, 6])
    return {
        "alike": Design.of_entries(column.int(), torch.tensor([1.0, -1.0, 0.5]).double()),
        "even": Design.of_entries(column, value),
        "ragged": Design(pointer, column.reshape(-1)[:6], value.reshape(-1)[:6]),
    }


@pytest.mark.parametrize("name", ["alike", "even", "ragged"])
def test_products_are_those_of_the_dense_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "BLOCK", 32)
    design = _designs()[name]
    found, dense = products_of(design, STATES), _dense(design)
    assert isinstance(found, RaggedProducts if name == "ragged" else EvenProducts)
    states = torch.randn(STATES, dtype=torch.float64)
    rows = torch.randn(design.num_rows, dtype=torch.float64)
    here = slice(1, min(70, design.num_rows))
    for squared, matrix in ((False, dense), (True, dense.square())):
        times = found.times(states, squared=squared)
        torch.testing.assert_close(times[here], (matrix @ states)[here], rtol=0, atol=1e-13)
        torch.testing.assert_close(times.max(), (matrix @ states).max(), rtol=0, atol=1e-13)
        torch.testing.assert_close(found.gathered(rows, squared=squared), matrix.T @ rows, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        found.curved(rows, states), dense.T @ (rows * (dense @ states)), rtol=0, atol=1e-13
    )


def test_sums_are_in_scipys_order_to_the_last_bit() -> None:
    """Of signs, whose products are exact on every machine, and of numbers that another order loses."""
    column = _designs()["even"].column.view(-1, 3)
    signs = torch.ones(len(column), 3, dtype=torch.float64)
    signs[::2, 1] = -1.0
    design = Design.of_entries(column, signs)
    even, scipy = products_of(design, STATES), RaggedProducts.of(design, STATES)
    states = 10.0 ** torch.tensor([16, 0, 15, 2, 17, 1, 14], dtype=torch.float64)
    rows = states.repeat(15)[: len(column)]
    assert isinstance(even, EvenProducts)
    backwards = Design.of_entries(column.flip(1), signs.flip(1))
    assert not torch.equal(RaggedProducts.of(backwards, STATES).times(states)[:], scipy.times(states)[:])
    assert torch.equal(even.times(states)[slice(0, 100)], scipy.times(states)[slice(0, 100)])
    assert torch.equal(even.gathered(rows), scipy.gathered(rows))


def test_rows_that_are_alike_are_kept_once() -> None:
    design = _designs()["alike"]
    assert design.values.shape == (3,)
    assert design.value.shape == design.column.shape == (300,)
    assert torch.equal(design.pointer, torch.arange(0, 301, 3))
    doubled = Design(design.width or 0, design.column.repeat(2), design.values)
    merged = doubled.merged()
    assert merged.num_rows <= 100
    assert merged.rows_are_alike
    assert merged.count is not None
    assert merged.count.sum() == 200
    torch.testing.assert_close(
        _dense(merged).T @ (merged.count[:, None] * _dense(merged)),
        _dense(doubled).T @ _dense(doubled),
        rtol=0,
        atol=1e-12,
    )
