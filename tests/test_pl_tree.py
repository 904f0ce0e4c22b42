"""What the drawing of the class tree shows, asserted on its data."""

from itertools import pairwise
from types import SimpleNamespace

import anndata as ad
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy.cluster.hierarchy import linkage

import tripletomics as tt
from tripletomics import pl
from tripletomics.labels.reference import type_distances
from tripletomics.labels.tree import Tree


def model_of(places, names=None):
    """A stand-in for a model: a tree of points on a line."""
    names = [f"type {i}" for i in range(len(places))] if names is None else names
    tree = linkage(np.array(places, dtype=float)[:, None], "single")
    return SimpleNamespace(findings={"tree": tree}, classes=names, settings={"loss": "hierarchical_triplet"})


def names_of(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def branches(ax):
    (lines,) = ax.collections
    return np.array(lines.get_segments())  # (merges, 4, 2): child, corner, corner, child


def leaves_under(ax):
    """The names that hang below each branch, from the lines alone."""
    names, found = names_of(ax), {}
    for segment in sorted(branches(ax).tolist(), key=lambda s: s[1][0]):
        below = set()
        for x, y in (segment[0], segment[3]):
            below |= {names[round(y)]} if x == 0 else found[x, y]
        found[segment[1][0], (segment[0][1] + segment[3][1]) / 2] = below
    return sorted(map(sorted, found.values()))


@pytest.fixture(scope="module")
def grown():
    """A model of three types with the tree that it learned."""
    random = np.random.default_rng(0)
    kinds = np.arange(90) % 3
    x = random.normal(size=(90, 20)).astype(np.float32)
    x[:, 0] += 8 * (kinds == 2)
    x[:, 1] += 2 * (kinds == 1)
    adata = ad.AnnData(x)
    adata.obs["kind"] = np.array(["CD4 T cell", "CD8 T cell", "B cell"])[kinds]
    return tt.fit(adata, label="kind", loss="hierarchical_triplet", counts=False, steps=20, progress=False)


def test_a_learned_tree_is_drawn_with_the_names_of_the_classes(grown):
    ax = pl.tree(grown)
    assert sorted(names_of(ax)) == grown.classes == ["B cell", "CD4 T cell", "CD8 T cell"]
    np.testing.assert_array_equal(ax.get_yticks(), [0, 1, 2])
    heights = grown.findings["tree"][:, 2]
    assert (heights > 0).all()
    np.testing.assert_array_equal(sorted(branches(ax)[:, 1, 0]), heights)
    first = sorted(grown.classes[int(i)] for i in grown.findings["tree"][0, :2])
    assert leaves_under(ax) == sorted([first, grown.classes])


def test_a_saved_model_keeps_its_tree(grown, tmp_path):
    grown.save(tmp_path / "model.tt")
    np.testing.assert_array_equal(branches(pl.tree(tt.load(tmp_path / "model.tt"))), branches(pl.tree(grown)))


def test_branches_meet_at_the_heights_of_the_linkage_and_names_stand_at_their_leaves():
    ax = pl.tree(model_of([0, 10, 1, 13], ["a", "c", "b", "d"]))
    assert leaves_under(ax) == [["a", "b"], ["a", "b", "c", "d"], ["c", "d"]]
    drawn = branches(ax)
    np.testing.assert_array_equal(sorted(drawn[:, 1, 0]), [1, 3, 9])
    np.testing.assert_array_equal(drawn[:, 1, 0], drawn[:, 2, 0])  # an upright where two meet
    np.testing.assert_array_equal(drawn[:, [0, 3], 1], drawn[:, [1, 2], 1])  # and level arms
    assert ax.get_xlim()[0] == 0
    assert 9 < ax.get_xlim()[1] < 10
    assert ax.get_ylim() == (3.5, -0.5)
    assert ax.get_xlabel() == "squared distance between the nearest types\nof two branches, in the metric space"


def test_a_model_without_a_tree_has_that_of_the_centres_of_its_types(fitted):
    model = fitted[0]
    ax, reference = pl.tree(model), model.reference
    centres = reference.means @ np.linalg.inv(reference.whiten)
    wanted = linkage(centres, "average", metric="cosine")
    assert ax.get_xlabel().endswith("average linkage")
    assert sorted(names_of(ax)) == model.types
    dots = [line for line in ax.lines if line.get_gid() == "type"]
    counts = [text.get_text() for text in ax.texts if text.get_gid() == "cells"]
    for row, name in enumerate(names_of(ax)):
        code = model.types.index(name)
        assert dots[row].get_color() == pl.PALETTE[code]
        assert counts[row] == f"{reference.sizes[code]:,}"
    np.testing.assert_allclose(sorted(branches(ax)[:, 1, 0]), wanted[:, 2])
    one = SimpleNamespace(findings={}, classes=["a"], types=["a"], reference=SimpleNamespace(sizes=np.ones(1)))
    with pytest.raises(ValueError, match=r"^This model has 1 cell type, and a tree needs two or more\."):
        pl.tree(one)


def test_types_are_apart_by_the_directions_of_their_means_and_not_by_how_strong_these_are():
    apart = type_distances(np.array([[1.0, 0], [50, 1], [0, 2], [-3, 0], [0, 0]]))
    assert apart[0, 1] < 0.001
    np.testing.assert_allclose(apart[0], [0, apart[1, 0], 1, 2, 1])
    assert not apart.diagonal().any()


def test_no_lines_cross_and_the_largest_branch_is_on_top():
    ax = pl.tree(model_of([0, 100, 1, 103, 2.5, 4.7, 300]))
    for members in leaves_under(ax):
        rows = sorted(names_of(ax).index(name) for name in members)
        assert rows == list(range(rows[0], rows[0] + len(members)))
    assert set(names_of(ax)[:4]) == {"type 0", "type 2", "type 4", "type 5"}
    assert names_of(ax)[-1] == "type 6"


def test_the_figure_is_as_tall_as_the_types_need_and_holds_long_names():
    few = pl.tree(model_of([0, 1, 3])).figure
    ax = pl.tree(model_of(np.arange(40.0) ** 2, [f"a rather long name of a rare type of cell {i}" for i in range(40)]))
    figure = ax.figure
    assert figure.get_figheight() > few.get_figheight() + 3
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) < ax.get_window_extent().x0
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))
    assert ax.get_window_extent().width / figure.dpi > 2


