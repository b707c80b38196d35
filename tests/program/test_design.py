"""Design matrices against dense ones."""

from collections import Counter

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.program.design import Design


def _games(num_rows: int = 300, num_states: int = 5, seed: int = 0) -> Design:
    generator = torch.Generator().manual_seed(seed)
    column = torch.randint(num_states, (num_rows, 2), generator=generator)
    outcome = torch.randint(3, (num_rows,), generator=generator).double() / 2
    count = torch.randint(1, 4, (num_rows,), generator=generator).double()
    return Design.of_entries(column, torch.tensor([1.0, -1.0]).double(), outcome, count=count)


def _listed(design: Design) -> Counter[tuple[float, ...]]:
    assert design.count is not None
    found: Counter[tuple[float, ...]] = Counter()
    for row, count in enumerate(design.count.tolist()):
        here = slice(int(design.pointer[row]), int(design.pointer[row + 1]))
        observed = [float(part[row]) for part in design.observed]
        key = (*design.column[here].tolist(), *design.value[here].tolist(), *observed)
        found[key] += count
    return found


def test_equal_rows_are_merged_and_counted() -> None:
    games = _games()
    merged = games.merged()
    assert _listed(merged) == _listed(games)
    assert merged.num_rows == len(_listed(games)) < games.num_rows
    first = merged.column[merged.pointer[:-1]]
    assert torch.equal(first, first.sort().values)


def test_rows_that_differ_in_what_is_observed_are_kept() -> None:
    column = torch.tensor([[0, 1], [0, 1], [0, 1]])
    value = torch.tensor([[1.0, -1.0], [1.0, -1.0], [2.0, -1.0]])
    design = Design.of_entries(column, value, torch.tensor([0.0, 1.0, 0.0]))
    assert design.merged() is design
    assert design.width == 2
    ragged = Design(torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1]), torch.ones(3))
    assert ragged.width is None
    assert ragged.merged() is ragged


def test_what_is_no_matrix_is_refused() -> None:
    games = _games()
    games.check(5)
    with pytest.raises(InputError, match=r"row \d+ of the design matrix reads state 4; they are 0 to 3"):
        games.check(4)
    with pytest.raises(InputError, match=r"300 rows and 600 entries has \{'observed\[0\]': 3\}"):
        Design(games.pointer, games.column, games.value, (torch.zeros(3),)).check(5)
    with pytest.raises(InputError, match="go from 0 to its number of entries"):
        Design(games.pointer[:-1], games.column, games.value).check(5)


def test_contrasts_are_differences_of_all_pairs_of_rows_of_a_group() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, states = torch.tensor([2, 4, 1, 3]), 6
    column = torch.stack([torch.randperm(states, generator=generator)[:2] for _ in range(10)])
    design = Design.of_entries(column, torch.tensor([1.0, 0.5], dtype=torch.float64))
    found, first, second = design.contrasts(sizes, states)
    group = torch.arange(4).repeat_interleave(sizes)
    pairs = {(b, a) for a in range(10) for b in range(a) if group[a] == group[b]}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == pairs
    assert len(first) == len(pairs)
    dense, differences = design.csr(states).toarray(), found.csr(states).toarray()
    expected = dense[first] - dense[second]
    signs = np.array([np.sign(row[row != 0][0]) if row.any() else 1.0 for row in expected])
    np.testing.assert_allclose(differences, signs[:, None] * expected)
    with pytest.raises(InputError, match="groups of up to 3,000 rows have 4,498,500 pairs of them; at most"):
        Design.of_entries(torch.zeros(3000, 1).long(), torch.ones(1)).contrasts(torch.tensor([3000]), 1)
