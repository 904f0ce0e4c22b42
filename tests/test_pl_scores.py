"""What the figures of a comparison show: scores beside their null, confusions, words where there is no signal."""

from itertools import pairwise
from types import SimpleNamespace

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgb
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from tripletomics import pl
from tripletomics.evaluation import METRICS
from tripletomics.pl.score_panel import SILENT_GREY
from tripletomics.pl.text import ALARM

METRICS_DRAWN = ("knn_macro_f1", "ece", "silhouette")
F1 = {("pca2", "map"): 0.5, ("lda", "metric"): 0.9, ("lda", "map"): 0.6, ("tt", "metric"): 0.95, ("tt", "map"): 0.8}


def table(f1=None, *, metrics=METRICS_DRAWN, silent=(), sd=0.03, seeds=3, null=0.1):
    """A tidy table: each metric of each (method, space) has the macro-F1 that is given, less its place in `metrics`."""
    rows = []
    for (method, space), value in (F1 if f1 is None else f1).items():
        for i, metric in enumerate(metrics):
            what = METRICS[metric].family, METRICS[metric].circular
            rows += [
                (method, space, metric, "", "train", 0.99, np.nan, seeds, what[0], True, ""),
                (method, space, metric, "", "held-out", value - i / 100, sd, seeds, *what, ""),
                (method, space, metric, "", "permuted", null, 4 * sd / 3, seeds, *what, "fit on permuted labels"),
            ]
        p = 0.4 if (method, space) in silent or method in silent else 0.005
        rows.append((method, space, "permutation_p", "", "held-out", p, 0.0, seeds, "labels", False, ""))
        rows.append((method, space, "recall", "B", "held-out", 0.3, 0.0, seeds, "labels", False, ""))
        rows.append((method, space, "seconds", "", "", 3.0, 0.1, seeds, "cost", False, ""))
    what = ["n_seeds", "family", "label_circular", "null"]
    columns = ["method", "space", "metric", "type", "split", "value", "sd", *what]
    return pd.DataFrame(rows, columns=columns)


def evaluated(f1, **settings):
    """The same as `tt.evaluate` returns it."""
    return table({(space, space): value for space, value in f1.items()}, **settings).drop(columns="method")


def cells(n=400, types=4, bases=("X_pca2", "X_lda", "X_tt"), spread=1.0):
    rng = np.random.default_rng(0)
    codes = np.arange(n) % types
    obs = pd.DataFrame({"kind": pd.Categorical([f"type {c}" for c in codes])}, index=[str(i) for i in range(n)])
    obs["tt_split"] = pd.Categorical(np.where(rng.random(n) < 0.3, "held-out", "train"))
    obs["depth"] = rng.random(n)
    adata = ad.AnnData(np.zeros((n, 1), np.float32), obs=obs)
    for basis in bases:
        adata.obsm[basis] = rng.normal(size=(types, 2))[codes] * 2 + spread * rng.normal(size=(n, 2))
    return adata


def markers(ax):
    """Place and half the bar of each marker, by "method space" or "permuted method space"."""
    found = {}
    for marker in ax.containers:
        line, _, bars = marker.lines
        bar = bars[0].get_segments()[0] if bars else None
        half = np.nan if bar is None else (bar[1, 0] - bar[0, 0]) / 2
        found[marker.get_label()] = (line.get_xdata()[0], half)
    return found


def held_out(ax):
    """The markers of held-out scores."""
    return [marker for marker in ax.containers if not marker.get_label().startswith("permuted")]


def words(figure_or_ax):
    return " ".join(text.get_text().replace("\n", " ") for text in figure_or_ax.findobj(mpl.text.Text))


def labels_of(ax):
    return [tick.get_text().replace("\n", " ") for tick in ax.get_yticklabels()]


def inside(figure):
    """Whether no text leaves the figure."""
    figure.draw_without_rendering()
    box, page = figure.get_tightbbox(), figure.get_size_inches()
    return box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < page[0] + 0.02 and box.y1 < page[1] + 0.02


# Scores ---------------------------------------------------------------------------------------------------------------


