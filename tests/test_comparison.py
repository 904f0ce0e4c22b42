import inspect
import json
import shutil
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from samples import rows_of

import tripletomics as tt
from tripletomics import baselines, evaluation, experiment, metrics, parts, pp
from tripletomics.experiment import cache, results
from tripletomics.experiment.settings import OWN, parse_method, read_settings
from tripletomics.losses import family
from tripletomics.metrics import knn_macro_f1
from tripletomics.problem import as_text
from tripletomics.tl import comparing

LINEAR = ["pca2", "pca50", "lda"]
QUICK = ["tt:steps=10", *LINEAR]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def ask(counts, shared):
    """Compare quickly; the same cells are compared once in this file."""

    def compare(methods=QUICK, adata=counts, label="kind", **given):
        return tt.compare(adata, label, methods, **({"cache": str(shared), "seeds": 2} | given))

    return compare


@pytest.fixture
def remembering(ask, tmp_path):
    """Compare with a cache of the test's own."""

    def compare(methods, **given):
        return ask(methods, **({"cache": str(tmp_path / "cache")} | given))

    return compare


def of(result, method, space, metric="knn_macro_f1", split="held-out"):
    table = result.table
    rows = table[(table["method"] == method) & (table["space"] == space) & (table["metric"] == metric)]
    (row,) = rows[(rows["split"] == split) & (rows["type"] == "")].itertuples()
    return row


def test_what_comes_back(ask, counts):
    before = counts.copy()
    result = ask()
    assert list(result.table.columns) == [
        "method", "space", "metric", "type", "split", "value", "sd", "n_seeds", "family", "label_circular", "null",
    ]  # fmt: skip
    assert result.methods == QUICK
    assert list(result.table["method"].unique()) == QUICK
    assert set(result.table["metric"]) <= set(evaluation.METRICS)
    assert set(result.adata.obsm) == {"X_tt:steps=10", "X_pca2", "X_lda"}
    assert set(result.histories) == {"tt:steps=10"}
    assert len(result.histories["tt:steps=10"]["metric"]["loss"]) == 10
    assert result.titles["tt:steps=10"] == "tripletomics (steps=10)"
    assert result.settings["seeds"] == "0, 1"
    assert result.settings["call"] == f"tripletomics.compare(adata, label='kind', methods={QUICK}, seeds=2)"
    assert result.versions["tripletomics"] == tt.__version__
    assert "optimistic" in result.summary()
    assert "4 methods, seeds 0, 1, 300 cells" in repr(result)
    assert set(counts.obsm) == set(before.obsm)
    assert list(counts.obs) == list(before.obs)
    assert (counts.X != before.X).nnz == 0


def test_scores_are_those_of_the_maps_on_held_out_cells(ask, counts):
    result = ask()
    held = (result.adata.obs["tt_split"] == "held-out").to_numpy()
    y = counts.obs["kind"].astype("category").cat.codes.to_numpy()
    np.testing.assert_array_equal(held, pp.split(counts, 0.3, y, 0))
    for method in ("tt:steps=10", "pca2", "lda"):
        z = result.adata.obsm[f"X_{method}"]
        expected = knn_macro_f1(z[~held], y[~held], z[held], y[held])
        first = result.runs.query(f"method == '{method}' and seed == 0 and space == 'map' and split == 'held-out'")
        assert first.set_index("metric").loc["knn_macro_f1", "value"] == pytest.approx(expected)
    seeds = result.runs.query("method == 'lda' and space == 'map' and metric == 'map_at_r' and split == 'held-out'")
    assert of(result, "lda", "map", "map_at_r").value == pytest.approx(seeds["value"].mean())
    assert of(result, "lda", "map", "map_at_r").sd == pytest.approx(seeds["value"].std())
    assert all(counted.to_numpy().sum() == 2 * held.sum() for counted in result.confusions.values())
    counted = result.confusions["tt:steps=10"].to_numpy()
    own = "method == 'tt:steps=10' and space == 'map' and metric == 'recall' and split == 'held-out'"
    np.testing.assert_allclose(np.diag(counted) / counted.sum(axis=1), result.table.query(own)["value"])


