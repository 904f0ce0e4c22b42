"""Names of types on a map, and cells that lie far from all others."""

import colorsys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from tripletomics import pl
from tripletomics.pl import type_names
from tripletomics.pl.map_axes import page_limits


def cells(points, types):
    n = len(points)
    labels = pd.Categorical([f"cell type {code}" for code in types])
    held = pd.Categorical(np.where(np.arange(n) % 3, "train", "held-out"))
    obs = pd.DataFrame({"cell_type": labels, "tt_split": held}, index=[str(i) for i in range(n)])
    return ad.AnnData(np.zeros((n, 1), np.float32), obs=obs, obsm={"X_tt": np.asarray(points, dtype=float)})


def clumped(types, n=600, seed=0):
    random = np.random.default_rng(seed)
    codes = np.arange(n) % types
    return cells(random.normal(size=(types, 2))[codes] * 8 + random.normal(size=(n, 2)), codes)


def even(types, n=1500):
    """Types as cells of a Voronoi diagram of a disk that fills the page."""
    k = np.arange(n)
    radius, turn = np.sqrt((k + 0.5) / n), np.pi * (3 - 5**0.5) * k
    points = radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    middles = np.random.default_rng(1).permutation(points)[:types]
    return cells(points, np.linalg.norm(points[:, None] - middles, axis=2).argmin(axis=1))


def together(types):
    return cells(np.random.default_rng(0).normal(size=(900, 2)), np.arange(900) % types)


def column(adata, **more):
    """Draw a map in a column of a journal."""
    figure, ax = plt.subplots(figsize=(3.5, 3.5), layout="constrained")
    pl.embedding(adata, "cell_type", ax=ax, **more)
    figure.draw_without_rendering()
    return ax


def named(ax):
    return {text.get_text(): text for text in ax.texts if text.get_gid() == "type"}


def ties(ax):
    """Ends of each line on the page, in pixels (2, 2)."""
    return [ax.transAxes.transform(line.get_xydata()) for line in ax.lines if line.get_gid() == "tie"]


def layers(ax):
    return {c.get_label(): c for c in ax.collections}


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "types"), [(clumped, 9), (clumped, 25), (even, 19), (together, 25)])
def test_names_in_a_column_are_all_there_apart_and_inside_the_map(make, types):
    ax = column(make(types))
    texts = named(ax)
    assert sorted(texts) == sorted(f"cell type {code}" for code in range(types))
    boxes = [text.get_window_extent() for text in texts.values()]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    frame = ax.get_window_extent()
    assert all(frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1 for box in boxes)
    for start, tip in ties(ax):
        way = start + np.linspace(0, 1, 200)[1:, None] * (tip - start)
        assert sum(any(box.shrunk(0.9, 0.9).contains(*place) for place in way) for box in boxes) <= types // 20
    assert not [text for text in ax.texts if text.get_gid() == "number"]
    assert [text.get_text().split(" (")[0] for text in ax.get_legend().get_texts()] == [
        "training cells",
        "held-out cells",
    ]


@pytest.mark.parametrize("make", [clumped, even])
def test_a_name_is_next_to_its_cells_or_tied_to_one_of_them(make):
    adata = make(12)
    ax = column(adata)
    places = ax.transData.transform(adata.obsm["X_tt"])
    pixel = ax.figure.dpi / 72
    tips = {line.get_color(): tip for line, (_, tip) in zip(ax.lines, ties(ax), strict=True)}
    for name, text in named(ax).items():
        own = places[(adata.obs["cell_type"] == name).to_numpy()]
        box = text.get_window_extent()
        away = np.maximum(np.maximum(box.min - own, own - box.max), 0)
        tip = tips.get(text.get_color())
        near = np.linalg.norm(away if tip is None else own - tip, axis=1).min()
        assert near < (1.5 * type_names.TIED if tip is None else 6) * pixel


def test_types_side_by_side_are_named_beside_them_without_lines():
    middles = np.array([(i, j) for i in range(3) for j in range(3)]) * 10.0
    codes = np.arange(900) % 9
    adata = cells(middles[codes] + np.random.default_rng(0).normal(size=(900, 2)), codes)
    ax = column(adata)
    assert not ties(ax)
    places = ax.transData.transform(adata.obsm["X_tt"])
    covered = [text.get_window_extent().count_contains(places) for text in named(ax).values()]
    assert sum(covered) < 9


def test_a_name_stands_at_the_largest_island_of_its_type_with_a_thin_outline_and_no_box():
    codes, random = np.arange(900) % 9, np.random.default_rng(0)
    middles = np.array([(i, j) for i in range(3) for j in range(3)])[codes] * 10.0
    far = (codes == 0) & (np.arange(900) < 300)  # 34 of the 100 cells, and denser than the others
    middles[far] = 30
    ax = column(cells(middles + random.normal(size=(900, 2)) * np.where(far, 0.1, 1)[:, None], codes))
    place = ax.transData.inverted().transform(ax.transAxes.transform(named(ax)["cell type 0"].xy))
    assert np.linalg.norm(place) < 8
    outlines = {text.get_text(): text for text in ax.texts if text.get_gid() == "outline"}
    assert {name: text.xy for name, text in outlines.items()} == {name: text.xy for name, text in named(ax).items()}
    assert all(text.get_path_effects() for text in outlines.values())
    assert not any(text.get_bbox_patch() for text in ax.texts)


