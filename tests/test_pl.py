"""What the figures show, asserted on their data."""

import warnings
from types import SimpleNamespace

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from tripletomics import metrics, pl
from tripletomics.pl.palette import PALETTE, RAMP, colours
from tripletomics.pl.style import GREY, style_of

HISTORY = {
    "metric": {"step": np.arange(200), "loss": np.exp(-np.arange(200) / 50), "held_out_f1": np.linspace(0.1, 0.9, 200)},
    "map": {"step": np.arange(30), "loss": np.ones(30), "held_out_f1": np.full(30, np.nan)},
}


def cells(n=300, types=4, dim=2, seed=0, name="type {}"):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % types
    labels = pd.Categorical.from_codes(codes, [name.format(i) for i in range(types)])
    held = np.where(rng.random(n) < 0.2, "held-out", "train")
    obs = pd.DataFrame({"cell_type": labels, "tt_split": pd.Categorical(held)}, index=[str(i) for i in range(n)])
    obs["depth"] = rng.random(n)
    adata = ad.AnnData(rng.random((n, 3)).astype(np.float32), obs=obs, var=pd.DataFrame(index=["CD3E", "CD4", "MS4A1"]))
    place = rng.normal(size=(types, dim)) * 8
    adata.obsm["X_tt"] = place[codes] + rng.normal(size=(n, dim))
    adata.obsm["X_umap"] = rng.normal(size=(n, 2))
    adata.obsm["X_pca"] = rng.normal(size=(n, 10))
    return adata


def layers(ax):
    return {c.get_label(): c for c in ax.collections}


def legend_texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def numbers(ax):
    return [text for text in ax.texts if text.get_gid() == "number"]


def rows(points):
    return sorted(map(tuple, np.asarray(points).round(9)))


# Cells ----------------------------------------------------------------------------------------------------------------


def test_each_cell_is_drawn_once_in_its_layer_and_held_out_cells_lie_on_top():
    adata = cells()
    adata.obs.loc[adata.obs_names[:30], "cell_type"] = np.nan
    ax = pl.embedding(adata, "cell_type")
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    known = adata.obs["cell_type"].notna().to_numpy()
    drawn = layers(ax)
    for label, mask in {"unlabelled": ~known, "train": known & ~held, "held-out": known & held}.items():
        assert rows(drawn[label].get_offsets()) == rows(adata.obsm["X_tt"][mask])
        assert drawn[label].get_rasterized()
    assert drawn["unlabelled"].get_zorder() < drawn["train"].get_zorder() < drawn["held-out"].get_zorder()


def test_distortion_is_a_map_of_its_own_in_one_scale_next_to_pure_colours():
    adata = cells(types=1)
    adata.obsm["X_tt"][7] = np.nan
    with pytest.warns(UserWarning, match="no finite coordinates"):
        plain, ax = pl.embedding(adata, "cell_type", distortion=True)
    there = np.arange(300) != 7
    adata = adata[there].copy()
    train = (adata.obs["tt_split"] == "train").to_numpy()
    wanted = np.minimum(metrics.distortion(adata.obsm["X_tt"], adata.obsm["X_pca"], train), 1)
    alone = layers(pl.embedding(adata, "cell_type"))
    for label, mask in (("train", train), ("held-out", ~train)):
        np.testing.assert_array_equal(layers(plain)[label].get_facecolor(), alone[label].get_facecolor())
        found = layers(ax)[label]
        value = {tuple(place): dark for place, dark in zip(adata.obsm["X_tt"][mask], wanted[mask], strict=True)}
        expected = RAMP([value[tuple(place)] for place in found.get_offsets()])
        np.testing.assert_allclose(found.get_facecolor(), expected, atol=1e-6)
    (bar,) = ax.child_axes
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0", "0.5", "1"]
    assert bar.get_ylabel().replace("\n", " ").endswith("0 = the same as in the data, 1 = as by chance")
    assert [one.get_title(loc="left") for one in (plain, ax)] == ["cell_type", "distortion"]
    assert pl.embedding(adata, distortion=True).get_title(loc="left") == "distortion"  # one map: one Axes


def drawn_distortion(adata, **more):
    found = layers(pl.embedding(adata, distortion=True, split=None, **more))["cells"].get_facecolor()[:, :3]
    steps = RAMP(np.linspace(0, 1, 256))[:, :3]
    return np.linalg.norm(found[:, None] - steps, axis=2).argmin(axis=1) / 255