def test_markers_and_numbers_are_the_same_held_out_score_next_to_the_permuted_one():
    ax = pl.scores(table()).axes[0]
    found = markers(ax)
    assert set(found) == {f"{split}{method} {space}" for method, space in F1 for split in ("", "permuted ")}
    for (method, space), value in F1.items():
        np.testing.assert_allclose(found[f"{method} {space}"], (value, 0.03))
        np.testing.assert_allclose(found[f"permuted {method} {space}"], (0.1, 0.04))
    shown = [float(text.get_text()) for text in ax.texts if text.get_gid() == "held-out"]
    np.testing.assert_allclose(shown, [found[marker.get_label()][0] for marker in held_out(ax)])


def test_a_score_within_two_sd_of_the_permuted_one_is_grey():
    figure = pl.scores(table({("tt", "map"): 0.21, ("lda", "map"): 0.19, ("pca2", "map"): 0.05}))  # both sd: 0.05
    colors = {marker.get_label(): to_hex(marker.lines[0].get_color()) for marker in held_out(figure.axes[0])}
    assert colors == {"tt map": pl.PALETTE[0], "lda map": SILENT_GREY, "pca2 map": SILENT_GREY}
    assert "Grey: less than 2 sd (of both together) better than permuted." in words(figure)
    below = {marker.get_label(): marker.lines[0].get_marker() for marker in held_out(figure.axes[0])}
    assert below == {"tt map": "o", "lda map": "o", "pca2 map": "v"}
    assert "Triangle: worse than permuted." in words(figure)
    assert "Triangle" not in words(pl.scores(table()))
    one_seed: dict = {"metrics": ("knn_macro_f1",), "sd": np.nan, "seeds": 1}
    (ax,) = pl.scores(table({("tt", "map"): 0.11}, **one_seed)).axes
    assert to_hex(held_out(ax)[0].lines[0].get_color()) == pl.PALETTE[0]
    assert "Grey: not better than permuted." in words(pl.scores(table({("tt", "map"): 0.09}, **one_seed)))


def test_settings_of_the_dial_stay_together_in_their_order():
    f1 = {("tt:structure=0.5", "map"): 0.9, ("umap", "map"): 0.8, ("tt:structure=1", "map"): 0.7}
    ax = pl.scores(table(f1 | {("tt:structure=0,steps=9", "map"): 0.85, ("tt:structure=0", "map"): 0.6})).axes[0]
    names = [f"tripletomics (structure={setting})" for setting in ("0", "0.5", "1", "0, steps=9")]
    assert labels_of(ax) == [*names, "UMAP"]


def test_where_less_is_better_the_direction_flips():
    figure = pl.scores(table(metrics=("ece",)))
    (ax,) = figure.axes
    np.testing.assert_allclose(markers(ax)["pca2 map"], (0.5, 0.03))
    assert ax.get_xlabel() == "lower is better →"
    assert ax.get_xlim()[0] > ax.get_xlim()[1]
    assert "lower is better" not in words(pl.scores(table(metrics=("nmi",))))


def test_a_scale_holds_all_scores_with_their_bars_and_is_not_short():
    for f1 in (F1, {("tt", "map"): 0.1001}, {("tt", "map"): 0.02}):
        (ax,) = pl.scores(table(f1, metrics=("knn_macro_f1",))).axes
        low, high = ax.get_xlim()
        assert all(low < x - half < x + half < high for x, half in markers(ax).values())
        assert high - low >= 0.25  # a gain of 0.0001 does not fill the panel


def test_titles_have_three_lines_at_most():
    metrics = ("knn_macro_f1", "knn_recall_within_types", "centroid_spearman")
    for width in (3.5, 7.1):
        figure = pl.scores(table(metrics=metrics), width=width)
        titles = [text for ax in figure.axes for text in ax.texts if text.get_gid() == "title"]
        assert max(text.get_text().count("\n") for text in titles) <= 2
        assert "Recall of 30 neighbours within types: minus chance." in words(figure)


def test_rows_are_the_same_in_every_panel_and_figure_best_first_and_silent_ones_last():
    axes = pl.scores(table(), metrics=METRICS_DRAWN).axes
    assert labels_of(axes[0]) == ["tripletomics", "LDA", "PCA"]
    assert [labels_of(ax) for ax in axes[1:]] == [[], []]
    heights = [[marker.lines[0].get_ydata()[0] for marker in held_out(ax)] for ax in axes]
    assert heights[0] == heights[1] == heights[2] == sorted(heights[0])
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]
    lower = pl.scores(table(), metrics=["ece", "knn_macro_f1"]).axes[0]
    assert labels_of(lower) == ["tripletomics", "LDA", "PCA"]
    assert labels_of(pl.scores(table(silent=("tt",))).axes[0]) == ["LDA", "PCA", "tripletomics: no signal"]