def test_names_do_not_depend_on_the_order_of_cells():
    adata = clumped(12)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    one, other = ({name: text.xy for name, text in named(column(drawn)).items()} for drawn in (adata, shuffled))
    assert one == other


def test_names_are_text_in_vector_files_and_as_wide_as_a_column_when_broken(tmp_path):
    adata = clumped(9)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(lambda name: f"CD8-positive memory {name}")
    ax = column(adata)
    pl.save(ax.figure, tmp_path / "map.svg")
    svg = (tmp_path / "map.svg").read_text()
    assert all(f">{line}</" in svg for name in named(ax) for line in name.split("\n"))
    assert {name.replace("\n", " ") for name in named(ax)} == set(adata.obs["cell_type"])
    assert max(text.get_window_extent().width for text in named(ax).values()) < 0.4 * ax.get_window_extent().width


def luminance(color):
    """As the WCAG defines it."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("color", [*pl.PALETTE, "white", "black", "yellow"])
def test_names_can_be_read_on_white_and_keep_their_hue(color):
    given, ink = to_rgb(color), type_names.dark(color)
    assert 1.05 / (luminance(ink) + 0.05) >= 4.99
    if luminance(given) <= type_names.DARK:
        np.testing.assert_allclose(ink, given, atol=1e-6)
    else:
        assert abs((colorsys.rgb_to_hls(*ink)[0] - colorsys.rgb_to_hls(*given)[0] + 0.5) % 1 - 0.5) < 0.05


# Far cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("far", "way"), [((1e3, 0), 0), ((0, 1e3), 90), ((-1e3, -1e3), -135)])
def test_a_type_of_one_cell_does_not_set_the_limits_but_is_drawn_at_the_edge_and_counted(far, way):
    adata = clumped(9, n=300)
    alone = cells(np.r_[adata.obsm["X_tt"], [far]], [*adata.obs["cell_type"].str[10:], "X"])
    plain, ax = column(adata), column(alone)
    for one, other in ((plain.get_xlim(), ax.get_xlim()), (plain.get_ylim(), ax.get_ylim())):
        assert np.ptp(other) < 1.25 * np.ptp(one)
    assert sum(len(layer.get_offsets()) for layer in ax.collections) == 301
    outside = layers(ax)["outside"]
    (place,) = outside.get_offsets()
    limits = np.array([ax.get_xlim(), ax.get_ylim()])
    assert (limits[:, 0] < place).all()
    assert (place < limits[:, 1]).all()
    np.testing.assert_allclose(place, np.clip(far, *limits.T), atol=0.02 * np.ptp(limits[0]))
    (path,) = outside.get_paths()
    head = path.vertices[np.linalg.norm(path.vertices, axis=1).argmax()]
    corners = path.vertices[:3] @ [np.cos(np.radians(way)), np.sin(np.radians(way))]
    assert corners.max() == pytest.approx(np.linalg.norm(head), rel=0.01)
    assert "outside the frame (1)" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert "cell type X" in named(ax)


@pytest.mark.parametrize("n", [1, 3, 49, 50, 150, 3000])
@pytest.mark.parametrize("draw", ["uniform", "standard_cauchy"])
def test_few_cells_lie_outside_and_none_that_is_near_the_others(n, draw):
    points = getattr(np.random.default_rng(n), draw)(size=(n, 2))
    low, high = page_limits(points)
    np.testing.assert_allclose(high - low, (high - low)[0])
    away = np.maximum(low - points, points - high).max(axis=1)
    most = 0 if n < 50 or draw == "uniform" else max(1, n**0.5 / 10)
    assert (away > 0).sum() <= most
    if n > 1:
        side = np.ptp(points[away <= 0], axis=0).max()
        np.testing.assert_allclose((high - low)[0], 1.06 * side)
        assert (away[away > 0] > 0.1 * side).all()


def test_a_small_type_away_from_the_others_keeps_its_place():
    points = np.random.default_rng(0).normal(size=(1000, 2))
    points[:10] += 30
    low, high = page_limits(points)
    assert (points > low).all()
    assert (points < high).all()


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("n", [1, 3, 60])
def test_all_cells_in_one_place_and_maps_of_few_cells(dim, n):
    for points in (np.ones((n, dim)), np.arange(n * dim).reshape(n, dim)):
        adata = cells(points, np.arange(n) % 12)
        ax = pl.embedding(adata, "cell_type")
        ax.figure.draw_without_rendering()
        assert sum(len(layer.get_offsets()) for layer in ax.collections) == n


def test_compare_counts_the_cells_outside_of_all_its_maps():
    adata = clumped(9)
    adata.obsm["X_umap"] = adata.obsm["X_tt"].copy()
    adata.obsm["X_tt"][0] = 1e3
    adata.obsm["X_umap"][1] = -1e3
    figure = pl.compare(adata, "cell_type")
    assert [len(layers(ax)["outside"].get_offsets()) for ax in figure.axes] == [1, 1]
    assert "outside the frame (2)" in [text.get_text() for text in figure.legends[0].get_texts()]