def test_distortion_is_against_the_components_of_the_fit_and_needs_some():
    adata = cells(dim=3)
    adata.obsm["X_tt_pca"] = adata.obsm["X_tt"].copy()
    np.testing.assert_allclose(drawn_distortion(adata), 0)
    assert drawn_distortion(adata, basis="X_umap").mean() > 0.8
    assert drawn_distortion(adata, basis="X_pca").max() > 0.5  # of the two that are drawn
    adata.obsm["X_b_pca"] = adata.obsm["X_b_metric"] = adata.obsm["X_umap"]
    np.testing.assert_allclose(drawn_distortion(adata, basis="X_b_metric"), 0)
    for key in ("X_tt_pca", "X_pca"):
        del adata.obsm[key]
    with pytest.raises(KeyError, match=r"which tt.fit writes, or .*X_pca.* of sc.pp.pca"):
        pl.embedding(adata, distortion=True)


def test_distortion_of_every_basis_is_among_the_training_cells():
    adata = cells()
    adata.obsm["X_umap"] = adata.obsm["X_tt"]
    np.testing.assert_array_equal(drawn_distortion(adata), drawn_distortion(adata, basis="X_umap"))
    adata.obs["tt_split"] = ["train"] * 16 + ["held-out"] * 284
    with pytest.raises(
        ValueError, match="needs 17 or more cells to seek neighbours among, and 16 training cells of 300"
    ):
        pl.embedding(adata, distortion=True)


def test_the_legend_and_the_scale_stand_apart():
    ax = pl.embedding(cells(), "depth")
    ax.figure.draw_without_rendering()
    boxes = [ax.get_legend().get_window_extent(), *(bar.get_tightbbox() for bar in ax.child_axes)]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_held_out_cells_are_larger_full_in_colour_and_edged():
    drawn = layers(pl.embedding(cells(types=1), "cell_type"))
    train, held = drawn["train"], drawn["held-out"]
    assert held.get_sizes()[0] > 1.5 * train.get_sizes()[0]
    assert held.get_linewidths()[0] > 0
    assert train.get_linewidths()[0] == 0
    np.testing.assert_allclose(held.get_facecolors()[0, :3], to_rgb(pl.PALETTE[0]))
    np.testing.assert_allclose(train.get_facecolors()[0, :3], 0.45 * np.array(to_rgb(pl.PALETTE[0])) + 0.55)


def test_colours_follow_the_cells():
    adata = cells(types=3)
    palette = {"type 0": "#ff0000", "type 1": "#00ff00", "type 2": "#0000ff"}
    scatter = layers(pl.embedding(adata, "cell_type", split=None, palette=palette))["cells"]
    by_place = {tuple(p.round(9)): c for p, c in zip(adata.obsm["X_tt"], adata.obs["cell_type"], strict=True)}
    for place, color in zip(scatter.get_offsets(), scatter.get_facecolors(), strict=True):
        assert tuple(color[:3]) == to_rgb(palette[by_place[tuple(np.asarray(place).round(9))]])


def test_a_type_keeps_its_colour_when_others_are_absent():
    adata = cells(types=3)
    few = adata[adata.obs["cell_type"] != "type 0"].copy()
    few.obs["cell_type"] = few.obs["cell_type"].cat.set_categories(adata.obs["cell_type"].cat.categories)
    legend = pl.embedding(few, "cell_type").get_legend()
    assert legend_texts(legend)[:2] == ["type 1", "type 2"]
    assert legend.legend_handles[0].get_color() == to_rgb(pl.PALETTE[1])


@pytest.mark.parametrize("word", ["", "Unknown", "unassigned", "nan"])
def test_names_that_mean_unlabelled_are_grey(word):
    adata = cells(types=2)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace("type 1", word)
    ax = pl.embedding(adata, "cell_type")
    grey = layers(ax)["unlabelled"]
    assert len(grey.get_offsets()) == 150
    said = "unassigned" if word == "unassigned" else "unlabelled"
    assert f"{said} (150)" in legend_texts(ax.get_legend())
    adata.obs.loc[adata.obs_names[:2], "cell_type"] = np.nan
    said = "unassigned or unlabelled" if word == "unassigned" else "unlabelled"
    assert f"{said} (151)" in legend_texts(pl.embedding(adata, "cell_type").get_legend())
    np.testing.assert_allclose(grey.get_facecolors()[0, :3], to_rgb(GREY))


