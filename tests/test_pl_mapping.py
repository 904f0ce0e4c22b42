from types import SimpleNamespace

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

import tripletomics as tt
from tripletomics import pl
from tripletomics.pl.new_cells import CROSS
from tripletomics.pl.style import GREY

FOUND = "1,950 of 2,000 genes found, with 98 % of their influence on the map"


def pair(n=200, types=3, dim=2, left=20, name="type {}", spread=10, landmarks=300):
    """New cells as `predict` leaves them, and what the figure asks of their model."""
    random = np.random.default_rng(0)
    names = [name.format(chr(97 + i % 26) * (1 + i // 26)) for i in range(types)]
    middles, codes = random.normal(size=(types, dim)) * spread, np.arange(landmarks) % (types + 1) - 1
    places = np.r_[np.full((1, dim), spread), middles][codes + 1] + random.normal(size=(landmarks, dim))
    model = SimpleNamespace(types=names, reference=SimpleNamespace(map=places.astype(np.float32), codes=codes))
    taken = np.r_[np.full(left, -1), np.arange(n - left) ** 2 % types]
    adata = ad.AnnData(np.zeros((n, 1), dtype=np.float32))
    adata.obsm["X_tt"] = middles[taken] + random.normal(size=(n, dim))
    adata.obs["tt_label"] = pd.Categorical(np.array([*names, "unassigned"])[taken], [*names, "unassigned"])
    adata.uns["tt_mapping"] = {
        "matched": 1950, "missing": 50, "extra": 7, "rejected": left, "weight": 0.9812,
        "missing_genes": np.array(["CD4"], dtype=object), "notes": np.array([], dtype=object),
    }  # fmt: skip
    return adata, model


def layers(ax):
    return {c.get_label(): c for c in ax.collections}


def texts(where, gid):
    return [text.get_text() for text in where.texts if text.get_gid() == gid]


def key(place):
    return tuple(np.asarray(place, dtype=float).round(4))


def rows(points):
    return sorted(map(key, points))


def colors(layer):
    """Colour of the cell at each place."""
    return {key(p): tuple(face[:3]) for p, face in zip(layer.get_offsets(), layer.get_facecolors(), strict=True)}


def composition(ax):
    """Name, cells as drawn, colour, and what is written, from the top."""
    names = [text.get_text() for text in ax.get_yticklabels()]
    drawn = [(bar.get_width(), to_rgb(bar.get_facecolor())) for bar in ax.patches]
    return [
        (name, *bar, *words)
        for name, bar, words in zip(names, drawn, zip(texts(ax, "cells"), texts(ax, "share"), strict=True), strict=True)
    ]


def test_the_reference_is_grey_and_each_new_cell_has_the_colour_of_what_it_was_taken_for():
    adata, model = pair()
    ax, _ = pl.mapping(adata, model).axes
    drawn, left = layers(ax), (adata.obs["tt_label"] == "unassigned").to_numpy()
    assert rows(drawn["reference"].get_offsets()) == rows(model.reference.map)
    np.testing.assert_allclose(drawn["reference"].get_facecolors()[0, :3], to_rgb(GREY))
    assert rows(drawn["unassigned"].get_offsets()) == rows(adata.obsm["X_tt"][left])
    assert rows(drawn["new cells"].get_offsets()) == rows(adata.obsm["X_tt"][~left])
    color = {name: to_rgb(pl.PALETTE[i]) for i, name in enumerate(model.types)}
    names = adata.obs["tt_label"][~left]
    assert colors(drawn["new cells"]) == {
        key(place): color[name] for place, name in zip(adata.obsm["X_tt"][~left], names, strict=True)
    }
    order = [drawn[name].get_zorder() for name in ("reference", "new cells", "unassigned")]
    assert order == sorted(set(order))
    assert all(layer.get_rasterized() for layer in drawn.values())
    every, limits = np.r_[adata.obsm["X_tt"], model.reference.map], np.array([ax.get_xlim(), ax.get_ylim()])
    assert (every > limits[:, 0]).all()
    assert (every < limits[:, 1]).all()


def test_colours_are_those_of_embedding():
    adata, model = pair(types=12)
    here, there = pl.mapping(adata, model).axes[0], pl.embedding(adata, "tt_label")
    assert colors(layers(here)["new cells"]) == colors(layers(there)["cells"])


def test_composition_counts_the_cells_with_the_unassigned_last():
    adata, model = pair(types=5)
    _, panel = pl.mapping(adata, model).axes
    counts = adata.obs["tt_label"].value_counts()
    found = composition(panel)
    assert found[-1] == ("unassigned", 20, to_rgb(CROSS), "20", "10.0 %")
    assert [row[1] for row in found[:-1]] == sorted((row[1] for row in found[:-1]), reverse=True)
    for name, n, color, words, share in found[:-1]:
        assert n == counts[name] > 0
        assert color == to_rgb(pl.PALETTE[model.types.index(name)])
        assert (words, share) == (f"{n}", f"{100 * n / 200:.1f} %")
    assert sum(row[1] for row in found) == 200
    (absent,) = [text for text in texts(panel.figure, "note") if text.startswith("Not found")]
    assert absent == "Not found: " + "; ".join(name for name in model.types if not counts[name]) + "."


def test_the_line_above_and_the_notes_below():
    adata, model = pair(n=1234, left=61)
    adata.uns["tt_mapping"]["notes"] = np.array(["Fewer counts than in training.", "z-scored?"], dtype=object)
    figure = pl.mapping(adata, model)
    lines = texts(figure, "note")
    assert lines[0] == f"1,234 cells; {FOUND}; 61 cells unassigned (4.9 %)"
    adata.uns["tt_mapping"]["missing"] = 0
    assert texts(pl.mapping(adata, model), "note")[0].startswith("1,234 cells; all 1,950 genes of the model found; 61")
    assert lines[-2:] == ["Fewer counts than in training.", "z-scored?"]
    rule = "Unassigned cells lie farther from all types than nearly all cells of known types (95 % by default)"
    assert lines[-3].replace("\u00a0", " ") == f"{rule}."
    adata.uns["tt_mapping"]["unlikely"] = 3
    assert texts(pl.mapping(adata, model), "note")[-3].endswith("by default), or no name is likely enough for them.")
    assert not any("Unassigned" in line for line in texts(pl.mapping(*pair(n=12, left=0)), "note"))
    assert texts(figure, "title") == ["New cells on the reference map"]
    assert texts(pl.mapping(adata, model, title="Lung"), "title") == ["Lung"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "reference (300 cells shown)",
        "new cells with a type (1,173)",
        "unassigned",
    ]


@pytest.mark.parametrize(
    ("n", "left", "wanted"),
    [
        (1, 0, f"1 cell; {FOUND}; no cell unassigned"),
        (
            1,
            1,
            f"1 cell; {FOUND}; 1 cell unassigned (100.0 %)",
        ),
        (
            50,
            50,
            f"50 cells; {FOUND}; 50 cells unassigned (100.0 %)",
        ),
        (
            3000,
            1,
            f"3,000 cells; {FOUND}; 1 cell unassigned (<0.1 %)",
        ),
    ],
)
def test_one_cell_all_cells_unassigned_or_none(n, left, wanted):
    adata, model = pair(n=n, left=left)
    figure = pl.mapping(adata, model)
    assert texts(figure, "note")[0] == wanted
    assert ("unassigned" in layers(figure.axes[0])) == (left > 0)
    assert ("new cells" in layers(figure.axes[0])) == (left < n)
    assert [row[0] for row in composition(figure.axes[1])].count("unassigned") == (left > 0)


def test_names_of_the_reference_are_on_the_map_and_do_not_overlap():
    adata, model = pair(types=15, n=2000, name="a type {}", spread=4)
    ax, _ = pl.mapping(adata, model).axes
    ax.figure.draw_without_rendering()
    assert sorted(texts(ax, "type")) == model.types
    boxes = [text.get_window_extent() for text in ax.texts if text.get_gid() == "type"]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    frame = ax.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_a_name_does_not_hide_the_only_cell():
    adata, model = pair(n=1, left=0)
    adata.obsm["X_tt"][:] = np.median(model.reference.map[model.reference.codes == 0], axis=0)
    ax, _ = pl.mapping(adata, model).axes
    ax.figure.draw_without_rendering()
    (cell,) = ax.transData.transform(adata.obsm["X_tt"])
    assert not any(text.get_window_extent().contains(*cell) for text in ax.texts)


def test_a_new_cell_far_from_all_others_is_drawn_at_the_edge_and_counted():
    adata, model = pair()
    plain = pl.mapping(adata, model).axes[0]
    adata.obsm["X_tt"][0] = [1e4, 0]  # unassigned
    ax = pl.mapping(adata, model).axes[0]
    np.testing.assert_allclose(np.ptp(ax.get_xlim()), np.ptp(plain.get_xlim()), rtol=0.25)
    (place,) = layers(ax)["outside"].get_offsets()
    assert ax.get_xlim()[1] - 0.02 * np.ptp(ax.get_xlim()) < place[0] < ax.get_xlim()[1]
    assert len(layers(ax)["unassigned"].get_offsets()) == 19
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()][-1] == "outside the frame (1)"


def test_where_names_do_not_fit_types_are_numbered():
    adata, model = pair(types=26, n=500, name="a rather long name of a type {}")
    figure = pl.mapping(adata, model, width=5)
    assert sorted(map(int, texts(figure.axes[0], "type"))) == [*range(1, 27)]
    for name, *_ in composition(figure.axes[1])[:-1]:
        number, words = name.split("  ")
        assert words == model.types[int(number) - 1]


@pytest.mark.parametrize(("types", "width"), [(3, 7.1), (26, 7.1), (26, 3.5), (60, 7.1)])
def test_all_words_are_inside_the_page_and_apart(types, width):
    adata, model = pair(types=types, n=900, name="a rather long name of a type {}")
    adata.uns["tt_mapping"]["notes"] = np.array(["A sentence on what looks odd in the query. " * 6], dtype=object)
    figure = pl.mapping(adata, model, width=width)
    figure.draw_without_rendering()
    boxes = [*(ax.get_tightbbox() for ax in figure.axes), figure.legends[0].get_window_extent()]
    boxes += [text.get_window_extent() for text in figure.texts]
    for box in boxes:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    assert not any(one.shrunk(0.98, 0.9).overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_new_cells_may_have_the_colours_of_another_column_or_of_numbers():
    adata, model = pair()
    adata.obs["donor"] = pd.Categorical(np.where(np.arange(200) < 100, "one", "two"))
    adata.obs["depth"] = np.linspace(0, 1, 200)
    figure = pl.mapping(adata, model, color="donor", palette={"one": "red", "two": "blue"})
    shown = colors(layers(figure.axes[0])["new cells"])
    red = {key(place) for place in adata.obsm["X_tt"][:100]}
    assert all((rgb == to_rgb("red")) == (place in red) for place, rgb in shown.items())
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["one", "two"]
    assert len({row[2] for row in composition(figure.axes[1])}) == 2  # grey, and that of the unassigned
    figure = pl.mapping(adata, model, color="depth")
    assert figure.axes[1].child_axes[0].get_ylabel() == "depth"
    with pytest.raises(KeyError, match=r"color='donr' is neither .* Did you mean 'donor'\?"):
        pl.mapping(adata, model, color="donr")


@pytest.mark.parametrize("width", [3.5, 7.1])
def test_in_a_column_the_bars_are_below_the_map(width):
    ax, panel = (ax.get_position() for ax in pl.mapping(*pair(), width=width).axes)
    assert (panel.y1 < ax.y0) == (width == 3.5)
    assert (panel.x0 > ax.x1) == (width == 7.1)


def test_three_dimensions():
    adata, model = pair(dim=3)
    ax, _ = pl.mapping(adata, model).axes
    assert ax.name == "3d"
    assert sorted(texts(ax, "type")) == model.types
    assert set(layers(ax)) == {"reference", "new cells", "unassigned"}


def test_a_model_without_signal_says_so():
    adata, model = pair()
    model.p_value, model.scores = {"map": 0.3}, {"held-out": {"map": 0.21}, "permuted": {"map": 0.2}}
    (words,) = texts(pl.mapping(adata, model).axes[0], "no signal")
    assert words.replace("\n", " ") == "no signal: held-out F1 0.21, permuted labels 0.20"
    model.p_value["map"] = 0.001
    assert not texts(pl.mapping(adata, model).axes[0], "no signal")


def test_places_or_labels_of_another_model_are_refused():
    adata, model = pair()
    model.id = "one"
    adata.uns |= {"X_tt": {"seen": "one"}}
    adata.uns["tt_mapping"]["model"] = "one"
    pl.mapping(adata, model)
    adata.uns["tt_mapping"]["model"] = "two"
    with pytest.raises(
        ValueError, match=r"The labels of adata come from another model.* Run tt.predict\(adata, model\)"
    ):
        pl.mapping(adata, model)
    adata.uns["X_tt"]["seen"] = "two"
    with pytest.raises(ValueError, match="The coordinates of adata come from another model"):
        pl.mapping(adata, model)


def test_missing_labels_are_unassigned_and_cells_without_a_place_are_counted():
    adata, model = pair(left=0)
    adata.obs.loc[adata.obs_names[:5], "tt_label"] = np.nan
    adata.obsm["X_tt"][7] = np.nan
    with pytest.warns(UserWarning, match="1 of 200 cells have no finite coordinates"):
        figure = pl.mapping(adata, model)
    assert composition(figure.axes[1])[-1][:2] == ("unassigned", 5)
    assert sum(len(c.get_offsets()) for name, c in layers(figure.axes[0]).items() if name != "reference") == 199


def test_after_predict_under_any_key_and_from_a_file(counts, tmp_path):
    model = tt.fit(counts.copy(), "kind", steps=30, progress=False)
    query = counts[:, 3:].copy()
    tt.predict(query, model, missing="impute")
    tt.predict(query, model, missing="impute", key_added="X_new")
    query.strings_to_categoricals()  # as writing does
    before, settings = query.copy(), dict(mpl.rcParams)
    figures = [
        pl.mapping(query, model),
        pl.mapping(query, model, basis="X_new", palette={"a": "red", "b": "tan", "c": "c"}),
    ]
    query.write_h5ad(tmp_path / "query.h5ad")
    figures.append(pl.mapping(ad.read_h5ad(tmp_path / "query.h5ad"), model))
    for figure in figures:
        seen = query.uns["tt_mapping"]["seen"]  # cells without counts of the genes that lack
        assert texts(figure, "note")[0].startswith(f"300 cells, {seen} of them part of the fit; 147 of 150 genes found")
        assert [row[:2] for row in composition(figure.axes[1])] == [row[:2] for row in composition(figures[0].axes[1])]
        assert rows(layers(figure.axes[0])["reference"].get_offsets()) == rows(model.reference.map)
    assert {row[0]: row[2] for row in composition(figures[1].axes[1])}["a"] == to_rgb("red")
    assert dict(mpl.rcParams) == settings
    pd.testing.assert_frame_equal(query.obs, before.obs)
    assert list(query.uns) == list(before.uns)


# Errors ---------------------------------------------------------------------------------------------------------------


def without(place, key):
    def change(adata, model):
        del getattr(adata, place)[key]

    return change


def put(**more):
    def change(adata, model):
        vars(model).update(more)

    return change


def other_label(adata, model):
    adata.obs["tt_label"] = ["type A"] * 200


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        (without("obsm", "X_tt"), {}, KeyError, r"'X_tt' is not in adata.obsm. Run tt.predict\(adata, model\) first"),
        (without("obs", "tt_label"), {}, KeyError, r"'tt_label' is not in adata.obs. Run tt.predict\(adata, model\) f"),
        (without("uns", "tt_mapping"), {}, KeyError, r"'tt_mapping' is not in adata.uns. Run tt.predict\(adata, mo"),
        (put(), {"basis": "X_new"}, KeyError, r"Run tt.predict\(adata, model, key_added='X_new'\) first. Pre"),
        (put(types=None), {}, TypeError, "mapping needs a fitted tt.Model, not SimpleNamespace"),
        (put(reference=SimpleNamespace(map=np.zeros((3, 3)), codes=np.zeros(3, int))), {}, ValueError,
         r"basis='X_tt' has 2 dimensions, but the map of this model has 3"),
        (other_label, {}, ValueError, r"holds 'type A', which is not a type of this model. Did you mean 'type a'\?"),
        (put(), {"palette": ["red"]}, ValueError, "palette has 1 colours for 3 types"),
    ],
)  # fmt: skip
def test_errors_say_what_is_missing_and_draw_nothing(change, settings, error, message):
    adata, model = pair()
    change(adata, model)
    with pytest.raises(error, match=message):
        pl.mapping(adata, model, **settings)
    assert not plt.get_fignums()
