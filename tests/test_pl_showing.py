"""How every figure leaves: shown, saved or returned by the words of scanpy, or refused before it is drawn."""

from inspect import signature
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripletomics import pl
from tripletomics.pl import maps, showing

KINDS = pd.Categorical(np.array(["a", "b"])[np.arange(60) % 2])
POINTS = np.random.default_rng(0).normal(size=(60, 2))


def cells():
    adata = ad.AnnData(np.zeros((60, 1), np.float32))
    adata.obs["kind"] = adata.obs["tt_label"] = KINDS
    adata.obs["tt_split"] = pd.Categorical(np.where(np.arange(60) % 3 == 0, "held-out", "train"))
    adata.obsm["X_tt"] = POINTS
    adata.uns["tt_mapping"] = {"matched": 9, "missing": 0, "weight": 1.0, "notes": np.array([], dtype=object)}
    return adata


def model():
    reference = SimpleNamespace(map=POINTS, codes=np.arange(60) % 2, centres=np.eye(2), sizes=np.array([30, 30]))
    curves = {"step": np.arange(5), "loss": np.ones(5), "held_out_f1": np.full(5, 0.3)}
    return SimpleNamespace(
        types=["a", "b"], classes=["a", "b"], findings={}, reference=reference, history={"map": curves}
    )


def scores():
    rows = [
        (f"tt:structure={s}", "map", "knn_macro_f1", "", split, value, 0.01, 3)
        for s in (0, 1)
        for split, value in (("held-out", 0.9), ("permuted", 0.1))
    ]
    return pd.DataFrame(rows, columns=["method", "space", "metric", "type", "split", "value", "sd", "n_seeds"])


PULLS = pd.DataFrame(
    {"group": ["a"], "against": ["b"], "gene": ["CD4"], "share": [0.5], "mean_group": [1.0], "mean_against": [0.0]}
)
RELATED = pd.DataFrame({"label_a": ["a"], "label_b": ["b"], "share": [0.9], "lower": [0.8], "upper": [1.0]})
DRAW = {
    "compare": lambda **given: pl.compare(cells(), "kind", **given),
    "confusion": lambda **given: pl.confusion(cells(), "kind", **given),
    "dial": lambda **given: pl.dial(scores(), **given),
    "genes": lambda **given: pl.genes(PULLS, **given),
    "history": lambda **given: pl.history(model(), **given),
    "mapping": lambda **given: pl.mapping(cells(), model(), **given),
    "relate": lambda **given: pl.relate(RELATED, **given),
    "scores": lambda **given: pl.scores(scores(), **given),
    "tree": lambda **given: pl.tree(model(), **given),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_is_shown_saved_or_returned_and_refused_before_it_is_drawn(name, tmp_path, monkeypatch):
    draw, shown = DRAW[name], []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    takes_ax = "ax" in signature(getattr(pl, name)).parameters
    assert isinstance(draw(), Axes if takes_ax else Figure)
    assert not shown
    assert draw(show=True, save=tmp_path / "figure.svg") is None
    assert len(shown) == 1
    assert (tmp_path / "figure.svg").stat().st_size > 1000
    assert isinstance(draw(return_fig=True), Figure)
    plt.close("all")
    (tmp_path / "there.png").touch(0o400)
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("there.png"))
    with pytest.raises(PermissionError, match=r"there.png' is read-only: choose another place"):
        draw(save=tmp_path / "there.png")
    with pytest.raises(ValueError, match=r"ends in \.pgn, which is not a format of figures. Did you mean 'png'\?"):
        draw(save="figure.pgn")
    assert not plt.get_fignums()
    if takes_ax:
        figure, ax = plt.subplots()
        assert draw(ax=ax) is ax
        plt.close(figure)
        with pytest.raises(ValueError, match="ax is of a figure that was closed"):
            draw(ax=ax)


def test_a_notebook_draws_each_figure_once(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    monkeypatch.setattr(showing, "in_notebook", lambda: True)
    assert DRAW["scores"]() is None
    ax = plt.subplots()[1]
    assert DRAW["tree"](ax=ax) is ax  # more may be drawn next to it
    plt.close("all")
    DRAW["tree"](ax=ax)  # each cell closes its figures
    DRAW["scores"](return_fig=True)
    assert not plt.get_fignums()
    assert len(shown) == 1


def test_a_figure_that_cannot_be_completed_is_closed(monkeypatch):
    figure, ax = plt.subplots()
    monkeypatch.setattr(maps, "_draw", lambda *given: 1 / 0)
    for place in (None, ax):
        with pytest.raises(ZeroDivisionError):
            pl.embedding(cells(), "kind", ax=place)
    assert plt.get_fignums() == [figure.number]


def test_names_are_names_of_columns():
    with pytest.raises(TypeError, match=r"label must be the name of a column of adata.obs, not SimpleNamespace"):
        pl.confusion(cells(), model())
    with pytest.raises(TypeError, match=r"color must be the name of a column of adata.obs or of a gene, not list"):
        pl.compare(cells(), ["kind"])
    adata = cells()
    adata.obs["wave"] = np.arange(60) * 1j
    with pytest.raises(TypeError, match=r"color='wave' holds complex numbers"):
        pl.embedding(adata, "wave")


def test_only_what_is_public_is_listed():
    assert dir(pl) == sorted(pl.__all__)


def test_the_settings_of_scanpy_choose_the_folder(tmp_path):
    before = sc.settings.figdir
    try:
        sc.settings.figdir = tmp_path / "figures"
        DRAW["tree"](save=True)
        DRAW["confusion"](save=True)
        DRAW["compare"](save=True)
        adata = cells()
        adata.obs["a/b"] = adata.obs["kind"]
        pl.embedding(adata, ["kind", "a/b"], save=True)
        found = {path.stem for path in (tmp_path / "figures").iterdir()}
        assert found == {"tree", "confusion_tt_kind", "compare_kind", "embedding_tt_kind_a_b"}
    finally:
        sc.settings.figdir = before
