"""Precision matrices eliminated block by block, against dense algebra."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from ppl_vae.program import block_tridiagonal
from ppl_vae.program.block_tridiagonal import blocks_of


def _precision(size: int, num_hubs: int, seed: int = 0) -> np.ndarray:
    """Of states linked to some of the next few, in a shuffled order, and of hubs linked to most."""
    rng = np.random.default_rng(seed)
    near = np.abs(np.arange(size)[:, None] - np.arange(size)) < 4
    root = np.where(np.tril(near, -1) & (rng.random((size, size)) < 0.6), rng.normal(size=(size, size)), 0.0)
    found = root @ root.T + np.diag(rng.uniform(1, 2, size))
    if num_hubs:
        wide = np.where(rng.random((size, num_hubs)) < 0.9, rng.normal(size=(size, num_hubs)), 0.0) / 10
        corner = wide.T @ np.linalg.solve(found, wide) + np.eye(num_hubs)
        found = np.block([[found, wide], [wide.T, corner]])
    order = rng.permutation(len(found))
    return found[order][:, order]


@pytest.mark.parametrize("num_hubs", [0, 2])
@pytest.mark.parametrize("size", [5, 83])
def test_it_is_what_dense_matrices_give(size: int, num_hubs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_tridiagonal, "LEAST_ROWS", 4)
    monkeypatch.setattr(block_tridiagonal, "HUB", 25)
    dense = _precision(size, num_hubs if size > 50 else 0)
    sparse = csr_array(dense)
    links = csr_array((sparse.data != 0, sparse.indices, sparse.indptr), shape=sparse.shape).astype(float)
    blocks = blocks_of(links)
    assert blocks is not None
    assert len(blocks.hubs) == (num_hubs if size > 50 else 0)
    assert size < 50 or len(blocks.sizes) > 5
    found = blocks.eliminate(sparse)
    assert found is not None
    covariance = torch.from_numpy(np.linalg.inv(dense))
    assert float(found.log_det) == pytest.approx(np.linalg.slogdet(dense)[1], abs=1e-9)
    first, second = (torch.from_numpy(part) for part in np.nonzero(dense))
    torch.testing.assert_close(found.covariance(first, second), covariance[first, second])
    right = torch.from_numpy(np.random.default_rng(1).normal(size=len(dense)))
    torch.testing.assert_close(found.solve(right), covariance @ right)
    root = found.sample(torch.eye(len(dense), dtype=torch.float64))
    torch.testing.assert_close(root @ root.T, covariance)


def test_what_is_not_sparse_or_not_positive_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = _precision(30, 0)
    blocks = blocks_of(csr_array(dense))
    assert blocks is not None
    assert blocks.eliminate(csr_array(dense - 10 * np.eye(30))) is None
    monkeypatch.setattr(block_tridiagonal, "MOST_NUMBERS", 500)
    assert blocks_of(csr_array(np.ones((30, 30)))) is None
