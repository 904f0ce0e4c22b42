"""Maps of types on several levels: shades, names of the level that fits, and a legend below parents."""

import colorsys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from tripletomics import pl
from tripletomics.labels.tree import Tree
from tripletomics.pl.branches import shades, tree_in
from tripletomics.pl.palette import PALETTE
from tripletomics.pl.style import style_of
from tripletomics.pl.type_names import place_boxes

FAMILIES = ("blood", "brain", "skin")


def cells(leaves=4, n=900, seed=0, names="{} {}", coarse=0):
    """Three families of types, each family in a corner of the map; the first `coarse` cells have no finer name."""
    random = np.random.default_rng(seed)
    codes = np.arange(n) % (3 * leaves)
    family, leaf = codes // leaves, codes % leaves
    corner = 20 * np.array([[0, 0], [1, 0], [0, 1]])[family]
    turn = 2 * np.pi * leaf / leaves
    points = corner + 6 * np.stack([np.cos(turn), np.sin(turn)], axis=1) + random.normal(size=(n, 2))
    fine = np.array([names.format(FAMILIES[f], i) for f, i in zip(family, leaf, strict=True)], dtype=object)
    top = np.array(FAMILIES, dtype=object)[family]
    obs = pd.DataFrame({"family": top, "cell_type": fine}, index=[str(i) for i in range(n)])
    obs["tt_split"] = pd.Categorical(np.where(np.arange(n) % 5, "train", "held-out"))
    adata = ad.AnnData(np.zeros((n, 1), np.float32), obs=obs, obsm={"X_tt": points})
    tree = Tree.of(dict(zip(fine, top, strict=True)) | dict.fromkeys(FAMILIES))
    record = {"names": np.array(tree.names, dtype=object), "parents": tree.parents}
    adata.uns["X_tt"] = {"tree": record, "settings": {"label": "family, cell_type"}, "classes": tree.names[:-3]}
    adata.obs.loc[adata.obs_names[:coarse], "cell_type"] = None
    return adata


def column(adata, color="cell_type", width=3.5, **more):
    figure, ax = plt.subplots(figsize=(width, width), layout="constrained")
    pl.embedding(adata, color, ax=ax, **more)
    figure.draw_without_rendering()
    return ax


def named(ax):
    return {text.get_text() for text in ax.texts if text.get_gid() == "type"}


def legend(ax):
    return {
        text.get_text(): mark.get_color()
        for text, mark in zip(ax.get_legend().get_texts(), ax.get_legend().legend_handles, strict=True)
    }


def hue(color):
    return colorsys.rgb_to_hls(*to_rgb(color))[0]


def away(one, other):
    return abs((hue(one) - hue(other) + 0.5) % 1 - 0.5)


def test_leaves_are_shades_of_the_hue_of_their_family():
    adata = cells()
    colors = dict(style_of(adata, "cell_type", None, None).types.values())
    assert len(set(map(tuple, colors.values()))) == 12
    families = dict(style_of(adata, "family", None, None).types.values())
    for name, color in colors.items():
        assert min(families, key=lambda family: away(color, families[family])) == name.split()[0]
    for family in FAMILIES:
        own = [np.dot((0.2126, 0.7152, 0.0722), to_rgb(colors[f"{family} {i}"])) for i in range(4)]
        assert (np.diff(own) > 0.05).all()


def test_leaves_are_named_where_there_is_room_and_the_legend_says_what_hues_mean():
    ax = column(cells())
    assert named(ax) == {f"{family} {i}" for family in FAMILIES for i in range(4)}
    assert [text.split(" (")[0] for text in legend(ax)] == [*FAMILIES, "training cells", "held-out cells"]
    assert ax.get_legend().get_window_extent().y1 <= ax.get_window_extent().y0


@pytest.mark.parametrize("names", ["{} with a long name of its own {}", "{} {}"])
def test_where_leaves_have_no_room_their_families_are_named_amid_their_cells(names):
    adata = cells(leaves=14, names=names)
    ax = column(adata)
    assert named(ax) == set(FAMILIES)
    places = ax.transData.transform(adata.obsm["X_tt"])
    for text in ax.texts:
        own = places[(adata.obs["family"] == text.get_text()).to_numpy()]
        box = text.get_window_extent()
        assert (own.min(axis=0) < box.max).all()
        assert (box.min < own.max(axis=0)).all()
    entries = [*legend(ax)]
    if "long" in names:  # a legend of all of them would leave no room for the map
        assert entries[:3] == [*FAMILIES]
        assert hue(legend(ax)["brain"]) > 0
        return
    for family in FAMILIES:
        first = entries.index(family)
        indented = [f"\u2003{names.format(family, i)}" for i in range(14)]
        assert entries[first + 1 : first + 15] == sorted(indented)
    assert legend(ax)["brain"] == "none"
    assert not [text for text in ax.texts if text.get_gid() == "number"]