def test_every_label_score_has_a_null_near_chance(ask):
    result = ask()
    nulls = result.table[result.table["split"] == "permuted"]
    held = result.table[result.table["split"] == "held-out"]
    held = held[~held["metric"].isin(["permutation_p", "reachable_p"])]
    held = held[held["family"] != "exchangeability"]
    keys = ["method", "space", "metric", "type"]
    assert set(map(tuple, held[keys].to_numpy())) == set(map(tuple, nulls[keys].to_numpy()))
    for method, space, how in (
        ("tt:steps=10", "map", evaluation.REFITTED), ("lda", "metric", evaluation.REFITTED),
        ("pca2", "map", evaluation.UNUSED),
    ):  # fmt: skip
        null = of(result, method, space, split="permuted")
        assert null.null == how
        assert null.value == pytest.approx(1 / 3, abs=0.12)
        assert of(result, method, space).value > 0.7


def test_page_and_strangers_are_those_of_the_maps(ask, counts):
    first = ask().runs.query("seed == 0 and space == 'map' and type == ''")
    first = first.set_index(["method", "metric", "split"])["value"].to_dict()
    adata = ask().adata
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    y = counts.obs["kind"].astype("category").cat.codes.to_numpy()
    for method in ("tt:steps=10", "pca2", "lda"):
        z = adata.obsm[f"X_{method}"]
        assert first[method, "a50", ""] == metrics.page_use(z)["a50"]
        expected = metrics.exchangeability(z, y, held, 0)["held_out_auroc"]
        assert first[method, "held_out_auroc", "held-out"] == pytest.approx(expected)
    donor = ask(["pca2"], hold_out="donor=d1", seeds=1).table
    assert "a50" in set(donor["metric"])
    assert "exchangeability" not in set(donor["family"])
    counts.obs["held"] = held  # the same cells, and nobody knows how they were chosen
    named = ask(["pca2"], adata=counts, hold_out="held", seeds=1).table
    assert "exchangeability" not in set(named["family"])


def test_held_out_cells_influence_no_method(ask, counts):
    counts.obs["held"] = np.arange(300) % 3 == 0
    scrambled = counts.copy()
    x = scrambled.X.toarray()
    x[::3] = np.random.default_rng(0).permuted(x[::3] * 4, axis=1)
    scrambled.X = x
    counts.X = counts.X.toarray()
    first, second = (ask(adata=adata, hold_out="held", seeds=1).adata for adata in (counts, scrambled))
    train = ~counts.obs["held"].to_numpy()
    for basis in first.obsm:
        np.testing.assert_allclose(first.obsm[basis][train], second.obsm[basis][train], atol=1e-5, err_msg=basis)
        assert not np.allclose(first.obsm[basis][~train], second.obsm[basis][~train])


def test_a_second_call_computes_only_what_changed(remembering, counts, monkeypatch):
    computed = []

    def count(split, method, settings):
        computed.append((method, split.seed))
        return run(split, method, settings)

    run = results.run
    monkeypatch.setattr(results, "run", count)
    first = remembering(LINEAR)
    assert len(computed) == 6
    second = remembering(LINEAR)
    assert len(computed) == 6
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.confusions["lda"], second.confusions["lda"])
    np.testing.assert_array_equal(first.adata.obsm["X_lda"], second.adata.obsm["X_lda"])
    computed.clear()
    remembering([*LINEAR, "tt:steps=5"], seeds=1)
    assert computed == [("tt:steps=5", 0)]
    computed.clear()
    third = remembering([*LINEAR, "tt:steps=5"], seeds=1)
    assert computed == []
    assert len(third.histories["tt:steps=5"]["map"]["loss"]) == 20
    counts.obs.loc[counts.obs_names[0], "kind"] = "b"
    remembering(["pca2"], seeds=1)
    assert computed == [("pca2", 0)]