@pytest.mark.parametrize("color", ["depth", "CD4"])
def test_numbers_and_genes_get_a_scale_and_keep_their_colour_in_training_cells(color):
    adata = cells()
    ax = pl.embedding(adata, color, cmap="viridis")
    values = adata.obs["depth"].to_numpy() if color == "depth" else adata.X[:, 1]
    train = layers(ax)["train"]
    by_place = {tuple(p.round(9)): v for p, v in zip(adata.obsm["X_tt"], values, strict=True)}
    shown = np.array([by_place[tuple(np.asarray(p).round(9))] for p in train.get_offsets()])
    norm = mpl.colors.Normalize(values.min(), np.quantile(values.astype(float), 0.995), clip=True)
    np.testing.assert_allclose(train.get_facecolors(), mpl.colormaps["viridis"](norm(shown)), atol=0.02)
    assert [scale.get_ylabel() for scale in ax.child_axes] == [color]


def test_unlabelled_numbers_constant_columns_and_no_colour_at_all():
    adata = cells()
    adata.obs.loc[adata.obs_names[:10], "depth"] = np.nan
    assert len(layers(pl.embedding(adata, "depth"))["unlabelled"].get_offsets()) == 10
    adata.obs["depth"] = 1.0
    pl.embedding(adata, "depth")
    adata.obs["depth"] = np.nan
    assert set(layers(pl.embedding(adata, "depth"))) == {"unlabelled"}
    assert set(layers(pl.embedding(adata))) == {"train", "held-out"}


def test_points_shrink_with_the_number_of_cells_and_grow_with_the_map():
    small, large = (layers(pl.embedding(cells(n)))["train"].get_sizes()[0] for n in (500, 20_000))
    assert large < small / 4
    _, axes = plt.subplots(1, 2, figsize=(9, 3), width_ratios=[1, 3])
    narrow, wide = (layers(pl.embedding(cells(5000), ax=ax))["train"].get_sizes()[0] for ax in axes)
    assert narrow < wide
    assert layers(pl.embedding(cells(), size=7))["train"].get_sizes()[0] == 7


# Split ----------------------------------------------------------------------------------------------------------------


def test_the_split_follows_the_basis_and_can_be_named_or_left_out():
    adata = cells()
    adata.obsm["X_foo"] = adata.obsm["X_tt"]
    assert set(layers(pl.embedding(adata, basis="X_foo"))) == {"cells"}
    adata.obs["X_foo_split"] = ["held-out"] * 10 + ["train"] * 290
    assert len(layers(pl.embedding(adata, basis="X_foo"))["held-out"].get_offsets()) == 10
    adata.obs["mine"] = np.arange(300) < 20
    assert len(layers(pl.embedding(adata, split="mine"))["held-out"].get_offsets()) == 20
    assert set(layers(pl.embedding(adata, split=None))) == {"cells"}


def test_the_legend_says_what_held_out_cells_look_like_and_how_many_there_are():
    adata = cells()
    held = int((adata.obs["tt_split"] == "held-out").sum())
    texts = legend_texts(pl.embedding(adata, "cell_type").get_legend())
    assert texts[-2:] == [f"training cells ({300 - held})", f"held-out cells ({held})"]


# Axes and layout ------------------------------------------------------------------------------------------------------


def test_equal_aspect_square_no_ticks_short_labels():
    ax = pl.embedding(cells(), "cell_type")
    assert ax.get_aspect() == 1
    assert np.ptp(ax.get_xlim()) == pytest.approx(np.ptp(ax.get_ylim()))
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("tripletomics map 1", "tripletomics map 2")
    assert ax.get_title(loc="left") == "cell_type"
    assert pl.embedding(cells(), "cell_type", title="PBMC").get_title(loc="left") == "PBMC"


def test_three_dimensions():
    ax = pl.embedding(cells(dim=3, types=12), "cell_type")
    assert ax.name == "3d"
    assert ax.get_zlabel() == "tripletomics map 3"
    assert set(layers(ax)) == {"train", "held-out"}
    assert len(numbers(ax)) == 12
    with pytest.raises(ValueError, match=r"has 3 dimensions: pass an ax made with projection='3d'"):
        pl.embedding(cells(dim=3), ax=plt.subplots()[1])