def test_a_given_ax_is_used_and_nothing_else_changes():
    _, axes = plt.subplots(1, 2)
    before, sizes = dict(mpl.rcParams), axes[0].figure.get_size_inches().tolist()
    assert pl.tree(model_of([0, 1, 3]), axes[1]) is axes[1]
    assert len(branches(axes[1])) == 2
    assert not axes[0].collections
    assert dict(mpl.rcParams) == before
    assert axes[0].figure.get_size_inches().tolist() == sizes
    assert len(plt.get_fignums()) == 1


def test_two_types_and_types_in_one_place():
    assert branches(pl.tree(model_of([0, 2]))).shape == (1, 4, 2)
    ax = pl.tree(model_of([1, 1, 1]))
    assert not branches(ax)[:, :, 0].any()
    assert ax.get_xlim() == (0, 1)


PARENTS = {"CD4": "T", "CD8": "T", "T": "lymphoid", "B": "lymphoid", "lymphoid": None, "platelet": None}


def given(f1):
    tree = Tree.of(PARENTS)
    cells = 100 * np.arange(len(tree.names)) + 1000
    return SimpleNamespace(tree=tree, findings={"node_cells": cells, "node_f1": np.array(f1)}, classes=[], settings={})


def test_a_given_tree_has_each_name_below_its_parent_with_cells_and_f1():
    model = given([0.9, 0.8, 0.7, np.nan, 1.0, 0.0])
    assert model.tree.names == ["B", "CD4", "CD8", "platelet", "T", "lymphoid"]
    ax = pl.tree(model)
    ax.figure.draw_without_rendering()
    found = {gid: [text for text in ax.texts if text.get_gid() == gid] for gid in ("name", "cells", "F1")}
    assert [text.get_text() for text in found["name"]] == ["lymphoid", "B", "T", "CD4", "CD8", "platelet"]
    at = {text.get_text(): text.get_position() for text in found["name"]}
    assert [at[name][1] for name in at] == [0, 1, 2, 3, 4, 5]
    assert at["lymphoid"][0] == at["platelet"][0] < at["B"][0] == at["T"][0] < at["CD4"][0] == at["CD8"][0]
    assert [text.get_text() for text in found["cells"]] == ["1,500", "1,000", "1,400", "1,100", "1,200", "1,300"]
    assert [text.get_text() for text in found["F1"]] == ["0.00", "0.90", "1.00", "0.80", "0.70", "\u2013"]
    lengths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(lengths, np.max(lengths) * np.array([0, 0.9, 1, 0.8, 0.7, 0]))
    page = ax.figure.bbox
    for text in ax.texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
    names, counts = ([text.get_window_extent() for text in found[gid]] for gid in ("name", "cells"))
    assert max(box.x1 for box in names) < min(box.x0 for box in counts)
    assert (
        len(ax.collections[0].get_segments()) == 2 + 4
    )  # down from each name with others below it, and right to each of these


def test_a_given_tree_says_how_many_held_out_cells_an_f1_is_of_and_leaves_out_that_of_few():
    model = given([0.9, 0.8, 0.7, 0.0, 1.0, 0.0])
    model.findings["node_held"] = np.array([40.0, 5, 1200, 1, 9, 4])
    found = [text.get_text() for text in pl.tree(model).texts if text.get_gid() == "F1"]
    assert found == ["\u2013 (4)", "0.90 (40)", "1.00 (9)", "0.80 (5)", "0.70 (1,200)", "\u2013 (1)"]


def test_a_given_tree_without_scores_and_on_given_axes():
    model = given([np.nan] * 6)
    model.findings = {}
    ax = plt.subplots()[1]
    assert pl.tree(model, ax) is ax
    assert [text.get_text() for text in ax.texts if text.get_gid() == "F1"] == ["\u2013"] * 6
    assert not [text for text in ax.texts if text.get_gid() == "cells"]


def test_errors_draw_nothing():
    with pytest.raises(ValueError, match=r"^This model has no tree of cell types: it was fitted without labels\. Fit"):
        pl.tree(SimpleNamespace(findings={}, classes=[], settings={"loss": "simclr"}))
    with pytest.raises(TypeError, match=r"^tree needs a fitted tt\.Model, not int\.$"):
        pl.tree(3)
    assert not plt.get_fignums()
