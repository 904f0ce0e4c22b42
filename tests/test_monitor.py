import numpy as np

from tripletomics.monitor import CHECK_CELLS, end_with, sample


def test_a_sample_keeps_rare_types_whole():
    """Thirteen cells of 30,000 would else be none of 1,000, and eight are needed to win a vote of 15."""
    y = np.repeat([0, 1, 2, -1], [20_000, 9_000, 13, 987])
    rows = np.random.default_rng(1).permutation(len(y))
    kept = sample(rows, y)
    assert len(kept) == len(set(kept)) == CHECK_CELLS
    assert np.bincount(y[kept], minlength=3).tolist()[2] == 13
    assert abs((y[kept] == 0).mean() - 0.68) < 0.05


def test_a_sample_of_few_cells_is_all_labelled_ones():
    y = np.array([3, -1, 3, 5])
    assert sorted(sample(np.arange(4), y)) == [0, 2, 3]
    assert len(sample(np.array([1]), y)) == 0


def test_a_sample_of_many_types_is_not_larger():
    y = np.repeat(np.arange(400), 20)
    assert len(sample(np.arange(8000), y)) == CHECK_CELLS


def test_a_history_ends_with_the_scores_of_the_fit():
    history = {space: {"held_out_f1": np.full(3, np.nan)} for space in ("metric", "map")}
    end_with(history, {"map": 0.5})
    np.testing.assert_array_equal(history["map"]["held_out_f1"], [np.nan, np.nan, 0.5])
    assert np.isnan(history["metric"]["held_out_f1"]).all()
