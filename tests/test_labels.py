import numpy as np
import pandas as pd
import pytest

from tripletomics.labels import encode, permute

UNLABELLED = ("", "Unknown", "nan")


@pytest.mark.parametrize(
    ("values", "codes", "classes"),
    [
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        (["b", None, "", "Unknown", "nan", np.nan], [0, -1, -1, -1, -1, -1], ["b"]),
        (pd.Categorical(["x", None, "y"], categories=["y", "x", "z"]), [0, -1, 1], ["x", "y"]),
        ([2, 10, 2], [1, 0, 1], ["10", "2"]),
        ([True, False, True], [1, 0, 1], ["False", "True"]),
        (pd.array([1, pd.NA, 1], dtype="Int64"), [0, -1, 0], ["1"]),
        (pd.array(["t", pd.NA], dtype="string"), [0, -1], ["t"]),
        ([None, None], [-1, -1], []),
    ],
)
def test_encode(values, codes, classes):
    found, names = encode(pd.Series(values), UNLABELLED)
    assert found.dtype == np.int64
    assert found.tolist() == codes
    assert names == classes


def test_permute_keeps_counts_and_unlabelled_cells():
    codes = np.array([0, 0, 1, 2, -1, -1, 2, 2, 1] * 20)
    shuffled = permute(codes, np.random.default_rng(0))
    np.testing.assert_array_equal(shuffled == -1, codes == -1)
    np.testing.assert_array_equal(np.bincount(shuffled + 1), np.bincount(codes + 1))
    assert (shuffled != codes).mean() > 0.3