@pytest.mark.parametrize("types", [3, 12, 30, 60])
@pytest.mark.parametrize("own", [True, False])
def test_the_legend_stays_inside_the_figure_and_off_the_map(types, own):
    ax = None if own else plt.subplots(figsize=(7.1, 3.5), layout="constrained")[1]
    name = "a rather long name of a type {}" if own else "type {}"
    ax = pl.embedding(cells(900, types, name=name), "cell_type", ax=ax)
    ax.figure.draw_without_rendering()
    legend, frame, page = ax.get_legend().get_window_extent(), ax.get_window_extent(), ax.figure.bbox
    assert legend.x0 >= frame.x1 or legend.y1 <= frame.y0
    assert legend.y0 >= -1
    assert legend.x1 <= page.x1 + 1
    assert legend.y1 <= page.y1 + 1


@pytest.mark.parametrize(("types", "name"), [(41, "type {}"), (30, "a rather long name of a type {}")])
def test_where_names_do_not_fit_each_type_has_a_letter_on_the_map_that_the_legend_explains(types, name):
    ax = plt.subplots(figsize=(5, 4), layout="constrained")[1]
    pl.embedding(cells(1000, types, name=name), "cell_type", ax=ax)
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"a{letter}" for letter in "abcdefghijklmno")][:types]
    assert [text.get_text() for text in numbers(ax)] == letters  # numbers could be taken for those in the names
    entries = [text.replace("\u2007", "").split("  ") for text in legend_texts(ax.get_legend())[:types]]
    assert entries == [[letter, name.format(i)] for i, letter in enumerate(letters)]
    assert not [text for text in ax.texts if text.get_gid() == "type"]
    assert len(set(pl.PALETTE)) == 30


def test_numbers_do_not_overlap_even_when_the_types_do():
    adata = cells(3000, 41)  # from here on they do not stand next to their cells
    adata.obsm["X_tt"] = np.random.default_rng(1).normal(size=(3000, 2))
    ax = pl.compare(adata, "cell_type", bases=["X_tt"]).axes[0]
    ax.figure.canvas.draw()
    at = np.array([text.get_window_extent().bounds for text in numbers(ax)])
    middle, half = at[:, :2] + at[:, 2:] / 2, at[:, 2:] / 2
    overlap = (half[:, None] + half[None] - np.abs(middle[:, None] - middle[None])).min(axis=2)
    np.fill_diagonal(overlap, -1)
    assert overlap.max() < 3  # pixels of 150 per inch


def test_a_number_sits_where_its_type_is_densest():
    adata = cells(4100, 41)
    rng = np.random.default_rng(0)
    first = (adata.obs["cell_type"] == "type 0").to_numpy()
    adata.obsm["X_tt"] = rng.normal(50, 5, size=(4100, 2))
    adata.obsm["X_tt"][first] = np.r_[rng.normal(size=(60, 2)), rng.normal(100, 1, size=(40, 2))]
    text = numbers(pl.compare(adata, "cell_type", bases=["X_tt"]).axes[0])[0]
    assert text.get_text() == "a"
    assert np.linalg.norm(text.get_position()) < 5


def test_few_types_have_no_numbers_and_a_map_may_have_no_legend():
    assert not numbers(pl.embedding(cells(types=8), "cell_type"))
    ax = pl.embedding(cells(types=9), "cell_type", legend_loc=None)
    assert ax.get_legend() is None
    assert not numbers(ax)


# Files and state ------------------------------------------------------------------------------------------------------


def test_a_saved_figure_keeps_text_as_text_and_stays_small(tmp_path):
    figure = pl.embedding(cells(20_000, 30), "cell_type").figure
    pl.save(figure, tmp_path / "map.pdf")
    pdf = (tmp_path / "map.pdf").read_bytes()
    assert b"/CIDFontType2" in pdf  # TrueType, not outlines
    assert len(pdf) < 1_500_000
    pl.save(figure, tmp_path / "map.svg")
    svg = (tmp_path / "map.svg").read_text()
    assert ">held-out cells (" in svg
    assert svg.count("<use") < 500  # points are one image
    assert len(svg) < 1_500_000
    pl.save(figure, tmp_path / "map.png")
    height, width, _ = plt.imread(tmp_path / "map.png").shape
    np.testing.assert_allclose((width, height), 300 * figure.get_size_inches(), atol=1)