def test_maps_are_filled_and_metric_spaces_open_and_the_legend_says_so():
    figure = pl.scores(table(), metrics=METRICS_DRAWN)
    for marker in held_out(figure.axes[0]):
        face = marker.lines[0].get_markerfacecolor()
        assert to_hex(face) == ("#ffffff" if marker.get_label().endswith("metric") else pl.PALETTE[0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["held-out, map", "held-out, metric space", "permuted"]
    (legend,) = pl.scores(table({("umap", "map"): 0.8})).legends
    assert [text.get_text() for text in legend.get_texts()] == ["held-out", "permuted"]


def test_a_method_without_signal_is_grey_and_says_so():
    figure = pl.scores(table(silent=("pca2",)))
    ax = figure.axes[0]
    by_label = dict(zip(labels_of(ax), ax.get_yticklabels(), strict=True))
    assert by_label["PCA: no signal"].get_color() == ALARM
    assert by_label["LDA"].get_color() != ALARM
    colors = {marker.get_label(): to_hex(marker.lines[0].get_color()) for marker in held_out(ax)}
    assert colors == dict.fromkeys(colors, pl.PALETTE[0]) | {"pca2 map": SILENT_GREY}
    assert "No signal: held-out cells are named no better" in words(figure)
    assert "no signal" not in words(pl.scores(table(), metrics=METRICS_DRAWN))


def test_one_space_of_a_method_may_lack_signal():
    assert labels_of(pl.scores(table(silent=[("tt", "map")])).axes[0])[:2] == [
        "tripletomics: no signal",
        "metric space",
    ]
    assert labels_of(pl.scores(table(silent=[("tt", "metric")])).axes[0])[:2] == [
        "tripletomics",
        "metric space: no signal",
    ]


def test_circular_scores_have_a_dagger_and_a_footnote():
    figure = pl.scores(table(), metrics=METRICS_DRAWN)
    titles = [next(t.get_text() for t in ax.texts if t.get_gid() == "title") for ax in figure.axes]
    assert [title.endswith("†") for title in titles] == [False, False, True]
    assert "† Rises with how hard the labels were used" in words(figure)
    assert "†" not in words(pl.scores(table(metrics=("knn_macro_f1",))))


def test_what_was_not_measured_is_said():
    scores = table()
    scores.loc[scores["metric"] == "ece", "value"] = np.nan
    scores.loc[(scores["metric"] == "silhouette") & (scores["method"] == "pca2"), "value"] = np.nan
    null = (scores["metric"] == "knn_macro_f1") & (scores["method"] == "pca2") & (scores["split"] == "permuted")
    scores.loc[null, "value"] = np.nan
    axes = pl.scores(scores, metrics=METRICS_DRAWN).axes
    assert words(axes[1]).count("not measured") == 1
    assert not axes[1].containers
    assert words(axes[2]).count("not measured") == 1
    assert "pca2 map" not in markers(axes[2])
    assert "pca2 map" in markers(axes[0])
    assert "permuted pca2 map" not in markers(axes[0])


def test_one_seed_has_no_bars_and_the_note_says_so():
    figure = pl.scores(table(sd=np.nan, seeds=1))
    assert all(np.isnan(half) for _, half in markers(figure.axes[0]).values())
    assert "One seed: no error bars" in words(figure)
    assert "sd over 3 seeds" in words(pl.scores(table()))


def test_the_note_says_how_the_null_was_made():
    assert "Permuted: the fit was given permuted labels." in words(pl.scores(table()))


def test_the_metrics_are_a_short_choice_or_those_that_are_named():
    names = [name for name in METRICS if name not in ("permutation_p", "recall", "seconds")]
    many = table({("tt", "map"): 0.9}, metrics=names)
    assert len(pl.scores(many).axes) == 5
    assert len(pl.scores(many, metrics="nmi").axes) == 1
    titles = [next(t.get_text() for t in ax.texts if t.get_gid() == "title") for ax in pl.scores(many).axes]
    assert titles[0] == METRICS["knn_macro_f1"].title


@pytest.mark.parametrize("width", [3.5, 7.1])
@pytest.mark.parametrize("silent", [(), tuple("abcdefghi")])
def test_nine_methods_fit_page_and_column(width, silent):
    f1 = {(m, s): 0.5 for m in "abcdefghi" for s in (("map", "metric") if m in "ci" else ("map",))}
    titles = {"a": "supervised UMAP", "b": "tripletomics (loss=arcface)"}
    metrics = ("knn_macro_f1", "map_at_r", "knn_recall_within_types", "ece", "centroid_spearman")
    figure = pl.scores(table(f1, metrics=metrics, silent=silent), titles=titles, width=width)
    assert figure.get_figwidth() == width
    assert inside(figure)
    boxes = [ax.get_window_extent() for ax in figure.axes]
    assert all(a.x1 < b.x0 or a.y0 > b.y1 for a, b in pairwise(boxes))


def test_names_come_from_the_titles_or_the_methods():
    f1 = {("tt:loss=arcface", "map"): 0.9, ("scvi", "map"): 0.8, ("umap_supervised", "map"): 0.7}
    assert labels_of(pl.scores(table(f1)).axes[0]) == ["tripletomics (loss=arcface)", "scvi", "supervised UMAP"]
    assert labels_of(pl.scores(table(f1), titles={"scvi": "scVI"}).axes[0])[1] == "scVI"


def test_a_table_of_one_method_has_a_row_for_each_space_and_survives_a_file(tmp_path):
    scores = evaluated({"X_tt": 0.8, "X_tt_metric": 0.9, "X_umap": 0.7})
    assert labels_of(pl.scores(scores).axes[0]) == ["tripletomics, metric space", "tripletomics", "UMAP"]
    scores.to_csv(tmp_path / "scores.csv", index=False)
    before = markers(pl.scores(scores).axes[0])
    for again in (
        pd.read_csv(tmp_path / "scores.csv"),
        pd.read_csv(tmp_path / "scores.csv", keep_default_na=False, na_values={"value": "", "sd": ""}),
        scores.replace({"split": {"permuted": "null"}}),  # of an earlier version
    ):
        after = markers(pl.scores(again).axes[0])
        assert list(after) == list(before)
        np.testing.assert_allclose(list(after.values()), list(before.values()))
    scores.replace({"split": {"permuted": "null"}}).to_csv(tmp_path / "old.csv", index=False)
    with pytest.raises(ValueError, match=r"from a file of an earlier version, pass keep_default_na=False"):
        pl.scores(pd.read_csv(tmp_path / "old.csv"))


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        (lambda t: t, {"metrics": ["knn_macrof1"]}, ValueError, r"'knn_macrof1' is .* Did you mean 'knn_macro_f1'\?"),
        (lambda t: t, {"metrics": ["seconds"]}, ValueError, r"'seconds' has no permuted score to compare it with."),
        (lambda t: t.drop(columns=["split", "sd"]), {}, ValueError, "table lacks the columns split, sd. Pass what t"),
        (lambda t: t.to_dict(), {}, TypeError, "table must be a DataFrame, not dict. tt.evaluate returns one"),
        (lambda t: pd.concat([t, t]), {}, ValueError, r"two rows for 'knn_macro_f1' of 'pca2' \(train\)"),
        (lambda t: t[t["split"] == "train"], {}, ValueError, "no metric with both held-out and permuted rows"),
        (lambda t: t, {"titles": {"ldaa": "x"}}, ValueError, r"titles has 'ldaa', .* Did you mean 'lda'\? Drawn: pca2"),
    ],
)  # fmt: skip
def test_errors_of_scores_draw_nothing(change, settings, error, message):
    with pytest.raises(error, match=message):
        pl.scores(change(table()), **settings)
    assert not plt.get_fignums()


