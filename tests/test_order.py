"""`order=`, from the column to predicted values: fits, model files, predictions, nulls, and what is refused."""

import copy
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from samples import held_out, make_course, refusal

import tripletomics as tt
from tripletomics import pp
from tripletomics.cli.printing import mapping_sentences
from tripletomics.labels import ordering
from tripletomics.labels.targets import Target
from tripletomics.losses import RankNContrast
from tripletomics.metrics import order
from tripletomics.model import Model
from tripletomics.model.assembly import assemble, disassemble
from tripletomics.pl.palette import colours
from tripletomics.pl.style import style_of
from tripletomics.problem import Settings
from tripletomics.report.score_tables import ScoreTables

TWICE = pd.Categorical([1, "1"] * 130, [1, "1", 2], ordered=True)
FAST = {"steps": 20, "spread": 0.0, "progress": False}
KINDS = {"day": "day", "hour": "hour:period=24", "stage": "stage"}


@pytest.fixture(scope="module")
def fits():
    """One fit of each kind: numbers with types, a circle with types, ordered categories alone."""
    found = {}
    for name, text in KINDS.items():
        adata = make_course()
        model = tt.fit(adata, None if name == "stage" else "kind", order=text, **FAST)
        tt.predict(adata, model)
        found[name] = adata, model
    return found


def truth(adata, name):
    values = adata.obs[name]
    return (values.cat.codes if name == "stage" else values).to_numpy(dtype=float)


@pytest.mark.parametrize(("name", "period", "least"), [("day", None, 0.85), ("hour", 24, 0.8), ("stage", None, 0.8)])
def test_values_of_held_out_cells_are_found(fits, name, period, least):
    adata, model = fits[name]
    held, guess = held_out(adata), adata.obs[f"tt_{name}"]
    guess = (guess.cat.codes if name == "stage" else guess).to_numpy(dtype=float)[held]
    assert order.correlation(guess, truth(adata, name)[held], period) > least
    scores = model.ordered[name]
    assert scores["correlation"] == pytest.approx(order.correlation(guess, truth(adata, name)[held], period), abs=0.01)
    assert scores["error"] == pytest.approx(order.distance(guess, truth(adata, name)[held], period).mean(), rel=1e-4)
    assert scores["correlation"] > scores["null_correlation"] + 0.5
    assert scores["error"] < scores["null_error"]
    assert f"{name}: " in model.summary()
    assert f"{name}, permuted order: " in model.summary()


def test_columns_of_numbers(fits):
    obs = fits["day"][0].obs
    columns = obs[["tt_day", "tt_day_low", "tt_day_high"]]
    assert {*columns.dtypes} == {np.dtype("float64")}
    assert np.isfinite(columns).all(axis=None)
    assert (columns.diff(axis=1).iloc[:, 2] > 0).all()
    assert "tt_label" in obs


def test_columns_of_a_circle(fits):
    obs = fits["hour"][0].obs
    assert obs["tt_hour"].between(0, 24, inclusive="left").all()
    assert obs["tt_hour_half_width"].between(0, 12).all()
    assert obs["tt_hour"].dtype == obs["tt_hour_half_width"].dtype == np.float64


def test_columns_of_ordered_categories(fits):
    adata, _ = fits["stage"]
    for end in ("", "_low", "_high"):
        assert adata.obs[f"tt_stage{end}"].dtype == adata.obs["stage"].dtype
        assert adata.obs[f"tt_stage{end}"].notna().all()
    assert (adata.obs["tt_stage_low"] <= adata.obs["tt_stage"]).all()
    assert (adata.obs["tt_stage"] <= adata.obs["tt_stage_high"]).all()


def test_order_alone_knows_no_types(fits):
    adata, model = fits["stage"]
    assert not model.classes
    assert sorted(column for column in adata.obs if column.startswith("tt_")) == [
        "tt_split", "tt_stage", "tt_stage_high", "tt_stage_low",
    ]  # fmt: skip
    assert adata.uns["tt_mapping"]["ordered"].tolist() == ["stage"]
    said = refusal(tt.predict, adata.copy(), model, fdr=0.1)
    assert said.startswith("ValueError: fdr=0.1 is about types, and the model was fitted with order= alone")
    assert "groups='kind' is about types" in refusal(tt.predict, adata.copy(), model, groups="kind")