def test_a_figure_is_saved_whole_or_not_at_all(tmp_path):
    figure = pl.compare(cells(), "cell_type")
    (tmp_path / "map.xyz").write_text("before")
    with pytest.raises(ValueError, match="'xyz' is not supported"):
        pl.save(figure, tmp_path / "map.xyz")
    assert [path.name for path in tmp_path.iterdir()] == ["map.xyz"]
    assert (tmp_path / "map.xyz").read_text() == "before"
    pl.save(figure, tmp_path / "map")
    assert plt.imread(tmp_path / "map", format="png").shape[1] == 2130


def test_nothing_global_and_nothing_in_adata_changes(tmp_path):
    adata = cells()
    before, settings = adata.copy(), dict(mpl.rcParams)
    pl.embedding(adata, "CD4")
    pl.embedding(adata, "depth", basis="X_pca")
    pl.embedding(adata[:200], "cell_type")  # a view is not copied
    pl.save(pl.compare(adata, "cell_type"), tmp_path / "b.pdf")
    assert dict(mpl.rcParams) == settings
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns) == []  # no colours of types were chosen
    assert list(adata.obsm) == list(before.obsm)
    for key in adata.obsm:
        np.testing.assert_array_equal(adata.obsm[key], before.obsm[key])


def test_cells_without_finite_coordinates_are_left_out_and_counted():
    adata = cells(types=12)
    adata.obsm["X_tt"][:5, 0] = np.nan
    adata.obsm["X_tt"][5, 1] = np.inf
    with pytest.warns(UserWarning, match="6 of 300 cells have no finite coordinates in 'X_tt'; not drawn"):
        ax = pl.embedding(adata, "cell_type")
    assert sum(len(c.get_offsets()) for c in ax.collections) == 294
    assert np.isnan(adata.obsm["X_tt"][:5, 0]).all()
    assert not np.isnan(adata.obsm["X_tt"][:5, 1]).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pl.embedding(cells(), "cell_type")


# Compare --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["type {}", "a type of a long and longer name {}"])
def test_compare_draws_the_same_cells_with_the_same_colours_in_square_equal_panels(name):
    adata = cells(types=12, name=name)
    figure = pl.compare(adata, "cell_type", scores={"X_tt": "F1 0.91"})
    names = [name.format(i) for i in range(12)] if name == "type {}" else [*"abcdefghijkl"]
    assert [ax.get_title() for ax in figure.axes] == ["tripletomics", "UMAP", "PCA"]
    assert figure.get_figwidth() == 7.1
    figure.canvas.draw()
    boxes = np.array([ax.get_window_extent().bounds for ax in figure.axes])
    np.testing.assert_allclose(boxes[:, 2:], boxes[0, 2], rtol=0.01)
    np.testing.assert_allclose(boxes[:, 1], boxes[0, 1], atol=1)
    for ax, key in zip(figure.axes, ("X_tt", "X_umap", "X_pca"), strict=True):
        held = (adata.obs["tt_split"] == "held-out").to_numpy()
        assert rows(layers(ax)["held-out"].get_offsets()) == rows(adata.obsm[key][held][:, :2])
        np.testing.assert_array_equal(
            layers(ax)["held-out"].get_facecolors(), layers(figure.axes[0])["held-out"].get_facecolors()
        )
        assert sorted(text.get_text() for text in ax.texts if text.get_gid() == "type") == sorted(names)
        assert ax.get_legend() is None
    (legend,) = figure.legends
    assert len(legend_texts(legend)) == (2 if names[0] == "type 0" else 14)
    extent = legend.get_window_extent()
    assert extent.y1 < boxes[0, 1]
    assert extent.y0 >= 0
    assert extent.x1 <= figure.bbox.x1
    assert "F1 0.91" in [text.get_text() for text in figure.axes[0].texts]


def test_compare_takes_the_bases_that_are_there_or_those_that_are_named():
    adata = cells()
    del adata.obsm["X_umap"]
    assert len(pl.compare(adata, "cell_type").axes) == 2
    assert [ax.get_xlabel() for ax in pl.compare(adata, "cell_type", bases=["X_pca"]).axes] == ["PC 1"]
    assert "held-out" in layers(pl.compare(adata, "cell_type", bases=["X_pca"]).axes[0])
    assert [len(ax.child_axes) for ax in pl.compare(adata, "depth").axes] == [0, 1]  # one scale