def test_a_damaged_result_is_computed_again_and_none_keeps_nothing(remembering, tmp_path):
    first = remembering(["pca2"], seeds=1)
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert of(remembering(["pca2"], seeds=1), "pca2", "map")[:6] == of(first, "pca2", "map")[:6]
    whole = dict(np.load(kept, allow_pickle=False))
    moved = whole["coordinates/map"] * 2
    for odd in ({"rows/value": np.ones(3)}, {"coordinates/map": moved}, {"confusion": np.eye(2)}, {"a": np.ones(1)}):
        np.savez(kept, **(whole | odd))
        assert of(remembering(["pca2"], seeds=1), "pca2", "map")[:6] == of(first, "pca2", "map")[:6]
    remembering(["pca50"], seeds=1)
    (other,) = set((tmp_path / "cache").iterdir()) - {kept}
    shutil.copyfile(other, kept)  # of another question
    assert of(remembering(["pca2"], seeds=1), "pca2", "map")[:6] == of(first, "pca2", "map")[:6]
    other.unlink()
    kept.unlink()
    remembering(["pca2"], seeds=1, cache=None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_old_results_give_way(remembering, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHE_BYTES", 1)
    remembering(LINEAR, seeds=1)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_users_own_files_stay(remembering, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHE_BYTES", 1)
    (tmp_path / "cache").mkdir()
    np.savez(tmp_path / "cache" / "mine.npz", x=np.ones(3))
    remembering(LINEAR, seeds=1)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert (tmp_path / "cache" / "mine.npz").exists()


def test_a_cache_that_cannot_be_written(remembering, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(results, "run", lambda *_: pytest.fail("a method was fitted"))
    with pytest.raises(PermissionError, match="is not a folder that can be written to"):
        remembering(["pca2"], cache=str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert experiment.open_cache("auto").folder is None  # a home that is read-only or full


def test_what_balances_the_batches_is_part_of_the_key(counts):
    reads = {"layer": None, "use_rep": None, "counts": "auto"}
    given = {"batch": None, "reads": reads, "fine": None, "pseudotime": None, "unseen": False, "device": "cpu"}

    def key(**changed):
        return experiment.make_task(counts, {"label": "kind", "unlabelled": ()}, **(given | changed)).digest

    without, before = key(), key(batch="donor")
    counts.obs["donor"] = np.random.default_rng(1).permutation(counts.obs["donor"])
    assert key() == without
    assert key(batch="donor") != before


def test_names_that_mean_unlabelled_are_so_in_figures(ask, counts):
    result = ask(["pca2"], unlabelled=("a",), seeds=1)
    assert list(result.adata.obs["kind"].cat.categories) == ["b", "c"]
    assert result.adata.obs["kind"].isna().sum() == 100


def test_a_donor_of_one_type_is_not_called_noise(ask, counts):
    counts.obs["small"] = np.where((counts.obs["kind"] == "a") & (np.arange(300) < 40), "x", "y")
    result = ask(["pca2"], hold_out="small=x", seeds=2)
    assert "NO SIGNAL" not in result.summary()
    assert "not tested" in result.summary()
    assert "the same in every fit" in result.summary()
    result.plot()


def test_a_group_held_out_whole(ask, counts):
    result = ask(["pca2"], hold_out="donor=d1,d2", seeds=1)
    held = result.adata.obs["tt_split"] == "held-out"
    assert set(counts.obs.loc[held.to_numpy(), "donor"]) == {"d1", "d2"}
    assert "by donor=d1,d2" in result.summary()


def test_types_that_no_method_saw(ask, counts):
    counts.obs["four"] = np.where(np.arange(300) % 6 == 0, "d", counts.obs["kind"])
    result = ask(["lda"], label="four", unseen=True, seeds=1)
    assert of(result, "lda", "metric", "unseen_recall_at_1").value > of(result, "lda", "metric", "unseen_recall_at_1",
                                                                          "permuted").value  # fmt: skip
    assert 0 <= of(result, "lda", "map", "novelty_auroc_near").value <= 1


def test_unlabelled_cells_and_a_batch(ask, counts):
    pytest.importorskip("scib_metrics")
    labels = counts.obs["kind"].astype(object)
    labels.iloc[:40] = [None, "Unknown"] * 20
    counts.obs["partly"] = labels
    result = ask(["pca2"], label="partly", batch="donor", seeds=1)
    assert list(result.confusions["pca2"].index) == ["a", "b", "c"]
    assert 0 <= of(result, "pca2", "map", "ilisi").value <= 1


def test_every_default_method_runs(counts, tmp_path):
    methods = [method if method != "tt" else "tt:steps=10" for method in comparing.METHODS]
    result = tt.compare(counts, "kind", methods, seeds=1, cache=None)
    spaces = result.table[result.table["space"] != ""].groupby("method", sort=False)["space"].unique()
    assert {method: set(found) for method, found in spaces.items()} == {
        "tt:steps=10": {"map", "metric"}, "mlp": {"metric"}, "umap_supervised": {"map"}, "lda": {"metric", "map"},
        "umap": {"map"}, "umap_crossfit": {"map"}, "tsne": {"map"}, "tsne_crossfit": {"map"}, "pacmap": {"map"},
        "pca2": {"map"}, "pca50": {"metric"},
    }  # fmt: skip
    result.save(tmp_path / "paper")
    written = {path.name for path in (tmp_path / "paper").iterdir()}
    assert written == {
        "figure.pdf", "figure.png", "figure-column.pdf", "figure-column.png", "table.csv", "table.md", "table.tex",
        "settings.json", "methods.md",
    }  # fmt: skip
    text = (tmp_path / "paper" / "methods.md").read_text()
    for method in methods[1:]:
        assert baselines.METHODS[method].citation.split(";")[0] in text, method
    assert json.loads((tmp_path / "paper" / "settings.json").read_text())["settings"]["label"] == "kind"
    read = pd.read_csv(tmp_path / "paper" / "table.csv", keep_default_na=False)
    assert len(read) == len(result.table)
    result.to_html(tmp_path / "report.html")
    assert "tripletomics (steps=10)" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("tt", {}),
        ("tt:loss=arcface", {"loss": "arcface"}),
        ("tt:structure=0.2,steps=50", {"structure": 0.2, "steps": 50}),
        (
            "tt:loss=triplet:margin=0.3,mining=hard,structure=0",
            {"loss": "triplet:margin=0.3,mining=hard", "structure": 0.0},
        ),
        ("tt:loss=softmax + 0.003*center,dim=3", {"loss": "softmax + 0.003*center", "dim": 3}),
        ("tt:augment=none,batch_size=none", {"augment": None, "batch_size": None}),
    ],
)
def test_settings_of_a_method(method, settings):
    defaults = {key: inspect.signature(tt.fit).parameters[key].default for key in OWN}
    assert parse_method(method) == defaults | settings


def test_no_setting_of_a_loss_is_a_keyword_of_fit():
    """Or "tt:loss=name:keyword=value" would be read as a setting of fit."""
    for cls in family().values():
        assert not set(parts.defaults(cls)) & set(inspect.signature(tt.fit).parameters)


def test_settings_written_by_fit_are_read_again(fitted):
    written = fitted[1].uns["X_tt"]["settings"]
    settings = read_settings(written)
    assert {name: as_text(value) for name, value in settings.items()} == {name: written[name] for name in settings}
    assert settings["steps"] == 40
    assert settings["batch_size"] is None
    before = {name: value for name, value in written.items() if name != "spread"}  # as earlier versions wrote it
    assert read_settings(before) == settings | {"spread": 0}


BAD = {
    "unknown method": ({"methods": ["umpa"]}, ValueError, "'umpa' is not known. Did you mean 'umap'"),
    "one method as text": ({"methods": "umapp"}, ValueError, "Did you mean 'umap'"),
    "no method": ({"methods": []}, ValueError, "methods is empty"),
    "unknown setting": ({"methods": ["tt:los=arcface"]}, ValueError, "has no setting 'los'. Did you mean 'loss'"),
    "a setting of all": ({"methods": ["tt:seed=3"]}, ValueError, "may not set seed"),
    "no number": ({"methods": ["tt:dim=two"]}, ValueError, "dim='two' is not a whole number"),
    "unknown loss": ({"methods": ["tt:loss=arkface"]}, ValueError, "Did you mean 'arcface'"),
    "no such label": ({"label": "kinds"}, KeyError, "Did you mean 'kind'"),
    "one class": ({"label": "one"}, ValueError, "label='one' has one type"),
    "one group": ({"hold_out": "one"}, ValueError, "the column has one group"),
    "nothing held out": ({"hold_out": 0}, ValueError, "holds no cell out"),
    "no seed": ({"seeds": 0}, ValueError, "seeds=0 is not a whole number"),
    "no such layer": ({"layer": "raw"}, KeyError, "layer='raw' is not a layer"),
    "few types": ({"unseen": True}, ValueError, "needs four or more, not 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_any_fit(ask, counts, monkeypatch, case):
    given, error, message = BAD[case]
    counts.obs["one"] = "same"
    monkeypatch.setattr(results, "run", lambda *_: pytest.fail("a method was fitted"))
    with pytest.raises(error, match=message):
        ask(**given)


def test_an_extra_that_is_missing_names_itself(ask, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "tripletomics\[scanvi\]"'):
        ask(["scanvi"])


def test_batches_without_the_extra_are_not_scored(ask, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r'pip install "tripletomics\[batch\]"'):
        result = ask(["pca2"], batch="donor", seeds=1)
    assert "ilisi" not in set(result.table["metric"])


def test_noise_is_called_noise(ask):
    random = np.random.default_rng(0)
    noise = ad.AnnData(random.normal(size=(600, 30)).astype(np.float32))
    noise.obs["kind"] = random.integers(4, size=600).astype(str)
    result = ask(["pca2", "lda", "tt:steps=40"], adata=noise, seeds=1)
    assert result.summary().startswith("NO SIGNAL: no map names the types")
    assert result.summary().count("NO SIGNAL") == 6
    for method, space in (("tt:steps=40", "map"), ("tt:steps=40", "metric"), ("lda", "metric")):
        gap = of(result, method, space).value - of(result, method, space, split="permuted").value
        assert abs(gap) < 0.1, (method, space)
    texts = [text.get_text() for text in result.plot().findobj(lambda artist: hasattr(artist, "get_text"))]
    assert sum(text.startswith("no signal:") for text in texts) == 3  # across every map


def test_a_file_is_no_folder(ask, tmp_path):
    (tmp_path / "there").touch()
    with pytest.raises(ValueError, match="is a file: name a folder"):
        ask(["pca2"], seeds=1).save(tmp_path / "there")


def test_the_figure_is_that_of_the_maps(ask):
    result = ask(["tt:steps=10", "pca2", "pca50"], seeds=1)
    with pytest.raises(ValueError, match=r"ends in \.pgn, which is not a format of figures"):
        result.plot(save="figure.pgn")
    figure = result.plot(width=3.5, return_fig=True)
    assert figure.get_figwidth() == 3.5
    assert sum("held-out F1" in text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))) >= 2


def test_three_dimensions(ask):
    result = ask(["tt:dim=3,steps=5"], seeds=1)
    assert result.adata.obsm["X_tt:dim=3,steps=5"].shape == (300, 3)
    result.plot()


def test_a_table_may_be_written_and_read(ask, tmp_path):
    result = ask(["pca2"], seeds=1)
    result.adata.write_h5ad(tmp_path / "cells.h5ad")
    assert "X_pca2" in ad.read_h5ad(tmp_path / "cells.h5ad").obsm


def test_colours_of_the_table_stay_with_their_types():
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    adata = ad.AnnData((random.normal(size=(60, 12)) + 4 * y[:, None]).astype(np.float32))
    adata.obs["kind"] = pd.Categorical(np.array(["b", "a"])[y], ["b", "a", "Unknown"])
    adata.obs["side"] = pd.Categorical(["left", "right", "right"] * 20)
    adata.uns |= {"kind_colors": ["#0b0b0b", "#0a0a0a", "#cccccc"], "side_colors": ["#111111", "#222222"]}
    found = tt.compare(adata, "kind", "pca2", seeds=1, cache=None, progress=False).adata
    assert found.obs["kind"].cat.categories.tolist() == ["a", "b"]
    assert found.uns["kind_colors"] == ["#0a0a0a", "#0b0b0b"]
    assert found.uns["side_colors"] == ["#111111", "#222222"]


def test_a_notebook_shows_held_out_and_permuted_scores(ask):
    result = ask()
    rows = rows_of(result._repr_html_())
    row = of(result, "tt:steps=10", "metric")
    permuted = of(result, "tt:steps=10", "metric", split="permuted").value
    (of_map,) = [i for i, cells in enumerate(rows) if cells[0] == "tripletomics (steps=10)"]
    name, said, f1, *_ = rows[of_map + 1]
    assert rows[0][2:4] == ["labels", "15-NN macro-F1"]
    assert (rows[of_map][1], name, said) == ("map", "metric space", "signal")
    assert f1 == f"{row.value:.3f} ± {row.sd:.3f} ({permuted:.3f})"
    table = result.table.copy()
    table.loc[table["metric"] == "permutation_p", "value"] = 0.5
    silent = replace(result, table=table)
    assert "no signal" in silent._repr_html_()
    assert "<script" not in silent._repr_html_()


def test_the_history_ends_with_the_score_of_the_table(ask):
    result = ask(seeds=1)
    for space, curves in result.histories["tt:steps=10"].items():
        assert curves["held_out_f1"][-1] == of(result, "tt:steps=10", space).value