# Compare --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [3.5, 7.1])
@pytest.mark.parametrize("silent", [(), ("m3",)])
def test_maps_stand_in_balanced_rows_above_the_panel(width, silent):
    f1 = {(f"m{i}", "map"): 0.9 - i / 20 for i in range(7)} | {("mlp", "metric"): 0.9, ("pca50", "metric"): 0.8}
    scores = table(f1, silent=silent)
    figure = pl.compare(cells(types=12, bases=[f"X_m{i}" for i in range(7)]), "kind", table=scores, width=width)
    assert figure.get_figwidth() == width
    assert inside(figure)
    boxes = [ax.get_position().transformed(figure.transFigure - figure.dpi_scale_trans) for ax in figure.axes]
    maps, panels = boxes[:7], boxes[7:]
    assert len(panels) == 1  # the short choice for maps is of what the table has
    np.testing.assert_allclose([box.width for box in maps] + [box.height for box in maps], maps[0].width)
    assert maps[0].width > 1.0999
    rows = [round(box.y0, 6) for box in maps]
    assert [rows.count(y) for y in sorted(set(rows), reverse=True)] == ([3, 2, 2] if width == 3.5 else [4, 3])
    assert max(box.y1 for box in panels) < min(box.y0 for box in maps)
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_each_map_says_its_score_and_its_null():
    figure = pl.compare(cells(), "kind", table=table())
    assert [ax.get_title() for ax in figure.axes[:3]] == ["PCA", "LDA", "tripletomics"]
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes[:3]] == [
        ["held-out F1 0.50 (permuted 0.10)"],
        ["held-out F1 0.60 (permuted 0.10)"],
        ["held-out F1 0.80 (permuted 0.10)"],
    ]
    assert {marker.get_label() for marker in held_out(figure.axes[3])} == {f"{m} {space}" for m, space in F1}
    assert "no signal" not in words(figure)