@pytest.mark.parametrize("width", [3.5, 7.1])
def test_compare_fits_30_long_names(width):
    figure = pl.compare(cells(900, 30, name="a rather long name of a type {}"), "cell_type", width=width)
    figure.canvas.draw()
    extent = figure.legends[0].get_window_extent()
    assert extent.x0 >= 0
    assert extent.y0 >= 0
    assert extent.x1 <= figure.bbox.x1
    assert extent.y1 < min(ax.get_window_extent().y0 for ax in figure.axes)


# History --------------------------------------------------------------------------------------------------------------


def test_history_shows_loss_and_held_out_f1_of_each_stage():
    panels = pl.history(SimpleNamespace(history=HISTORY)).child_axes
    assert [panel.get_title(loc="left") for panel in panels] == ["metric space", "", "map", ""]
    assert [panel.get_ylabel() for panel in panels] == ["loss", "held-out macro-F1", "loss (neighbours)", ""]
    np.testing.assert_array_equal(panels[0].lines[0].get_ydata(), HISTORY["metric"]["loss"])
    np.testing.assert_array_equal(panels[1].lines[0].get_ydata(), HISTORY["metric"]["held_out_f1"])
    assert [text.get_text() for text in panels[1].texts] == ["held-out 0.90"]
    assert [text.get_text() for text in panels[3].texts] == ["not measured"]
    panels = pl.history(SimpleNamespace(history=HISTORY, scores={"held-out": {"metric": 0.87}})).child_axes
    assert [text.get_text() for text in panels[1].texts] == ["held-out 0.87"]  # as in the summary
    ax = pl.history(SimpleNamespace(history=HISTORY, settings={"loss": "softmax", "map": "umap.npy"}))
    assert [p.get_ylabel() for p in ax.child_axes[::2]] == ["loss (softmax)", "loss (distance to the given map)"]
    assert all(panel.get_legend() for panel in ax.child_axes[::2])
    assert [text.get_text() for text in ax.texts] == [
        "Held-out cells take no part in the training, nor in when it stops."
    ]