def test_few_types_are_listed_below_their_families():
    ax = column(cells(leaves=2))
    assert not named(ax)
    assert [*legend(ax)][:6] == ["blood", "\u2003blood 0", "\u2003blood 1", "brain", "\u2003brain 0", "\u2003brain 1"]


def test_cells_that_are_known_coarsely_have_a_paler_colour_of_their_family_and_a_line_in_the_legend():
    adata = cells(coarse=300)
    style = style_of(adata, "cell_type", None, None)
    names = np.array([style.types[code][0] for code in style.codes], dtype=object)
    assert style.known.all()
    expected = adata.obs["family"] + " (no finer label)"
    assert (names[:300] == expected[:300]).all()
    assert (names[300:] == adata.obs["cell_type"][300:]).all()
    colors = dict(style.types.values())
    for family in FAMILIES:
        leaves = np.mean([colors[f"{family} {i}"] for i in range(4)], axis=0)
        np.testing.assert_allclose(colors[f"{family} (no finer label)"], 0.6 + 0.4 * leaves)
    assert {*legend(column(adata))} > {f"{family} (no finer label)" for family in FAMILIES}
    one = adata.obs["cell_type"].where(adata.obs["cell_type"].notna(), adata.obs["family"])  # a column of all levels
    adata.obs["cell_type"], adata.uns["X_tt"]["settings"] = one, {"label": "cell_type"}
    again = style_of(adata, "cell_type", None, None)
    np.testing.assert_array_equal(again.codes, style.codes)
    np.testing.assert_allclose(again.rgb, style.rgb)


def test_a_column_between_the_top_and_the_types_has_names_of_its_own_level():
    adata = cells(leaves=3)
    types, families = adata.obs["cell_type"], adata.obs["family"]
    adata.obs["middle"] = families + np.where(types.str.endswith("0"), " early", " late")
    parents = dict(zip(types, adata.obs["middle"], strict=True)) | dict(zip(adata.obs["middle"], families, strict=True))
    tree = Tree.of(parents | dict.fromkeys(FAMILIES))
    adata.uns["X_tt"]["tree"] = {"names": np.array(tree.names, dtype=object), "parents": tree.parents}
    adata.uns["X_tt"]["settings"]["label"] = "family, middle, cell_type"
    adata.obs["middle"] = adata.obs["middle"].astype("category")
    adata.obs.loc[adata.obs_names[:5], "middle"] = None
    style = style_of(adata, "middle", None, None)
    blood, brain, skin = ([f"{name} early", f"{name} late"] for name in FAMILIES)
    coarse = " (no finer label)"
    expected = ["blood" + coarse, *blood, "brain" + coarse, *brain, "skin", *skin]
    assert [name for name, _, _ in style.lines] == expected
    adata.obs["middle"] = None
    adata.obs["middle"] = adata.obs["middle"].astype("category").cat.set_categories(["blood early", "blood late"])
    adata.obs["family"] = "liver"  # a name that is not in the tree
    assert dict(style_of(adata, "middle", None, None).types.values()).keys() == {"liver"}
    adata.obs["family"] = None
    assert not style_of(adata, "middle", None, None).known.any()


def test_a_coarse_column_a_gene_and_a_column_of_other_names_are_drawn_as_without_a_tree():
    adata = cells()
    adata.obs["donor"] = pd.Categorical(np.arange(900) % 2).rename_categories(["d0", "d1"])
    plain = adata.copy()
    del plain.uns["X_tt"]
    for color in ("family", "donor", "0"):
        one, other = style_of(adata, color, None, None), style_of(plain, color, None, None)
        np.testing.assert_array_equal(one.codes, other.codes)
        assert one.branches is None
    assert dict(style_of(adata, "donor", None, None).types.values())["d0"] == to_rgb(PALETTE[0])
    assert [*legend(column(adata, "family"))][:3] == [*FAMILIES]


