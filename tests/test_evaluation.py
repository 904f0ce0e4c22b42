from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import confusion_matrix, f1_score, recall_score
from sklearn.neighbors import KNeighborsClassifier

from tripletomics import baselines, evaluation, metrics
from tripletomics.evaluation import METRICS, GroundTruth

TYPES = ["a", "b", "c", "d"]


@pytest.fixture
def cells():
    """400 cells of four types in 5 dimensions, of which 100 are held out and 20 are unlabelled."""
    random = np.random.default_rng(0)
    y = random.integers(4, size=400)
    z = random.normal(size=(400, 5)) + 1.2 * y[:, None]
    y[:20] = -1
    held_out = np.arange(400) % 4 == 0
    return z[:, :2], GroundTruth(y, TYPES, held_out, z)


def value(table, metric, split="held-out", kind=""):
    rows = table[(table["metric"] == metric) & (table["split"] == split) & (table["type"] == kind)]
    (number,) = rows["value"]
    return number


def test_labels_against_sklearn(cells):
    z, truth = cells
    train, held = ~truth.held_out & (truth.codes >= 0), truth.held_out & (truth.codes >= 0)
    predicted = KNeighborsClassifier(15).fit(z[train], truth.codes[train]).predict(z[held])
    known = truth.codes[held]
    table = evaluation.score(z, truth, seed=0)
    assert value(table, "knn_macro_f1") == pytest.approx(f1_score(known, predicted, average="macro"))
    recalls = recall_score(known, predicted, average=None)
    assert [value(table, "recall", kind=kind) for kind in TYPES] == pytest.approx(recalls.tolist())
    assert value(table, "knn_balanced_accuracy") == pytest.approx(recalls.mean())
    np.testing.assert_array_equal(evaluation.confusion(z, truth), confusion_matrix(known, predicted))


def test_every_score_is_listed_once_and_in_range(cells):
    z, truth = cells
    table = evaluation.score(z, truth, seed=0)
    assert set(table["metric"]) <= set(METRICS)
    assert not table.duplicated(["metric", "type", "split"]).any()
    assert list(table.columns) == evaluation.COLUMNS
    assert set(table["split"]) == {"train", "held-out", ""}
    shares = table[~table["metric"].isin(["within_between", "brier"])]["value"]
    assert shares.between(-1, 1).all()


def test_held_out_cells_do_not_change_the_training_figures(cells):
    z, truth = cells
    other = z.copy()
    other[truth.held_out] = 0
    first, second = (evaluation.score(places, truth, seed=0).query("split == 'train'") for places in (z, other))
    pd.testing.assert_frame_equal(first, second)


def test_permuted_labels_score_chance(cells):
    z, truth = cells
    seen = truth.permuted(1, truth.held_out)
    np.testing.assert_array_equal(seen.codes[~truth.held_out], truth.codes[~truth.held_out])
    np.testing.assert_array_equal(np.sort(seen.codes), np.sort(truth.codes))
    table = evaluation.score_permuted(z, seen, 0, evaluation.PERMUTED)
    assert value(table, "knn_macro_f1", "permuted") == pytest.approx(0.25, abs=0.12)
    train, held = ~truth.held_out & (truth.codes >= 0), truth.held_out & (truth.codes >= 0)
    predicted = KNeighborsClassifier(15).fit(z[train], truth.codes[train]).predict(z[held])
    random = np.random.default_rng(0)
    orders = [random.permutation(seen.codes[held]) for _ in range(metrics.ORDERS)]
    expected = np.mean([f1_score(order, predicted, average="macro") for order in orders])
    assert value(table, "knn_macro_f1", "permuted") == pytest.approx(expected)
    chance = np.bincount(predicted, minlength=4) / len(predicted)  # of a type: how often it is predicted
    assert [value(table, "recall", "permuted", kind) for kind in TYPES] == pytest.approx(chance.tolist(), abs=0.03)
    assert value(table, "verification_auroc", "permuted") == pytest.approx(0.5, abs=0.1)
    assert set(table["null"]) == {evaluation.PERMUTED}
    assert "permutation_p" not in set(table["metric"])


def test_shuffled_places_score_chance(cells):
    truth = cells[1]
    assert value(evaluation.score(truth.reference, truth, 0), "knn_recall_10") == 1
    table = evaluation.score_shuffled(truth.reference, truth, seed=0)
    assert value(table, "knn_recall_30", "permuted") == pytest.approx(30 / 300, abs=0.1)
    assert value(table, "trustworthiness", "permuted") == pytest.approx(0.5, abs=0.15)
    assert value(table, "triplet_accuracy", "permuted") == pytest.approx(0.5, abs=0.15)


def test_finer_labels_pseudotime_and_batches_are_scored_when_given(cells):
    z, truth = cells
    random = np.random.default_rng(5)
    fine = np.where(truth.codes >= 0, 2 * truth.codes + random.integers(2, size=400), -1)
    told = GroundTruth(truth.codes, TYPES, truth.held_out, truth.reference, fine, pseudotime=z[:, 0])
    table = evaluation.score(z, told, seed=0)
    assert value(table, "pseudotime_spearman") > 0.9
    assert value(table, "fine_knn_macro_f1") < value(table, "knn_macro_f1")  # halves of types, drawn at random
    assert value(evaluation.score_shuffled(z, told, 0), "pseudotime_spearman", "permuted") < 0.3


