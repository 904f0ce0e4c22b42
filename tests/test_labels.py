import numpy as np
import pandas as pd
import pytest

from tripletomics.labels import NO_SIGNAL, encode, flags, is_missing, permute, several, split_of, verdict
from tripletomics.labels import UNLABELLED as DEFAULT

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
        ([b"b", b"a", b"", b"Unknown"], [1, 0, -1, -1], ["a", "b"]),
        (pd.Categorical([b"x", b"x", None]), [0, 0, -1], ["x"]),
        (["b", " ", "NaN", " unknown ", "b "], [0, -1, -1, -1, 1], ["b", "b "]),
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


@pytest.mark.parametrize(
    "word",
    ["", " ", "nan", "NaN", "<NA>", "NA", "N/A", "n/a", "null", "NONE", "Unassigned", "UNKNOWN", "Unlabeled", b"NA"],
)
def test_usual_words_for_a_missing_label(word):
    assert is_missing(word)
    assert encode(pd.Series(["T", word]), DEFAULT)[1] == ["T"]
    found = encode(pd.Series(["T", word, "Doublet"]), "doublet")[1]  # what is given takes the place of the default
    assert found == sorted({"T", word.decode() if isinstance(word, bytes) else word} - {"", " "})


def test_one_name_stands_for_a_list_of_one():
    assert several("Doublet", "unlabelled") == several(("Doublet",), "unlabelled") == ["Doublet"]
    with pytest.raises(TypeError, match="unlabelled=3 is neither a name nor a list of names"):
        several(3, "unlabelled")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], [True, False]),
        (["TRUE", "FALSE", None], [True, False, None]),
        (pd.Categorical(["yes", "No"]), [True, False]),
        (pd.Categorical([True, False]), [True, False]),
        (pd.array([True, None], dtype="boolean"), [True, None]),
        (["T", "N"], None),  # tumour and normal
        (["True", "maybe"], None),
        ([0, 1], None),
        ([None, None], None),
    ],
)
def test_yes_and_no_as_text(values, expected):
    found = flags(pd.Series(values))
    assert found is None if expected is None else found.tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["train", "test", "val", None], [0, 1, 1, -1]),
        (["Training", "held_out"], [0, 1]),
        ([b"train", b"held-out"], [0, 1]),
        (["False", "True"], [0, 1]),
        (["train", "train"], None),
        (["test", "control"], None),
        (["d1", "d2"], None),
    ],
)
def test_columns_that_say_which_cells_are_held_out(values, expected):
    found = split_of(pd.Series(values))
    assert found is None if expected is None else found.tolist() == expected


@pytest.mark.parametrize(("values", "words"), [([0, 1], "0 and 1"), (["0", "1"], "0 and 1"), (["train", "x"], "'x'|x")])
def test_columns_that_may_be_a_split_or_groups_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        split_of(pd.Series(values))


def test_a_test_that_could_not_have_found_anything_shows_nothing():
    said = [verdict(p, least) for p in (np.nan, NO_SIGNAL, 0.02) for least in (0.005, 0.2)]
    assert said == ["not tested", "not tested", "signal", "signal", "no signal", "too few"]