def test_history_leaves_out_steps_where_f1_was_not_measured_and_takes_an_ax():
    f1 = np.where(np.arange(100) % 25 == 0, 0.5, np.nan)
    model = SimpleNamespace(history={"metric": {"step": np.arange(100), "loss": np.ones(100), "held_out_f1": f1}})
    _, axes = plt.subplots(1, 2)
    assert pl.history(model, axes[1]) is axes[1]
    np.testing.assert_array_equal(axes[1].child_axes[1].lines[0].get_xdata(), [0, 25, 50, 75])


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"basis": "X_ttt"},
            KeyError,
            r"basis='X_ttt' is not in adata.obsm. Did you mean 'X_tt'\? Present: X_tt, X_umap",
        ),
        (
            {"color": "celltype"},
            KeyError,
            r"color='celltype' is neither .* Did you mean 'cell_type'\? Columns: cell_type",
        ),
        ({"color": "CD3"}, KeyError, r"Did you mean 'CD3E'\?.* Genes: CD3E, CD4, MS4A1."),
        ({"split": "tt_spilt"}, KeyError, r"split='tt_spilt' is not a column of adata.obs. Did you mean 'tt_split'\?"),
        ({"split": "cell_type"}, ValueError, r"split='cell_type' holds type 0, .*; allowed are 'train' and 'held-out'"),
        ({"color": "cell_type", "palette": ["red"]}, ValueError, r"palette has 1 colours for 4 types"),
        ({"color": "cell_type", "palette": {"type 1": "red"}}, ValueError, r"palette has no colour for 'type 0'"),
        ({"color": "cell_type", "palette": "tab21"}, ValueError, r"palette='tab21' is not known. Did you mean 'tab20'"),
        ({"color": "cell_type", "palette": ["red"] * 3 + ["rde"]}, ValueError, r"'rde', which is not a colour"),
        ({"color": "depth", "palette": "viridis"}, ValueError, r"color='depth' holds numbers: pass .* as cmap="),
        ({"color": "cell_type", "cmap": "viridis"}, ValueError, r"color='cell_type' holds types: pass .* as palette="),
        ({"color": "cell_type", "vmax": 3}, ValueError, r"vmax=3 is for numbers"),
        ({"color": "depth", "cmap": "viridiss"}, ValueError, r"holds numbers. Did you mean 'viridis'\?"),
        ({"color": "depth", "vmin": "q9"}, ValueError, r"vmin='q9' is not a number or a percentile, such as 'p99'"),
        ({"color": "depth", "vmin": 2, "vmax": 1}, ValueError, r"vmin=2 is above vmax=1"),
        ({"color": ["cell_type", "CD5"]}, KeyError, r"color='CD5' is neither .* Did you mean 'CD4'\?"),
        ({"color": []}, ValueError, r"color=\[\] names nothing to draw"),
        ({"color": "cell_type", "groups": ["type 1", "type1"]}, ValueError, r"'type1', .* Did you mean 'type 1'\?"),
        ({"color": "depth", "groups": "type 1"}, ValueError, r"groups has 'type 1', which is no type .* Types: none"),
        (
            {"legend_loc": "right side"},
            ValueError,
            r"legend_loc='right side' is not known. Did you mean 'right margin'\?",
        ),
        ({"ncols": 0}, ValueError, r"ncols=0 is not the number of maps in a row"),
        ({"color": ["depth", "CD4"], "title": "one"}, ValueError, r"title has 1 texts for 2 colours"),
        ({"color": "CD4", "use_raw": True}, ValueError, r"adata.raw is empty: leave out use_raw="),
        ({"color": 5}, TypeError, r"color=5 is neither a name nor a list of names"),
        ({"color": "cell_type", "layer": "logs"}, KeyError, r"layer='logs' is not a layer of adata"),
        ({"size": -1}, ValueError, r"size=-1 is not an area in square points: pass one number above 0"),
        ({"size": [1] * 300}, ValueError, r"size=\[1, .* is not an area"),
        ({"size": float("nan")}, ValueError, r"size=nan is not an area"),
        ({"color": "depth", "vmin": float("nan")}, ValueError, r"vmin=nan is not a finite number or a percentile"),
        ({"color": "depth", "vmax": [1, 2]}, ValueError, r"vmax has 2 values for 1 colours: pass one value, or one"),
        ({"color": "depth", "cmap": 5}, TypeError, r"cmap=5 is neither a matplotlib colormap nor the name of one"),
        ({"color": "cell_type", "palette": mpl.colormaps["tab10"]}, TypeError, r"holds no colours: pass a list or a"),
        ({"color": "cell_type", "groups": []}, ValueError, r"groups=\[\] names no type to show"),
        ({"color": "cell_type", "groups": ["type 0"], "palette": {"type 1": "red"}}, ValueError, r"for 'type 0'"),
        ({"save": 5}, TypeError, r"save=5 is not the path of a file"),
        ({"ax": np.array([None, None])}, TypeError, r"ax must be one Axes of matplotlib, not ndarray"),
    ],
)
def test_errors_say_what_was_given_and_what_is_there_and_draw_nothing(settings, error, message):
    with pytest.raises(error, match=message):
        pl.embedding(cells(), **settings)
    assert not plt.get_fignums()


def test_errors_about_the_data():
    adata = cells()
    adata.obsm["X_tt_metric"] = np.zeros((300, 32))
    with pytest.raises(ValueError, match=r"basis='X_tt_metric' has shape \(300, 32\); a map has 2 or 3 columns"):
        pl.embedding(adata, basis="X_tt_metric")
    adata.obsm["X_umap"][:] = np.nan
    with pytest.raises(ValueError, match="basis='X_umap' has no row with finite coordinates"):
        pl.embedding(adata, basis="X_umap")
    with pytest.raises(ValueError, match=r"scores has 'X_t', which is not drawn. Did you mean 'X_tt'\? Drawn: X_tt"):
        pl.compare(adata, "cell_type", bases=["X_tt"], scores={"X_t": "0.9"})
    adata.var_names = ["A", "A", "B"]
    with pytest.raises(ValueError, match=r"color='A' names 2 genes. Call adata.var_names_make_unique\(\) first."):
        pl.embedding(adata, "A")
    del adata.obsm["X_tt"]
    with pytest.raises(KeyError, match=r"basis='X_tt' is not in adata.obsm. tt.fit writes it. Present: "):
        pl.embedding(adata)
    with pytest.raises(ValueError, match=r"palette='magma' is for types, and color='depth' holds numbers: .* as cmap="):
        pl.compare(adata, "depth", bases=["X_pca"], palette="magma")
    with pytest.raises(ValueError, match="No bases to compare"):
        pl.compare(adata, "cell_type", bases=[])
    with pytest.raises(TypeError, match="adata must be an AnnData, not str"):
        pl.embedding("pbmc.h5ad")


