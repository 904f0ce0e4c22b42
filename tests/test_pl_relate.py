import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, QuadMesh

from tripletomics import pl


def table(shares):
    """A table of `relate` from a dict of rows; what is left to 1 is none."""
    columns = list(dict.fromkeys(name for row in shares.values() for name in row))
    rows = []
    for a, row in shares.items():
        for b in [*columns, "none"]:
            share = row.get(b, 0.0) if b != "none" else 1 - sum(row.values())
            rows.append((a, b, share, share * 0.8, share * 0.9 + 0.1))
    return pd.DataFrame(rows, columns=["label_a", "label_b", "share", "lower", "upper"])


def names(ax):
    return [[text.get_text() for text in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels())]


def matrix(ax):
    (mesh,) = (found for found in ax.collections if isinstance(found, QuadMesh))
    return np.asarray(mesh.get_array()).reshape([len(part) for part in names(ax)])


GIVEN = table({
    "B": {"b cell": 0.9, "t cell": 0.1}, "CD4": {"t cell": 1.0}, "NK": {}, "T other": {"t cell": 0.97},
    "mono": {"m2": 0.4, "m1": 0.55}, "CD8": {"t cell": 0.6, "x": 0.02},
})  # fmt: skip


def test_what_belongs_together_lies_along_the_diagonal_and_none_is_last():
    ax = pl.relate(GIVEN).axes[0]
    rows, columns = names(ax)
    assert rows == ["B", "CD4", "CD8", "T other", "mono", "NK"]
    assert columns == ["b cell", "t cell", "m1", "m2", "x", "none"]
    wide = GIVEN.pivot(index="label_a", columns="label_b", values="share").loc[rows, columns]
    np.testing.assert_allclose(matrix(ax), wide)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_squares_from_one_percent_on_have_numbers_and_intervals():
    ax = pl.relate(GIVEN).axes[0]
    found = matrix(ax)
    texts = {(round(text.get_position()[1] + 0.1), text.get_position()[0]): text.get_text() for text in ax.texts}
    assert texts == {(i, j): f"{100 * found[i, j]:.0f}" for i, j in zip(*np.nonzero(found >= 0.01), strict=True)}
    (lines,) = (c for c in ax.collections if isinstance(c, LineCollection) and c.get_gid() == "intervals")
    ends = {(round(y0 - 0.33), round((x0 + x1) / 2)): (x0, x1) for (x0, y0), (x1, _) in lines.get_segments()}
    assert set(ends) == set(texts)
    for (_, j), (x0, x1) in ends.items():
        share = found[_, j]
        assert ((x0 - j) / 0.88 + 0.5, (x1 - j) / 0.88 + 0.5) == pytest.approx((share * 0.8, share * 0.9 + 0.1))


@pytest.mark.parametrize("width", [3.5, 7.1])
def test_a_figure_fits_its_width_and_one_of_many_labels_has_a_scale_in_place_of_numbers(width):
    figure = pl.relate(GIVEN, width=width)
    assert figure.get_size_inches()[0] <= width + 1e-6
    many = table({f"label {i}": {f"other {i}": 1.0} for i in range(60)})
    figure = pl.relate(many, width=width)
    assert figure.get_size_inches()[0] <= width + 1e-6
    assert not figure.axes[0].texts
    assert "share of the row" in [ax.get_ylabel() for ax in figure.axes[0].child_axes]
    np.testing.assert_array_equal(matrix(figure.axes[0])[:, :-1], np.eye(60))


def test_none_alone_and_names_with_signs_are_drawn(tmp_path):
    ax = pl.relate(table({"a$_x$": {"b\x07": 0.0}, "c": {"b\x07": 0.0}})).axes[0]
    assert names(ax) == [["a$_x$", "c"], ["b\ufffd", "none"]]
    only = table({"a": {}})
    figure = pl.relate(only)
    assert names(figure.axes[0]) == [["a"], ["none"]]
    pl.save(figure, tmp_path / "one.pdf")


def test_a_table_read_from_csv_gives_the_same_figure(tmp_path):
    GIVEN.to_csv(tmp_path / "t.csv", index=False)
    one, other = (pl.relate(given).axes[0] for given in (GIVEN, pd.read_csv(tmp_path / "t.csv")))
    assert names(one) == names(other)
    np.testing.assert_allclose(matrix(one), matrix(other))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(TypeError, match=r"table must be a DataFrame, not list. tt.relate returns one"):
        pl.relate([])
    with pytest.raises(
        ValueError, match=r"table lacks the columns lower, upper. Pass what tt.relate returns. Columns: "
    ):
        pl.relate(GIVEN.drop(columns=["lower", "upper"]))
    with pytest.raises(ValueError, match="table has no row, so nothing to draw"):
        pl.relate(GIVEN[:0])
    with pytest.raises(ValueError, match="table has 36 pairs of labels twice"):
        pl.relate(pd.concat([GIVEN, GIVEN]))
    with pytest.raises(ValueError, match=r"width=0.8 leaves no room next to names of 0\.\d inches for 6 columns"):
        pl.relate(GIVEN, width=0.8)
