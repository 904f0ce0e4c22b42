"""Maps as users of scanpy ask for them: many colours, groups, palettes, and colours kept in ``uns``."""

import os

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from scipy.sparse import csr_matrix
from test_pl import cells, layers, legend_texts, numbers, rows

import tripletomics as tt
from tripletomics import pl
from tripletomics.pl.palette import GREY
from tripletomics.pl.style import LOGGED, values_of


def colours_of(ax):
    """The colour of each cell, by where it lies."""
    found = {}
    for layer in ax.collections:
        faces = np.broadcast_to(layer.get_facecolors(), (len(layer.get_offsets()), 4))
        found |= dict(zip(rows_of(layer.get_offsets()), map(to_hex, faces), strict=True))
    return found


def rows_of(points):
    return list(map(tuple, np.asarray(points).round(9)))


def with_counts():
    adata = cells()
    adata.X = np.random.default_rng(0).poisson(3, (300, 3)).astype(np.float32)
    return adata


def scanpy_values(adata, **more):
    """The numbers that scanpy draws, in the order of the cells."""
    return np.asarray(
        sc.pl.embedding(adata, "X_tt", color="CD4", show=False, sort_order=False, **more).collections[0].get_array()
    )


# Several colours ------------------------------------------------------------------------------------------------------


def test_several_colours_are_maps_side_by_side_each_as_it_is_alone():
    adata = cells()
    axes = pl.embedding(adata, np.array(["cell_type", "CD4", "depth"]), ncols=2)
    assert [ax.get_title(loc="left") for ax in axes] == ["cell_type", "CD4", "depth"]
    assert [[bar.get_ylabel() for bar in ax.child_axes] for ax in axes] == [[], ["CD4"], ["depth"]]
    for ax, color in zip(axes, ("cell_type", "CD4", "depth"), strict=True):
        assert colours_of(ax) == colours_of(pl.embedding(adata, color))
    axes[0].figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in axes]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    first, second, third = (ax.get_window_extent() for ax in axes)
    assert first.x1 < second.x0
    assert third.y1 < first.y0
    np.testing.assert_allclose([first.width, third.width], second.width, rtol=0.01)
    assert len(axes[0].figure.legends) == 1
    assert [text.split(" (")[0] for text in legend_texts(axes[0].figure.legends[0])] == [
        "training cells",
        "held-out cells",
    ]


