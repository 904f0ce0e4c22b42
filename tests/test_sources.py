import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tripletomics.sources import Memory


class Shift:
    """A contract of plain arithmetic."""

    def normalise(self, x, present=None):
        return x + 100

    def standardise(self, rows, present=None):
        return rows * 10


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_rows_are_those_of_the_matrix(kind):
    x = np.random.default_rng(0).poisson(0.5, size=(20, 6)).astype(np.float32)
    i = np.array([3, 3, 19, 0])
    rows = Memory(kind(x)).rows(i)
    assert rows.dtype == torch.float32
    np.testing.assert_array_equal(rows.numpy(), x[i])


def test_subsets_nest_and_prepare():
    x = np.arange(20, dtype=np.float32)[:, None]
    source = Memory(x, Shift()).subset(np.arange(10, 20)).subset(np.array([9, 0]))
    assert len(source) == 2
    assert source.rows(slice(None)).ravel().tolist() == [1190, 1100]
    assert source.normalised(slice(None)).ravel().tolist() == [119, 110]