def test_a_map_without_signal_alarms_in_words():
    figure = pl.compare(
        cells(), "kind", table=table(silent=["pca2"]), bases=["X_tt", "X_pca2"], titles={"pca2": "two PCs"}
    )
    good, bad = figure.axes[:2]
    assert bad.get_title() == "two PCs"
    assert "no signal" not in words(good)
    alarms = [text for text in bad.texts if text.get_text().startswith("no signal")]
    assert [text.get_text().replace("\n", " ") for text in alarms] == [
        "no signal",
        "no signal: held-out F1 0.50, permuted labels 0.10",
    ]
    assert all(text.get_color() == ALARM for text in alarms)
    assert "two PCs: no signal" in labels_of(figure.axes[2])


def test_compare_takes_a_table_of_one_method_and_texts_of_the_user():
    adata = cells(bases=("X_tt", "X_umap", "X_more"))
    scores = evaluated({"X_tt": 0.8, "X_tt_metric": 0.9, "X_umap": 0.7})
    figure = pl.compare(adata, "kind", table=scores, scores={"X_umap": "mine"})
    assert [ax.get_title() for ax in figure.axes[:2]] == ["tripletomics", "UMAP"]
    assert "held-out F1 0.80 (permuted 0.10)" in words(figure.axes[0])
    assert [text.get_text() for text in figure.axes[1].texts] == ["mine"]
    figure = pl.compare(adata, "depth", table=scores, bases=["X_more", "X_umap"])
    assert not figure.axes[0].texts
    assert inside(figure)


def test_errors_of_compare():
    with pytest.raises(ValueError, match=r"table has no scores of the maps X_a. The basis .* pca2, lda, tt"):
        pl.compare(cells(bases=["X_a"]), "kind", bases=["X_a"], table=table())
    with pytest.raises(ValueError, match=r"titles has 'tsne', which is not drawn. Drawn: pca2, lda, tt"):
        pl.compare(cells(), "kind", table=table(), titles={"tsne": "t-SNE"})
    with pytest.raises(ValueError, match="No bases to compare"):
        pl.compare(cells(bases=[]), "kind", table=table())
    assert not plt.get_fignums()


# No signal ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "group"), [(2, "permuted"), (3, "permuted"), (2, "null")])  # as fit once wrote it
def test_a_map_that_uns_calls_silent_is_stamped(dim, group):
    adata = cells(bases=["X_tt", "X_umap"])
    adata.obsm["X_tt"] = np.random.default_rng(0).normal(size=(400, dim))
    adata.uns["X_tt"] = {
        "p_value": {"map": 0.3, "metric": 0.001},
        "scores": {"held-out": {"map": 0.212}, group: {"map": 0.2}},
    }
    said = "no signal: held-out F1 0.21, permuted labels 0.20"
    ax = pl.embedding(adata, "kind")
    (stamp,) = [text for text in ax.texts if text.get_gid() == "no signal"]
    assert stamp.get_text().replace("\n", " ") == said
    assert stamp.get_color() == stamp.get_bbox_patch().get_edgecolor() or to_rgb(stamp.get_color()) == to_rgb(ALARM)
    ax.figure.canvas.draw()
    box, page = stamp.get_bbox_patch().get_window_extent(), ax.get_window_extent()
    assert box.width > 0.3 * page.width
    assert page.x0 < box.x0 < box.x1 < page.x1
    figure = pl.compare(adata, "kind")
    assert said in words(figure.axes[0])
    assert "no signal" not in words(figure.axes[1])