def test_colours_of_the_dataset_and_of_the_palette_stay():
    adata = cells(coarse=30)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype("category")
    adata.uns["cell_type_colors"] = [f"#0000{10 + i}" for i in range(12)]
    colors = dict(style_of(adata, "cell_type", None, None).types.values())
    assert to_rgb(colors["brain 1"]) == to_rgb("#000015")
    np.testing.assert_allclose(colors["brain (no finer label)"], 0.6 + 0.4 * np.array([0, 0, 0x15 + 0.5]) / 255)
    given = {f"{family} {i}": "red" for family in FAMILIES for i in range(4)}
    colors = dict(style_of(adata, "cell_type", None, given).types.values())
    assert to_rgb(colors["brain 1"]) == (1, 0, 0)
    np.testing.assert_allclose(colors["brain (no finer label)"], (1, 0.6, 0.6))


def test_a_name_above_all_others_is_no_level_and_a_new_type_has_a_hue_of_its_own():
    tree = Tree.of({"a1": "a", "a2": "a", "b": "cell", "a": "cell", "cell": None})
    rooted = shades(tree, ["a1", "a2", "b"], {})
    plain = shades(Tree.of({"a1": "a", "a2": "a", "b": None, "a": None}), ["a1", "a2", "b"], {})
    for name in ("a1", "a2", "b"):
        np.testing.assert_allclose(rooted[name], plain[name])
    adata = cells()
    adata.obs.loc[adata.obs_names[:50], "cell_type"] = "liver"
    colors = dict(style_of(adata, "cell_type", None, None).types.values())
    assert min(away(colors["liver"], color) for name, color in colors.items() if name != "liver") > 0.05


def test_a_tree_survives_a_file_and_a_broken_one_is_left_out(tmp_path):
    adata = cells(coarse=30)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert style_of(back, "cell_type", None, None).lines == style_of(adata, "cell_type", None, None).lines
    for parents in ([-1], np.arange(15), np.roll(np.arange(15), 1), ["x"] * 15):
        adata.uns["X_tt"]["tree"]["parents"] = parents
        assert style_of(adata, "cell_type", None, None).branches is None


def test_compare_and_three_dimensions_number_the_types_in_the_order_of_the_legend():
    adata = cells(coarse=30)
    adata.obsm["X_umap"] = adata.obsm["X_tt"].copy()
    figure = pl.compare(adata, "cell_type")
    lines = [text.get_text().replace("\u2007", "") for text in figure.legends[0].get_texts()]
    assert lines[:3] == ["a  blood (no finer label)", "b  \u2003blood 0", "c  \u2003blood 1"]
    marks = [text.get_text() for text in figure.axes[0].texts if text.get_gid() == "type"]
    assert sorted(marks) == [*"abcdefghijklmno"]
    adata.obsm["X_3d"] = np.random.default_rng(0).normal(size=(900, 3))
    ax = pl.embedding(adata, "cell_type", basis="X_3d")
    assert len([text for text in ax.texts if text.get_gid() == "number"]) == 15


def test_a_tiny_map_is_drawn_without_names_that_do_not_fit():
    assert named(column(cells(leaves=6, coarse=100), width=1.5)) <= set(FAMILIES)


def test_new_cells_with_names_of_all_levels_are_drawn_on_the_map_of_the_reference():
    adata = cells(n=60)
    tree, _ = tree_in(adata.uns, ["blood 0"])
    adata.obs["tt_label"] = ["unassigned"] * 5 + ["brain"] * 10 + ["skin 0"] * 45
    adata.uns["tt_mapping"] = {"matched": 1, "missing": 0, "weight": 1.0, "notes": []}
    reference = SimpleNamespace(map=adata.obsm["X_tt"], codes=np.arange(60) % 12)
    model = SimpleNamespace(types=tree.names[:12], tree=tree, reference=reference, findings={}, p_value={})
    figure = pl.mapping(adata, model)
    bars = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert bars == ["skin 0", "brain", "unassigned"]
    colors = shades(tree, [*tree.names], {})
    for bar, name in zip(figure.axes[1].patches, bars[:2], strict=False):
        np.testing.assert_allclose(bar.get_facecolor()[:3], colors[name])
    narrow = pl.mapping(adata, model, width=1)  # a name that has no place on the map has no number
    assert [label.get_text() for label in narrow.axes[1].get_yticklabels()] == ["i  skin 0", "brain", "unassigned"]


def test_a_name_stands_at_the_largest_piece_of_its_cells_though_a_small_one_is_denser():
    random = np.random.default_rng(0)
    cloud, satellite = random.normal([0.7, 0.5], 0.06, (300, 2)), random.normal([0.1, 0.5], 0.002, (200, 2))
    ((middle, _, _),) = place_boxes([np.concatenate([cloud, satellite])], np.array([[0.1, 0.04]]), 100)
    assert abs(middle[0] - 0.7) < 0.3