def test_history_of_no_model():
    with pytest.raises(TypeError, match=r"history needs a fitted tt.Model, not int"):
        pl.history(3)


def colour_of(adata, color):
    return {name: tuple(rgb) for name, rgb in style_of(adata, color, None, None).types.values()}


def test_a_type_has_one_colour_by_its_name_in_all_columns():
    adata = cells()
    names = list(adata.obs["cell_type"].cat.categories)
    first = colour_of(adata, "cell_type")
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.reorder_categories(names[::-1])
    assert colour_of(adata, "cell_type") == first  # whatever the order of the categories
    adata.obs["tt_label"] = pd.Categorical(["type 3"] * 300, [*names[1:], "unassigned"])
    adata.uns["X_tt"] = {"classes": np.array(names[1:], dtype=object)}  # of a model that does not know the first
    both = colour_of(adata, "cell_type"), colour_of(adata, "tt_label")
    assert both[1] == {"type 3": both[0]["type 3"]} == {"type 3": to_rgb(PALETTE[2])}
    assert len(set(both[0].values())) == 4
    assert both[0]["type 0"] == to_rgb(PALETTE[3])
    adata.uns["cell_type_colors"] = ["#010101", "#020202", "#030303", "#040404"]  # scanpy's, in the order of categories
    assert colour_of(adata, "cell_type")["type 3"] == colour_of(adata, "tt_label")["type 3"] == to_rgb("#010101")
    adata.uns["cell_type_colors"] = ["#010101"]  # of fewer categories than there are
    assert colour_of(adata, "cell_type")["type 3"] == to_rgb(PALETTE[2])
    adata.obs["side"] = pd.Categorical(np.array(["left", "right"])[np.arange(300) % 2])
    assert list(colour_of(adata, "side").values()) == [to_rgb(PALETTE[0]), to_rgb(PALETTE[1])]  # no types of the model


def test_colours_run_out_only_where_there_are_more_types_than_colours():
    adata = ad.AnnData(uns={"X_tt": {"classes": np.array([f"t{i}" for i in range(28)], dtype=object)}})
    found = colours("x", ["t3", *(f"new {i}" for i in range(29))], None, adata)
    assert len(set(found)) == 30
    assert len(colours("x", [f"n{i}" for i in range(70)], None, adata)) == 70


def test_names_in_bytes_are_read():
    adata = cells()
    names = adata.obs["cell_type"].astype(str)
    adata.obs["raw"] = pd.Categorical([name.encode() for name in names])
    assert colour_of(adata, "raw") == colour_of(adata, "cell_type")


@pytest.mark.parametrize(("p", "least", "words"), [(0.2, 0.2, ", too few to tell"), (np.nan, np.nan, ", not tested")])
def test_a_test_that_could_not_tell_is_said_in_the_legend_and_stamps_nothing(p, least, words):
    adata = cells()
    adata.uns["X_tt"] = {"p_value": {"map": p}, "findings": {"tested": np.array([4, 2, least])}}
    ax = pl.embedding(adata, "cell_type")
    held = int((adata.obs["tt_split"] == "held-out").sum())
    assert f"held-out cells ({held}{words})" in legend_texts(ax.get_legend())
    assert not [text for text in ax.texts if text.get_gid() == "no signal"]


def test_a_gene_of_a_layer():
    adata = cells()
    adata.layers["raw"] = adata.X.copy()
    expected = pl.embedding(adata, "CD4").collections[0].get_facecolors()
    adata.X = None
    np.testing.assert_array_equal(pl.embedding(adata, "CD4", layer="raw").collections[0].get_facecolors(), expected)
    with pytest.raises(ValueError, match=r"color='CD4' is a gene, and adata.X is empty: name the matrix with layer="):
        pl.embedding(adata, "CD4")
    with pytest.raises(KeyError, match=r"layer='rew' is not a layer of adata. Did you mean 'raw'"):
        pl.embedding(adata, "CD4", layer="rew")


def test_one_basis_is_a_list_of_one():
    adata = cells()
    assert len(pl.compare(adata, "cell_type", bases="X_tt").axes) == 1