@pytest.mark.parametrize("p", [0.005, 0.01, float("nan"), None])
def test_a_map_with_signal_or_of_which_nothing_is_known_is_not(p):
    adata = cells(bases=["X_tt"])
    adata.uns["X_tt"] = {} if p is None else {"p_value": {"map": p, "metric": 0.9}}
    assert "no signal" not in words(pl.embedding(adata, "kind"))
    adata.uns["X_tt"] = np.zeros(3)
    assert "no signal" not in words(pl.embedding(adata, "kind"))


def test_the_score_of_a_fit_stands_below_the_title_of_its_labels():
    adata = cells(bases=["X_tt"])
    scores = {"held-out": {"map": 0.962, "metric": 0.5}, "permuted": {"map": 0.08, "metric": 0.1}}
    record = {"p_value": {"map": 0.005}, "scores": scores, "settings": {"label": "kind"}}

    def said(**changed):
        adata.uns["X_tt"] = record | changed
        return [text.get_text() for text in pl.embedding(adata, "kind").texts if text.get_gid() == "score"]

    assert said() == ["held-out F1 0.96, permuted labels 0.08"]
    for changed in ({"settings": {"label": "other"}}, {"settings": {}}, {"p_value": {"map": 0.3}}, {"scores": {}}):
        assert said(**changed) == []


def test_without_scores_the_stamp_still_says_it():
    adata = cells(bases=["X_tt"])
    adata.uns["X_tt"] = {"p_value": {"map": np.float64(0.5)}}
    assert "no signal: held-out cells score no better than permuted labels" in words(pl.embedding(adata, "kind"))


def test_history_draws_the_null():
    curves = {"step": np.arange(5), "loss": np.ones(5), "held_out_f1": np.full(5, 0.3)}
    history = {"metric": curves, "map": curves}
    model = SimpleNamespace(
        history=history, scores={"permuted": {"metric": 0.1, "map": 0.25}}, p_value={"metric": 0.005}
    )
    panels = pl.history(model).child_axes
    for panel, value in zip(panels[1::2], (0.1, 0.25), strict=True):
        (null,) = [line for line in panel.lines if line.get_label() == "permuted"]
        assert set(null.get_ydata()) == {value}
        assert null.is_dashed()
        assert f"permuted {value:.2f}" in [text.get_text() for text in panel.texts]
        assert "no signal" not in words(panel)
    model.p_value = {"metric": 0.005, "map": 0.2}
    panels = pl.history(model).child_axes
    assert ["no signal" in words(panel) for panel in panels[1::2]] == [False, True]
    model.findings = {"tested": np.array([4, 2, 0.2])}
    last = pl.history(model).child_axes[-1]
    assert "no signal" not in words(last)
    assert "too few held-out cells to tell" in words(last)
    model.scores = {}
    assert all(line.get_label() != "permuted" for panel in pl.history(model).child_axes for line in panel.lines)


# Confusion ------------------------------------------------------------------------------------------------------------


def drawn(ax):
    """Names, shares and numbers of held-out cells of a confusion."""
    names = [tick.get_text() for tick in ax.get_xticklabels()]
    (mesh,) = ax.collections
    sizes = [int(text.get_text().replace(",", "")) for text in ax.texts if text.get_gid() == "cells"]
    return names, mesh.get_array().reshape(len(names), -1), np.array(sizes)