def test_a_figure_is_returned_saved_or_shown(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    adata = cells(60)
    assert pl.embedding(adata, "cell_type", return_fig=True, save=tmp_path / "map.pdf").axes
    assert (tmp_path / "map.pdf").stat().st_size
    assert pl.embedding(adata, "cell_type", show=True) is None
    assert len(shown) == 1
    assert isinstance(pl.embedding(adata, ["cell_type"]), mpl.axes.Axes)
    assert [ax.get_title(loc="left") for ax in pl.embedding(adata, ["depth", "CD4"], title=["a", "b"])] == ["a", "b"]


def test_the_basis_may_be_named_as_in_scanpy_and_the_frame_left_out():
    adata = cells()
    ax = pl.embedding(adata, basis="umap", frameon=False)
    assert rows(ax.collections[0].get_offsets()) == rows(adata.obsm["X_umap"])
    assert not ax.axison


# Colours of types -----------------------------------------------------------------------------------------------------


def test_colours_are_read_from_uns_and_written_where_scanpy_finds_them():
    adata = cells()
    ours = colours_of(pl.embedding(adata, "cell_type", split=None))
    assert len(adata.uns["cell_type_colors"]) == 4
    assert ours == colours_of(sc.pl.embedding(adata, "X_tt", color="cell_type", show=False))
    adata.uns["cell_type_colors"] = ["lightgrey", "#000001", "red", "C3", "#ff00ff"]  # one too many
    theirs = colours_of(sc.pl.embedding(adata, "X_tt", color="cell_type", show=False))
    assert colours_of(pl.embedding(adata, "cell_type", split=None)) == theirs
    pl.embedding(adata, "cell_type", palette="tab20")
    expected = adata.copy()
    sc.pl.embedding(expected, "X_tt", color="cell_type", palette="tab20", show=False)
    assert list(adata.uns["cell_type_colors"]) == list(expected.uns["cell_type_colors"])


@pytest.mark.parametrize("kept", [["red"], ["red", "blue", "no colour", "green"]])
def test_colours_in_uns_that_do_not_fit_are_replaced_with_a_warning(kept):
    adata = cells()
    adata.uns["cell_type_colors"] = kept
    with pytest.warns(UserWarning, match=r"uns\['cell_type_colors'\] is replaced: .* each of the 4 categories"):
        pl.embedding(adata, "cell_type")
    assert adata.uns["cell_type_colors"] == [to_hex(tone) for tone in pl.PALETTE[:4]]


def test_colours_of_an_earlier_prediction_are_not_given_to_other_types(trained, new_cells):
    adata = new_cells.copy()
    adata.uns["tt_label_colors"] = ["red", "blue"]
    tt.predict(adata, trained[0])
    assert "tt_label_colors" not in adata.uns


def test_no_colours_are_written_for_numbers_texts_unlabelled_cells_and_views():
    adata = cells()
    adata.obs["text"] = adata.obs["cell_type"].astype(str)
    part = adata[:200]
    pl.embedding(adata, ["depth", "CD4", "text"])
    pl.embedding(part, "cell_type")
    assert part.is_view
    assert not adata.uns
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type 1": "Unknown"})
    pl.embedding(adata, "cell_type")
    assert adata.uns["cell_type_colors"][1] == GREY


def test_groups_are_in_colour_and_all_other_types_grey():
    adata = cells()
    ax, leiden = pl.embedding(adata, ["cell_type", "depth"], groups=["type 1", "type 3"])
    chosen = adata.obs["cell_type"].isin(["type 1", "type 3"])
    assert rows(layers(ax)["unlabelled"].get_offsets()) == rows(adata.obsm["X_tt"][~chosen])
    assert legend_texts(ax.get_legend()) == ["type 1", "type 3", f"other cells ({(~chosen).sum()})"]
    assert colours_of(leiden) == colours_of(pl.embedding(adata, "depth"))
    assert len(adata.uns["cell_type_colors"]) == 4


def test_a_dict_colours_the_types_that_are_shown_in_the_columns_that_it_names():
    adata = cells()
    adata.obs["side"] = pd.Categorical(np.array(["left", "right"])[np.arange(300) % 2])
    own = {name: to_hex(tone) for name, tone in zip(["type 1", "type 2", "type 3"], pl.PALETTE[1:], strict=False)}
    ax = pl.embedding(adata, "cell_type", groups="type 0", palette={"type 0": "#ff0000"})
    assert {"#ff0000", GREY} <= set(colours_of(ax).values())
    assert adata.uns["cell_type_colors"] == ["#ff0000", *own.values()]
    plain = colours_of(pl.embedding(adata, "side"))
    axes = pl.embedding(adata, ["cell_type", "side"], palette=dict.fromkeys(own, "#00ff00") | {"type 0": "#ff0000"})
    assert colours_of(axes[1]) == plain
    assert adata.uns["cell_type_colors"] == ["#ff0000", *["#00ff00"] * 3]


def test_more_types_than_colours_have_another_marker_on_the_map_and_in_the_legend():
    ax = pl.embedding(cells(900, 70), "cell_type", split=None, legend_loc="right margin")
    marks = [(to_hex(mark.get_color()), mark.get_marker()) for mark in ax.get_legend().legend_handles]
    assert len(set(marks)) == 70
    assert len({color for color, _ in marks}) == 30
    shapes = {len(layer.get_paths()[0].vertices) for layer in ax.collections}
    assert len(ax.collections) == len(shapes) == 3


@pytest.mark.parametrize(
    ("name", "expected"), [("{}", [str(i) for i in range(45)]), ("T cell {}.", [*map(str, range(1, 46))])]
)
def test_a_mark_is_a_short_name_itself_or_cannot_be_taken_for_one(name, expected):
    ax = pl.embedding(cells(900, 45, name=name), "cell_type")
    assert [text.get_text() for text in numbers(ax)] == expected
    entries = [text.replace("\u2007", "").split("  ") for text in legend_texts(ax.get_legend())[:45]]
    assert [entry[0] for entry in entries] == expected
    assert [entry[-1] for entry in entries] == [name.format(i) for i in range(45)]


# Numbers --------------------------------------------------------------------------------------------------------------


def test_counts_are_logged_as_scanpy_does_and_the_scale_says_so():
    adata = with_counts()
    wanted = adata.copy()
    sc.pp.normalize_total(wanted, target_sum=1e4)
    sc.pp.log1p(wanted)
    values, unit = values_of(adata, "CD4")
    np.testing.assert_allclose(values, wanted.X[:, 1], rtol=1e-6)
    assert unit == LOGGED
    ax = pl.embedding(adata, "CD4")
    assert ax.child_axes[0].get_ylabel().replace("\n", " ") == f"CD4, {LOGGED}"
    adata.layers["counts"] = adata.X
    np.testing.assert_array_equal(values_of(adata, "CD4", "counts")[0], adata.X[:, 1])  # named: shown as it is
    adata.uns["X_tt"] = {"classes": ["a"], "settings": {"layer": "None", "counts": "False"}}  # intensities
    np.testing.assert_array_equal(values_of(adata, "CD4")[0], adata.X[:, 1])


@pytest.mark.parametrize("make", [np.asarray, csr_matrix])
def test_counts_in_a_file_are_logged_too(make, tmp_path):
    adata = with_counts()
    adata.X, expected = make(adata.X), values_of(adata, "CD4")[0]
    adata.raw = adata.copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for use_raw in (True, False):
        np.testing.assert_allclose(values_of(backed, "CD4", use_raw=use_raw)[0], expected)


def test_a_gene_is_that_of_scanpy_with_raw_and_layers():
    adata = cells()
    adata.raw = adata.copy()
    adata.X, adata.layers["half"] = adata.X * 2, adata.X / 2
    for more in ({}, {"use_raw": False}, {"use_raw": True}, {"layer": "half"}):
        given = values_of(adata, "CD4", more.get("layer"), more.get("use_raw"))[0]
        np.testing.assert_allclose(given, scanpy_values(adata, **more))
    with pytest.raises(ValueError, match=r"use_raw=True and layer='half' name two sources of genes"):
        pl.embedding(adata, "CD4", layer="half", use_raw=True)
    adata.var_names = ["CD3E", "CD44", "MS4A1"]
    np.testing.assert_allclose(values_of(adata, "CD44")[0], adata.X[:, 1])  # not in raw
    with pytest.raises(KeyError, match=r"nor a gene of adata.raw. Did you mean 'CD4'"):
        pl.embedding(adata, "CD44", use_raw=True)


def test_ends_of_a_scale_are_numbers_or_percentiles():
    adata = cells()
    for (vmin, vmax), expected in {
        (0.2, 0.5): (0.2, 0.5),
        ("p10", "p99"): np.percentile(adata.obs["depth"], (10, 99)),
    }.items():
        ax = pl.embedding(adata, "depth", vmin=vmin, vmax=vmax, cmap=mpl.colormaps["cividis"])
        np.testing.assert_allclose(ax.child_axes[0].get_ylim(), expected)
        np.testing.assert_allclose(ax.child_axes[0].get_ylim(), expected)


def test_ends_may_be_given_for_each_colour_and_infinite_numbers_have_none():
    adata = cells()
    adata.obs["huge"] = np.where(np.arange(300) < 3, 1.7e308, adata.obs["depth"])
    axes = pl.embedding(adata, ["cell_type", "depth", "huge"], vmin=[9, 0.2, None], vmax=[None, "p90", 0.7])
    found = [ax.child_axes[0].get_ylim() for ax in axes[1:]]
    expected = [(0.2, np.percentile(adata.obs["depth"], 90)), (adata.obs["huge"].min(), 0.7)]
    np.testing.assert_allclose(found, expected)
    assert "no value (3)" in legend_texts(axes[2].get_legend())


# Legends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "color", "types"), [(3.5, "cell_type", 3), (7, "cell_type", 12), (3.5, "CD4", 3)])
def test_in_ordinary_subplots_a_legend_stays_in_its_own_part_of_the_figure(width, color, types):
    adata = cells(types=types, name="a type of cells {}")
    figure, axes = plt.subplots(2, 2, figsize=(width, width))
    slots = [ax.get_position().x1 * figure.bbox.width for ax in axes.flat]
    for ax in axes.flat:
        assert pl.embedding(adata, color, ax=ax) is ax
    figure.draw_without_rendering()
    for i, ax in enumerate(axes.flat):
        legend = ax.get_legend().get_window_extent()
        beside = [legend, *(bar.get_tightbbox() for bar in ax.child_axes)]
        assert max(box.x1 for box in beside) <= slots[i] + 2
        assert legend.y0 >= 0
        assert not any(legend.overlaps(other.get_tightbbox()) for other in axes.flat if other is not ax)


def test_a_legend_that_has_no_room_is_left_out_with_a_warning():
    adata = cells(types=12, name="a type of cells {}")
    ax = plt.subplots(2, 2, figsize=(3.5, 3.5))[1][0, 0]
    with pytest.warns(
        UserWarning, match="legend of 12 types has no room next to this map, .* make the figure larger"
    ) as said:
        pl.embedding(adata, "cell_type", ax=ax)
    assert said[0].filename == __file__
    assert [text.split(" (")[0] for text in legend_texts(ax.get_legend())] == ["training cells", "held-out cells"]
    assert not ax.texts


def test_a_legend_stands_where_it_is_asked_to():
    few, many = cells(types=4), cells(types=12)
    assert {text.get_text() for text in pl.embedding(few, "cell_type", legend_loc="on data").texts} == {
        f"type {i}" for i in range(4)
    }
    ax = pl.embedding(many, "cell_type", legend_loc="right margin")
    assert not ax.texts
    assert legend_texts(ax.get_legend())[:12] == list(many.obs["cell_type"].cat.categories)
    ax = pl.embedding(many, "cell_type", legend_loc="none")
    assert not ax.texts
    assert ax.get_legend() is None


def test_marks_on_a_solid_map_are_apart_on_the_page():
    adata = cells(900, 12, dim=3)
    adata.obsm["X_tt"] *= (1, 0.05, 0.05)
    ax = pl.embedding(adata, "cell_type")
    ax.figure.draw_without_rendering()
    at = np.array([text.get_window_extent().bounds for text in numbers(ax)])
    middle = at[:, :2] + at[:, 2:] / 2
    apart = np.linalg.norm(middle[:, None] - middle, axis=2) + 1e3 * np.eye(12)
    assert apart.min() > 8 * ax.figure.dpi / 72


# Positions in an image ------------------------------------------------------------------------------------------------


def test_positions_in_an_image_have_y_downwards_and_a_stray_cell_is_at_the_edge():
    adata = cells()
    adata.obsm["spatial"] = np.random.default_rng(0).random((300, 2)) * (600, 400)
    adata.obsm["spatial"][0] = 300, -1e5  # far above
    ax = pl.embedding(adata, "cell_type", basis="spatial")
    assert ax.yaxis_inverted()
    assert ax.get_aspect() == 1
    assert np.ptp(ax.get_ylim()) < 800
    stray = layers(ax)["outside"]
    assert stray.get_offsets()[0][1] == pytest.approx(ax.get_ylim()[1], abs=10)
    (path,) = stray.get_paths()
    np.testing.assert_allclose(path.vertices[path.vertices[:, 1].argmax(), 0], 0, atol=1e-9)  # the head points up
    assert np.ptp(path.vertices[:3, 1]) > 0


# Refused before anything is drawn -------------------------------------------------------------------------------------


def test_a_column_and_a_gene_of_one_name_are_not_mixed_up():
    adata = cells()
    adata.obs["CD4"] = pd.Categorical(["high"] * 300)
    with pytest.raises(ValueError, match=r"color='CD4' is a column of adata.obs and a gene: rename the column"):
        pl.embedding(adata, "CD4")
    assert not plt.get_fignums()


def test_places_where_nothing_can_be_drawn_are_refused(tmp_path, monkeypatch):
    adata = cells()
    figure, ax = plt.subplots()
    with pytest.raises(ValueError, match="ax holds one map, and 2 are asked for"):
        pl.embedding(adata, ["depth", "CD4"], ax=ax)
    with pytest.raises(ValueError, match="ax holds one map, and 2 are asked for"):
        pl.embedding(adata, "depth", distortion=True, ax=ax)
    plt.close(figure)
    with pytest.raises(ValueError, match="ax is of a figure that was closed"):
        pl.embedding(adata, "depth", ax=ax)
    assert not ax.collections
    monkeypatch.setattr(os, "access", lambda *given, **more: False)
    with pytest.raises(PermissionError, match=r"map.png' is read-only: choose another place"):
        pl.embedding(adata, "cell_type", save=tmp_path / "map.png")
    assert not plt.get_fignums()
    assert not adata.uns