def test_the_page_is_scored_in_two_dimensions_and_strangers_where_the_split_is_random(cells):
    z, truth = cells
    drawn = replace(truth, at_random=True)
    table = evaluation.score(z, drawn, seed=3)
    for name, expected in metrics.page_use(z).items():
        assert value(table, name, "") == expected
    for name, expected in metrics.exchangeability(z, truth.codes, truth.held_out, seed=3).items():
        assert value(table, name) == expected
    families = {METRICS[name].family for name in evaluation.score(truth.reference, drawn, 3)["metric"]}
    assert "exchangeability" in families
    assert "page" not in families
    without = evaluation.score(z, truth, seed=3)
    assert set(table["metric"]) - set(without["metric"]) == {"held_out_auroc", "spread_ratio"}
    assert {METRICS[name].best for name in ("held_out_auroc", "spread_ratio")} == {0.5, 1}


def test_what_is_left_out_as_unseen():
    """Types at 0, 1, 10 and 30 on a line: 0 and 1 are siblings, 30 is far from all."""
    y = np.repeat(np.arange(4), 10)
    line = np.array([0.0, 1, 10, 30])[y][:, None]
    truth = GroundTruth(y, TYPES, np.arange(40) % 10 == 0, line)
    half, near, far = evaluation.unseen_types(truth, seed=0)
    assert len(half) == 2
    assert near in (0, 1)
    assert far == 3
    with pytest.raises(ValueError, match="needs four or more, not 3"):
        evaluation.unseen_types(GroundTruth(np.minimum(y, 2), TYPES, truth.held_out, line), seed=0)


def test_a_far_type_is_novel_and_a_twin_is_not():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2, 3], 100)
    z = random.normal(size=(400, 2)) + np.array([0.0, 8, 0, 50])[y][:, None]  # 2 lies where 0 lies
    left_out = (y >= 2) | (np.arange(400) % 5 == 0)
    table = evaluation.score_novel(z, y, left_out, near=2, far=3, seed=0)
    assert value(table, "novelty_auroc_far") == 1
    assert value(table, "novelty_fpr95_far") == 0
    assert value(table, "novelty_auroc_near") == pytest.approx(0.5, abs=0.12)
    assert value(table, "novelty_auroc_far", "permuted") == pytest.approx(0.5, abs=0.12)


def test_unseen_types_are_retrieved_among_each_other():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, -1], [40, 40, 5])
    apart = random.normal(size=(85, 3)) + 30 * y[:, None]
    table = evaluation.score_unseen(apart, y, seed=0)
    for metric in ("unseen_recall_at_1", "unseen_map_at_r", "unseen_nmi"):
        assert value(table, metric) == 1
        assert value(table, metric, "permuted") < 0.7


def runs_of(values, metric="knn_macro_f1", split="held-out", method="tt"):
    columns = ["method", "space", *evaluation.COLUMNS, "seed"]
    return pd.DataFrame([(method, "map", metric, "", split, v, "", i) for i, v in enumerate(values)], columns=columns)


def test_mean_and_sd_over_seeds():
    runs = pd.concat(
        [runs_of([0.5, 0.7, 0.9]), runs_of([0.2, 0.2, 0.2], split="permuted"), runs_of([1.0], split="train")]
    )
    table = evaluation.collect(runs, ["method", "space"])
    assert table["value"].tolist() == pytest.approx([0.7, 0.2, 1.0])
    assert table["sd"].tolist() == pytest.approx([0.2, 0.0, np.nan], nan_ok=True)
    assert table["n_seeds"].tolist() == [3, 3, 1]
    assert table["label_circular"].tolist() == [False, False, True]  # training cells' labels were learned
    assert evaluation.collect(runs_of([0.4], "silhouette"), ["method", "space"])["label_circular"].tolist() == [True]


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (0.3, "NO SIGNAL. Held-out macro-F1 0.210, permuted labels 0.200 (p = 0.3)"),
        (0.005, "held-out macro-F1 0.210, permuted labels 0.200."),
    ],
)
def test_the_verdict_is_in_words(p, words):
    runs = [runs_of([0.21]), runs_of([0.2], split="permuted"), runs_of([p], "permutation_p")]
    table = evaluation.named(evaluation.collect(pd.concat(runs), ["method", "space"]))
    (line,) = evaluation.verdicts(table, "method")
    assert line.startswith("tripletomics, map: ")
    assert words in line