@pytest.mark.parametrize("name", KINDS)
def test_a_model_file_predicts_the_same(fits, name, tmp_path):
    adata, model = fits[name]
    model.save(tmp_path / "m.tt")
    again, other = tt.load(tmp_path / "m.tt"), make_course()
    tt.predict(other, again)
    for column in adata.obs.filter(like="tt_"):
        assert other.obs[column].tolist() == adata.obs[column].tolist()
    assert again.ordered == model.ordered
    assert again.summary() == model.summary()
    adata.write_h5ad(tmp_path / "a.h5ad")


def test_new_cells_and_coverage(fits):
    _, model = fits["day"]
    query = make_course(120, seed=7)
    tt.predict(query, model, coverage=0.5)
    narrow = (query.obs["tt_day_high"] - query.obs["tt_day_low"]).mean()
    tt.predict(query, model, coverage=0.95)
    assert (query.obs["tt_day_high"] - query.obs["tt_day_low"]).mean() > 1.5 * narrow
    assert order.spearman(query.obs["tt_day"], query.obs["day"]) > 0.85
    found = model.predict_values(query.X)["day"]
    np.testing.assert_allclose(found.center, query.obs["tt_day"], rtol=1e-4)


def test_held_out_values_change_nothing(fits):
    adata, model = fits["day"]
    other = make_course()
    hidden = other.obs["day"].where(~held_out(adata), 0)
    other.obs["day"] = hidden
    found = tt.fit(other, "kind", order="day", **FAST)
    np.testing.assert_array_equal(other.obsm["X_tt"], adata.obsm["X_tt"])
    np.testing.assert_array_equal(found.targets[0].errors, model.targets[0].errors)


def test_missing_values_and_whole_batches():
    adata = make_course()
    adata.obs["donor"] = [f"d{i % 4}" for i in range(adata.n_obs)]
    adata.obs.loc[adata.obs_names[::3], "day"] = np.nan
    model = tt.fit(adata, "kind", order="day", batch="donor", **FAST)
    tt.predict(adata, model)
    assert adata.obs["tt_day"].notna().all()
    known = held_out(adata) & adata.obs["day"].notna().to_numpy()
    assert model.ordered["day"]["cells"] == known.sum()
    assert order.spearman(adata.obs["tt_day"][known], adata.obs["day"][known]) > 0.7
    assert len(model.targets[0].errors) > 100  # each batch was left out in turn


def test_what_the_summary_says_without_a_null_or_a_signal(fits):
    """Four donors of one day each cannot be told apart from the days: `ordering.permute` returns None."""
    model = copy.copy(fits["day"][1])
    scores = model.ordered["day"]
    model.ordered = {"day": {name: value for name, value in scores.items() if not name.startswith("null")}}
    assert "day cannot be permuted: each batch has one value" in model.summary()
    assert "day and batch cannot be told apart" in model.summary()
    model.ordered = {"day": scores | {"null_correlation": scores["correlation"]}}
    assert "No signal in day: it is predicted no better than with a permuted order." in model.summary()
    model.ordered = {"day": {}}
    assert "day: no held-out cell has a value." in model.summary()