@pytest.mark.parametrize("dim", [2, 7])
def test_confusion_is_that_of_the_nearest_training_cells(dim):
    adata = cells(types=5, spread=2)
    adata.obsm["X_z"] = np.c_[adata.obsm["X_tt"], np.random.default_rng(1).normal(size=(400, dim - 2))]
    adata.obs["kind"] = adata.obs["kind"].astype(str)
    adata.obs.loc[adata.obs_names[:20], "kind"] = "Unknown"
    ax = pl.confusion(adata, "kind", basis="X_z")
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    y, known = adata.obs["kind"].to_numpy(), (adata.obs["kind"] != "Unknown").to_numpy()
    neighbours = KNeighborsClassifier(15).fit(adata.obsm["X_z"][known & ~held], y[known & ~held])
    names, shares, sizes = drawn(ax)
    assert sorted(names) == [f"type {i}" for i in range(5)]
    truth = confusion_matrix(y[known & held], neighbours.predict(adata.obsm["X_z"][known & held]), labels=names)
    np.testing.assert_array_equal(np.rint(shares * sizes[:, None]), truth)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert sizes.sum() == (known & held).sum()
    assert labels_of(ax) == names
    assert "no signal" not in words(ax)
    percents = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in ax.texts
                if t.get_gid() == "percent"}  # fmt: skip
    assert percents == {(i, j): f"{100 * shares[i, j]:.0f}" for i, j in np.argwhere(shares >= 0.005).tolist()}


def test_a_square_of_less_than_half_a_percent_is_not_blank():
    codes = np.arange(1200) % 2
    adata = ad.AnnData(np.zeros((1200, 1), np.float32), obsm={"X_tt": np.c_[100 * codes, np.arange(1200) / 600]})
    adata.obs["tt_split"] = np.where(np.arange(1200) % 4 < 2, "train", "held-out")
    adata.obs["kind"] = np.array(["a", "b"])[codes]
    adata.obs.loc["2", "kind"] = "b"  # one of 301 held-out cells lies among the others
    ax = pl.confusion(adata, "kind")
    assert [text.get_text() for text in ax.texts if text.get_gid() == "percent"] == ["100", "<1", "100"]
    assert "rounded" in words(ax)
    assert ax.get_xlabel() == "predicted type"


def test_types_that_are_taken_for_each_other_are_neighbours_and_others_keep_their_order():
    adata = cells(n=600, types=6)
    codes = np.arange(600) % 6
    adata.obsm["X_tt"] = np.c_[
        np.array([0, 100, 200, 300, 0.1, 200.1])[codes], np.random.default_rng(0).normal(size=600)
    ]
    names = drawn(pl.confusion(adata, "kind"))[0]
    at = {name: i for i, name in enumerate(names)}
    assert abs(at["type 0"] - at["type 4"]) == 1
    assert abs(at["type 2"] - at["type 5"]) == 1
    adata.obsm["X_tt"][:, 0] = codes * 100
    assert drawn(pl.confusion(adata, "kind"))[0] == [f"type {i}" for i in range(6)]


def test_a_confusion_of_labels_that_mean_nothing_says_so():
    adata = cells()
    adata.obs["kind"] = np.random.default_rng(0).permutation(adata.obs["kind"])
    ax = pl.confusion(adata, "kind")
    (remark,) = [text for text in ax.texts if text.get_gid() == "remark"]
    assert remark.get_text().startswith("no signal: held-out F1 0.")
    assert remark.get_color() == ALARM
    assert inside(ax.figure)


def test_too_few_held_out_cells_are_said_in_every_figure_in_place_of_no_signal():
    adata = cells()
    few = adata.obs_names[:4]
    adata.obs["tt_split"] = np.where(adata.obs_names.isin(few), "held-out", "train")
    adata.obs.loc[few, "kind"] = ["type 0", "type 0", "type 1", "type 1"]
    (remark,) = [text for text in pl.confusion(adata, "kind").texts if text.get_gid() == "remark"]
    assert "too few held-out cells to tell" in remark.get_text().replace("\n", " ")
    assert remark.get_color() != ALARM
    scored = table(silent=["pca2"])
    rows = scored[scored["metric"] == "permutation_p"]
    scored = pd.concat([scored, rows.assign(metric="reachable_p", value=0.2)], ignore_index=True)
    figure = pl.compare(adata, "kind", table=scored, bases=["X_tt", "X_pca2"])
    assert "no signal" not in words(figure)
    said = " ".join(text.get_text() for text in figure.axes[1].texts)
    assert said == "held-out F1 0.50 (permuted 0.10), too few held-out cells to tell"
    assert "no signal" not in labels_of(figure.axes[2])
    assert "too few held-out cells to tell" in words(pl.scores(scored))