def test_too_few_cells_are_no_sign_of_no_signal():
    runs = [
        runs_of([1.0]),
        runs_of([0.5], split="permuted"),
        runs_of([0.16], "permutation_p"),
        runs_of([0.16], "reachable_p"),
    ]
    table = evaluation.collect(pd.concat(runs), ["method", "space"])
    (line,) = evaluation.verdicts(table, "method")
    assert line.startswith(
        "tt, map: TOO FEW HELD-OUT CELLS TO TELL. Held-out macro-F1 1.000, permuted labels 0.500; even"
    )
    assert evaluation.headline(table, pd.concat(runs), {"tt": "tt"}).startswith(
        "Too few held-out cells to tell whether a map names"
    )
    runs[-1] = runs_of([0.005], "reachable_p")
    table = evaluation.collect(pd.concat(runs), ["method", "space"])
    assert "NO SIGNAL" in evaluation.verdicts(table, "method")[0]
    assert "NO SIGNAL" in evaluation.headline(table, pd.concat(runs), {"tt": "tt"})


def test_p_values_are_joined_by_twice_their_median():
    runs = [
        runs_of([0.9, 0.9, 0.8]),
        runs_of([0.3] * 3, split="permuted"),
        runs_of([0.005, 0.005, 0.3], "permutation_p"),
    ]
    table = evaluation.collect(pd.concat(runs), ["method", "space"])
    assert value(table, "permutation_p") == pytest.approx(0.01)
    assert "NO SIGNAL" not in evaluation.verdicts(table, "method")[0]
    runs[2] = runs_of([np.nan] * 3, "permutation_p")
    untested = evaluation.collect(pd.concat(runs), ["method", "space"])
    assert "not tested: the held-out cells are of one type" in evaluation.verdicts(untested, "method")[0]
    assert evaluation.headline(untested, pd.concat(runs), {"tt": "tripletomics"}) == ""


def test_the_headline_names_a_best_map_only_beyond_the_interval_over_seeds():
    def words(p, own, other):
        runs = [runs_of(own), runs_of([0.2, 0.2], split="permuted"), runs_of([p], "permutation_p"),
                runs_of(other, method="umap"), runs_of([0.1], split="permuted", method="umap"),
                runs_of([p], "permutation_p", method="umap")]  # fmt: skip
        table = evaluation.collect(pd.concat(runs), ["method", "space"])
        return evaluation.headline(table, pd.concat(runs), {"tt": "tripletomics", "umap": "UMAP"})

    low, high = ttest_rel([0.8, 0.9, 0.85], [0.5, 0.62, 0.54]).confidence_interval()
    assert words(0.005, [0.8, 0.9, 0.85], [0.5, 0.62, 0.54]) == (
        "tripletomics is the map that names the types best, ahead by 0.297 (95 % interval "
        f"{low:.3f} to {high:.3f} over 3 seeds). Macro-F1 of held-out cells on the map: "
        "tripletomics 0.850, UMAP 0.553; permuted labels give 0.200."
    )
    assert words(0.005, [0.8, 0.9], [0.82, 0.86]).startswith(
        "No map is ahead: tripletomics and UMAP differ by 0.010 (95 % "
    )
    assert words(0.005, [0.85], [0.5]).endswith("labels give 0.200. This is one seed, which gives no ranking.")
    assert words(0.5, [0.8, 0.9], [0.5]).startswith("NO SIGNAL: no map names")


def test_the_overview_has_a_row_a_space():
    runs = pd.concat([runs_of([0.5, 0.7]), runs_of([0.2, 0.2], split="permuted"), runs_of([0.9], method="pca2")])
    table = evaluation.overview(evaluation.collect(runs, ["method", "space"]), ["method", "space"])
    assert table.loc[("tt", "map"), "knn_macro_f1"] == "0.600 ± 0.141 (0.200)"
    assert table.loc[("pca2", "map"), "knn_macro_f1"] == "0.900 (nan)"


@pytest.mark.parametrize(
    ("hold_out", "words"), [("0.3", "30 % of each type at random, which is optimistic"), ("donor", "by donor.")]
)
def test_how_cells_were_held_out_is_said(hold_out, words):
    splits = [np.arange(1000) < 300, np.arange(1000) < 310]
    sentence = evaluation.split_sentence(hold_out, splits)
    assert words in sentence
    assert "300 to 310 of 1,000 cells" in sentence
    sizes = [np.arange(1000) < n for n in (10, 30, 10)]
    assert "10 to 30 of" in evaluation.split_sentence("donor", sizes)
    assert "the same in every fit" in evaluation.split_sentence("donor=d1", sizes[:1] * 3)


@pytest.mark.parametrize(
    ("spaces", "names"),
    [
        (["map", "metric", ""], ["map", "metric space", ""]),
        (["X_tt", "X_umap", "X_pca"], ["X_tt, map", "X_umap", "X_pca"]),
        (["X_mine", "X_mine_metric"], ["X_mine, map", "X_mine_metric, metric space"]),
    ],
)
def test_spaces_have_one_name(spaces, names):
    table = pd.DataFrame({"space": spaces})
    assert evaluation.named(table)["space"].tolist() == names
    assert table["space"].tolist() == spaces


def test_methods_have_one_name():
    methods = ["tt", "tt:steps=5", "umap", "X"]
    named = evaluation.named(pd.DataFrame({"space": "map", "method": methods}))
    assert named["method"].tolist() == ["tripletomics", "tripletomics (steps=5)", "UMAP", "X"]
    assert [baselines.title_of(method) for method in methods] == named["method"].tolist()
