import numpy as np
import pandas as pd
import pytest

from tripletomics import pl
from tripletomics.pl.structure_dial import SHOWN


def table(methods, sd=0.02, more=()):
    rows = [
        (method, space, metric, "", split, 0.1 * i + 0.05 * (split == "held-out"), sd, 3)
        for i, method in enumerate(methods)
        for space in ("map", "metric")
        for metric in SHOWN
        for split in ("held-out", "permuted")
    ]
    columns = ["method", "space", "metric", "type", "split", "value", "sd", "n_seeds"]
    return pd.DataFrame([*rows, *more], columns=columns)


def test_each_score_of_the_map_along_the_dial():
    given = table(["umap", "tt:structure=1", "tt:structure=0", "tt:structure=0.25", "tt"])
    figure = pl.dial(given)
    assert len(figure.axes) == 4
    for ax in figure.axes:
        lines = {line.get_label(): line.get_xydata() for line in ax.lines}
        np.testing.assert_allclose(lines["held-out, mean of 3 seeds"], [[0, 0.25], [0.25, 0.35], [1, 0.15]])
        np.testing.assert_allclose(lines["permuted"][:, 1], [0.2, 0.3, 0.1])
        band = ax.collections[0].get_paths()[0].vertices
        assert band[:, 1].max() == pytest.approx(0.35 + 0.02)
        assert ax.get_ylim()[0] < 0.05
        assert ax.get_ylim()[1] > 0.37
        assert ax.get_xlabel() == "structure: 0 = labels only,\n1 = data only"
        assert "no signal" not in lines
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "± sd",
        "held-out, mean of 3 seeds",
        "permuted",
    ]


def test_settings_without_signal_have_open_markers_and_other_settings_may_be_shared():
    methods = ["tt:lr=0.1,structure=0", "tt:structure=1,lr=0.1"]
    p = [
        (m, "map", "permutation_p", "", "held-out", value, 0.0, 3)
        for m, value in zip(methods, (0.5, 0.005), strict=True)
    ]
    figure = pl.dial(table(methods, sd=1.0, more=p))
    for ax in figure.axes:
        lines = {line.get_label(): line.get_xydata() for line in ax.lines}
        np.testing.assert_allclose(lines["no signal"], [[0, 0.05]])
        assert ax.get_ylim()[0] < 0.05 - 1 < 0.15 + 1 < ax.get_ylim()[1]


def test_one_metric_and_one_seed():
    given = table(["tt:structure=0", "tt:structure=1"], sd=np.nan).assign(n_seeds=1)
    before = given.copy()
    figure = pl.dial(given, metrics=["knn_recall_30"])
    assert [ax.get_title() for ax in figure.axes] == ["recall of 30 neighbours"]
    assert not figure.axes[0].collections
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["held-out, one seed", "permuted"]
    pd.testing.assert_frame_equal(given, before)


@pytest.mark.parametrize(
    "methods",
    [
        ["tt:structure=0"],
        ["umap", "tt"],
        ["tt:structure=0", "tt:structure=0.0"],
        ["tt:structure=0", "tt:structure=1,lr=0.1"],
    ],
)
def test_a_table_without_a_dial(methods):
    with pytest.raises(ValueError, match="two or more settings of structure, each once"):
        pl.dial(table(methods))


def test_bad_tables():
    with pytest.raises(TypeError, match="must be a DataFrame"):
        pl.dial({"value": 1})
    with pytest.raises(ValueError, match="metric 'recal' is not in the table"):
        pl.dial(table(["tt:structure=0", "tt:structure=1"]), metrics=["recal"])