def test_types_on_one_side_of_the_split_are_shown_and_say_so():
    adata = cells(types=5, spread=0.3)
    held = adata.obs["tt_split"] == "held-out"
    adata = adata[~((adata.obs["kind"] == "type 1") & held) & ~((adata.obs["kind"] == "type 3") & ~held)].copy()
    ax = pl.confusion(adata, "kind")
    assert {"type 1 (no held-out cell)", "type 3 (no training cell)"} <= set(labels_of(ax))
    names, shares, sizes = drawn(ax)
    assert sizes[names.index("type 1")] == 0
    assert np.ma.getmaskarray(shares)[names.index("type 1")].all()
    assert shares[names.index("type 3")].sum() == pytest.approx(1)
    assert not shares[:, names.index("type 3")].any()


@pytest.mark.parametrize("types", [2, 9, 40])
def test_a_confusion_has_room_for_its_names_and_takes_an_ax(types):
    adata = cells(n=1200, types=types)
    adata.obs["kind"] = adata.obs["kind"].cat.rename_categories(lambda name: f"a rather long name of a {name}")
    ax = pl.confusion(adata, "kind")
    assert inside(ax.figure)
    assert bool([text for text in ax.texts if text.get_gid() == "percent"]) == (types < 40)
    assert len(ax.child_axes) == (types == 40)  # a scale instead of numbers
    _, axes = plt.subplots(1, 2)
    assert pl.confusion(adata, "kind", ax=axes[1]) is axes[1]
    assert len(plt.get_fignums()) == 2


def test_the_split_of_a_confusion_is_that_of_the_basis_or_of_the_fit_or_named():
    adata = cells()
    adata.obsm["X_tt_metric"] = adata.obsm["X_tt"]
    held = (adata.obs["tt_split"] == "held-out").sum()
    assert drawn(pl.confusion(adata, "kind", basis="X_tt_metric"))[2].sum() == held
    assert drawn(pl.confusion(adata, "kind", basis="X_lda"))[2].sum() == held
    adata.obs["mine"] = np.arange(400) < 40
    assert drawn(pl.confusion(adata, "kind", split="mine"))[2].sum() == 40


def test_errors_of_confusion_draw_nothing():
    adata = cells()
    adata.obs["one"], adata.obs["all"] = "a", False
    for settings, error, message in (
        (
            {"label": "kin"},
            KeyError,
            r"label='kin' is not a column of adata.obs. Did you mean 'kind'\? Columns: kind",
        ),
        (
            {"basis": "X_ld"},
            KeyError,
            r"basis='X_ld' is not in adata.obsm. Did you mean 'X_lda'\? Present: X_pca2",
        ),
        ({"label": "one"}, ValueError, r"label='one' holds 1 type \(a\); a confusion needs two"),
        ({"split": "all"}, ValueError, "No held-out cell has a label in 'kind'"),
        ({"split": "al"}, KeyError, r"split='al' is not a column of adata.obs. Did you mean 'all'\?"),
        ({"split": "kind"}, ValueError, "split='kind' holds type 0"),
    ):
        with pytest.raises(error, match=message):
            pl.confusion(adata, **({"label": "kind"} | settings))
    adata.obsm["X_tt"][:7, 0] = np.nan
    with pytest.raises(ValueError, match=r"7 of 400 labelled cells have no finite coordinates in 'X_tt'. Leave"):
        pl.confusion(adata, "kind")
    del adata.obs["tt_split"]
    with pytest.raises(ValueError, match=r"marks no held-out cells. Pass split="):
        pl.confusion(adata, "kind")
    with pytest.raises(TypeError, match="adata must be an AnnData, not int"):
        pl.confusion(3, "kind")
    assert not plt.get_fignums()


# State ----------------------------------------------------------------------------------------------------------------


def test_nothing_that_was_given_and_nothing_global_changes(tmp_path):
    adata, scores = cells(), table(silent=["pca2"])
    adata.uns["X_tt"] = {"p_value": {"map": 0.3}}
    before, same, settings = adata.copy(), scores.copy(), dict(mpl.rcParams)
    pl.save(pl.compare(adata, "kind", table=scores), tmp_path / "a.pdf")
    pl.scores(scores, width=3.5)
    pl.confusion(adata, "kind")
    assert b"/CIDFontType2" in (tmp_path / "a.pdf").read_bytes()
    assert (tmp_path / "a.pdf").stat().st_size < 500_000
    assert dict(mpl.rcParams) == settings
    pd.testing.assert_frame_equal(scores, same)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert adata.uns == before.uns
    for key in before.obsm:
        np.testing.assert_array_equal(adata.obsm[key], before.obsm[key])