def test_values_are_permuted_within_types_and_donors():
    random = np.random.default_rng(0)
    codes, donors = np.arange(400) % 3, np.arange(400) // 3 % 2
    values = 10.0 * codes + 100 * donors + random.integers(5, size=400)
    values[::7] = np.nan
    found = ordering.permute(values, codes, donors, random)
    assert (np.isnan(found) == np.isnan(values)).all()
    assert (found[~np.isnan(values)] != values[~np.isnan(values)]).mean() > 0.5
    for code in range(3):
        for donor in range(2):
            own = (codes == code) & (donors == donor)
            np.testing.assert_array_equal(np.sort(found[own]), np.sort(values[own]))
    assert {*(ordering.permute(values, codes, None, random)[codes == 1] // 100)} >= {0, 1}


@pytest.mark.parametrize("n", [5, 6, 8])
def test_donors_of_one_day_each(n):
    random = np.random.default_rng(0)
    donors = np.arange(400) % n
    values = (donors // 2).astype(float)
    found = ordering.permute(values, np.zeros(400, dtype=int), donors, random)
    if n < ordering.LEAST_BATCHES:
        assert found is None
        return
    days = [np.unique(found[donors == donor]) for donor in range(n)]
    assert all(len(day) == 1 for day in days)
    assert sorted(day[0] for day in days) == sorted(np.arange(n) // 2)


def test_strata_are_tenths():
    values = np.append(np.random.default_rng(0).permutation(np.arange(100.0)), [np.nan] * 3)
    found = ordering.strata(values)
    assert np.bincount(found[:100]).tolist() == [10] * 10
    assert (found[100:] == -1).all()
    assert np.bincount(ordering.strata(np.repeat([1.0, 2, 5], 20))).tolist() == [20] * 3
    assert (ordering.strata(np.full(4, np.nan)) == -1).all()
    among = np.arange(103) % 2 == 0
    values[~among] = 1e6  # those of held-out cells decide nothing
    assert (ordering.strata(values, among)[~among] == -1).all()
    np.testing.assert_array_equal(ordering.strata(values, among)[among], ordering.strata(values[among]))


def test_ranks_are_those_of_all_declared_categories():
    stages = pd.Categorical(["lo", "hi", None, "hi"], ["lo", "mid", "hi", "Unknown"], ordered=True)
    target = ordering.read_target(pd.Series(stages, name="stage"))
    np.testing.assert_array_equal(target.values, [0, 2, np.nan, 2])
    assert target.categories == ["lo", "mid", "hi"]


def test_held_out_values_choose_no_calibration_cells():
    adata = make_course()
    adata.obs["part"] = np.where(np.arange(adata.n_obs) % 5 == 0, "test", "train")
    problems = []
    for change in (0, 100):
        other = adata.copy()
        other.obs.loc[other.obs["part"] == "test", "day"] += change
        problems.append(pp.prepare(other, Settings(order="day", hold_out="part", steps=2))[2])
    np.testing.assert_array_equal(problems[0].calibration, problems[1].calibration)
    held = problems[0].held_out
    np.testing.assert_array_equal(problems[0].strata[~held], problems[1].strata[~held])
    other.obs.loc[other.obs["part"] == "test", "day"] = np.nan  # a fifth of all cells, and of no training cell
    assert pp.prepare(other, Settings(order="day", hold_out="part", steps=2))[1].loss.ordered


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        ({}, {"order": "dya"}, "KeyError: order='dya' is not a column of adata.obs. Did you mean 'day'?"),
        ({}, {"order": "kind"}, "ValueError: 'kind' is both label and order"),
        ({}, {"order": "hour:period=0"}, "ValueError: order='hour:period=0': period=0 is not a number above 0"),
        ({}, {"order": 3}, "TypeError: order=3 is not the name of a column"),
        ({}, {"order": {"day"}}, "TypeError: order={'day'} is not the name of a column"),
        ({}, {"order": ["day", "hour"]}, "TypeError: order=['day', 'hour'] is not the name of a column"),
        (
            {"day": TWICE},
            {"order": "day"},
            "ValueError: order='day' has two categories that read '1', such as",
        ),
        ({"day": np.nan}, {"order": "day"}, "ValueError: order='day' has a value for 0 of"),
        ({"day": 3.0}, {"order": "day"}, "ValueError: order='day' has 1 distinct value in the training cells"),
        ({"day": np.inf}, {"order": "day"}, "ValueError: order='day' has 260 infinite values"),
        ({"day": "early"}, {"order": "day"}, "TypeError: order='day' holds"),
        ({"day": pd.Timestamp("2024-01-01")}, {"order": "day"}, "TypeError: order='day' holds datetime64"),
        ({}, {"loss": "rnc"}, "ValueError: loss='rnc' learns values that have an order, and loss= is for cell types"),
        ({}, {"loss": "softmax + 0.1*rnc", "order": "day"}, "ValueError: loss='softmax + 0.1*rnc' learns values"),
    ],
)
def test_what_is_refused(change, given, said):
    adata = make_course()
    for name, value in change.items():
        adata.obs[name] = value
    before = sorted(adata.obs), sorted(adata.obsm)
    assert refusal(tt.fit, adata, "kind", **given, **FAST).startswith(said)
    assert (sorted(adata.obs), sorted(adata.obsm)) == before


def test_a_map_does_not_grow_with_an_order(fits):
    _, model = fits["day"]
    new = make_course(seed=5)
    assert "predicts 'day', for which it keeps no old cells" in refusal(tt.fit, new, "kind", init=model, **FAST)


def test_evaluate_scores_the_order_that_was_learned(fits):
    adata, _ = fits["day"]
    table = tt.evaluate(adata, "kind", progress=False)
    rows = table[(table["metric"] == "order_correlation") & (table["space"] == "X_tt_metric")].set_index("split")
    z, held, values = adata.obsm["X_tt_metric"], held_out(adata), truth(adata, "day")
    guess = order.mean_of_neighbours(z[~held], values[~held], z[held])
    assert rows.loc["held-out", "value"] == pytest.approx(order.spearman(guess, values[held]))
    assert rows.loc["held-out", "value"] > rows.loc["permuted", "value"] + 0.3
    assert rows.loc["train", "label_circular"]
    other = tt.evaluate(adata, "kind", order="hour:period=24", progress=False)
    found = other[(other["metric"] == "order_error") & (other["split"] == "held-out")]
    assert found["value"].between(0, 12).all()
    assert "'kind' is both label and order" in refusal(tt.evaluate, adata, "kind", order="kind")


def test_figures_of_columns_with_an_order(fits):
    adata, model = fits["stage"]
    for draw, said in (
        (tt.pl.tree, "it was fitted with an order alone"),
        (lambda model: tt.pl.mapping(adata, model), "fitted with an order alone, so it names no cell: .*'tt_stage'"),
    ):
        with pytest.raises(ValueError, match=said):
            draw(model)
    panels = tt.pl.history(model).child_axes
    assert [panel.get_ylabel() for panel in panels] == ["loss (rnc)", "loss (neighbours)"]
    assert [panel.get_xlabel() for panel in panels] == ["step", "step"]
    light = [sum(rgb) for rgb in colours("stage", list("vwxyz"), None, adata)]
    assert light == sorted(light, reverse=True)
    adata = fits["hour"][0].copy()
    adata.obs.loc[adata.obs_names[:9], "hour"] = np.nan
    for column in ("hour", "tt_hour"):
        scale = style_of(adata, column, None, None).scale
        assert (scale.norm.vmin, scale.norm.vmax) == (0, 24)
        np.testing.assert_allclose(scale.to_rgba(0), scale.to_rgba(24))
        assert not np.allclose(scale.to_rgba(0), scale.to_rgba(12), atol=0.2)
    assert style_of(adata, "day", None, None).scale.norm.vmax == 4
    legend = tt.pl.embedding(adata, "hour").get_legend().get_texts()
    assert "no value (9)" in [text.get_text() for text in legend]
    plt.close("all")
    kept = fits["day"][0].copy()
    kept.uns["stage_colors"] = ["#ff0000"] * 5
    assert colours("stage", list("vwxyz"), None, kept)[0] == (1, 0, 0)


def test_compare_scores_each_further_column():
    adata = make_course(120)
    adata.obs["late"] = np.where(adata.obs["day"] > 2, "yes", "no")
    label = {"kind": None, "day": "rnc", "late": "softmax", "hour": "rnc:period=24"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        result = tt.compare(adata, label, ("pca2",), seeds=1, progress=False)
    rows = result.table[result.table["family"] == "order"]
    assert {*rows["split"]} == {"train", "held-out", "permuted"}
    assert np.isfinite(rows["value"]).all()
    assert {*rows["type"]} == {"day", "late", "hour"}
    assert {*rows.loc[rows["type"] == "late", "metric"]} == {"column_f1"}
    titles = [one.title for one in ScoreTables(result.table, result.titles, result.methods).families("held-out")]
    assert titles.count("Column 'day'") == titles.count("Column 'late'") == titles.count("Column 'hour'") == 1
    assert refusal(tt.compare, adata, {"day": "rnc"}, ("pca2",), seeds=1).startswith("ValueError: label=None: name")


def test_evaluate_of_an_order_alone(fits):
    adata, _ = fits["stage"]
    table = tt.evaluate(adata, progress=False)
    rows = table[table["family"] == "order"]
    assert {*rows["type"]} == {"stage"}
    assert {*rows["metric"]} == {"order_correlation", "order_error"}
    best = rows[(rows["metric"] == "order_correlation") & (rows["space"] == "X_tt_metric")].set_index("split")["value"]
    assert best["held-out"] > 0.7
    assert abs(best["permuted"]) < 0.5
    assert "knn_recall_30" in {*table["metric"]}
    assert "knn_macro_f1" not in {*table["metric"]}
    assert "X_tt_metric, stage: held-out correlation" in table.attrs["summary"]
    assert tt.evaluate(adata, order="stage", progress=False)["value"].equals(table["value"])
    assert "label='hour' holds numbers that are not whole" in refusal(tt.evaluate, adata, "hour")
    assert tt.evaluate(adata, "stage", progress=False)["metric"].eq("knn_macro_f1").any()
    assert refusal(tt.evaluate, make_course(60), None, basis="X").startswith("KeyError: basis='X'")


def test_a_day_that_follows_from_the_type():
    """Then a null that permutes days within types changes nothing."""
    adata = make_course(120)
    adata.obs["kind"] = adata.obs["stage"].astype(str)
    model = tt.fit(adata, "kind", order="day", hold_out=0.3, **FAST)
    said = "Within types, day varies little or not at all, so a null that permutes it there says nothing."
    assert model.ordered["day"]["null_freedom"] == 0
    assert said in model.summary()
    assert "No signal in day" not in model.summary()
    assert "day: no score within types, because no type has five held-out cells" in model.summary()
    summary = tt.evaluate(adata, "kind", progress=False).attrs["summary"]
    assert said in summary
    assert "day: no score within types" in summary


def test_how_far_values_can_be_permuted():
    random = np.random.default_rng(0)
    codes = np.arange(300) % 3
    for values, period, least, most in (
        (codes * 1.0, None, 0, 0), (codes + random.normal(0, 0.01, 300), None, 0.001, 0.05),
        (random.normal(size=300), None, 0.9, 1.1), (codes * 10.0, 30, 0, 0), (np.full(300, np.nan), None, 0, 0),
    ):  # fmt: skip
        target = Target("day", values, RankNContrast(), 1.0, period)
        permuted = values if np.isnan(values).all() else ordering.permute(values, codes, None, random)
        assert least <= ordering.freedom(permuted, target, random) <= most
    types = Target("late", codes % 2 * 1.0, RankNContrast(), classes=["no", "yes"])
    assert ordering.freedom(ordering.permute(types.values, codes, None, random), types, random) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"period": 0.0}, "a period that is not above 0"),
        ({"period": "x"}, "target_0.period='x' is not"),
        ({"categories": ["a", "b"]}, "target_0.values has values out of range"),
        ({"errors": [2.0, 1.0]}, "target_0.errors do not ascend"),
        ({"values": [np.nan] * 3}, "target_0.values is float64 of shape|target_0.values has values that are NaN"),
        ({"from_z": [[1.0]]}, "target_0.from_z is float64 of shape"),
        ({"weights": [1.0]}, "target_0.weights is float64 of shape"),
        ({"other": 1}, "target_0 has 'other', which is not known"),
        ({"name": "label"}, r"obs\['tt_label'\] would be written twice"),
    ],
)
def test_damaged_files(fits, change, message):
    header, tensors = disassemble(fits["day"][1], index=False)
    header = json.loads(json.dumps(header, default=np.ndarray.tolist))
    for name, value in change.items():
        if f"target_0.{name}" in tensors:
            tensors[f"target_0.{name}"] = torch.tensor(value, dtype=torch.float64)
        else:
            header["target_0"][name] = value
    with pytest.raises(ValueError, match=message):
        assemble(Model, header, tensors)


def test_scores_of_a_file_belong_to_its_columns(fits):
    header, tensors = disassemble(fits["day"][1], index=False)
    header = json.loads(json.dumps(header, default=np.ndarray.tolist))
    with pytest.raises(ValueError, match="an ordered column is lacking"):
        assemble(Model, header | {"ordered": {"week": header["ordered"]["day"]}}, dict(tensors))
    with pytest.raises(ValueError, match="the scores of target_0 lack some fields"):
        assemble(Model, header | {"ordered": {"day": {"cells": 3.0}}}, dict(tensors))


def test_what_the_command_line_prints(fits):
    adata, _ = fits["stage"]
    said = "\n".join(mapping_sentences(adata, "tt", ""))
    assert said.startswith("Predicted stage: obs column tt_stage.\n80 of the model's 80 genes were found")
    assert "unassigned" not in said
