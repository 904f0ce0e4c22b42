import copy
import dataclasses
import json
import re
from contextlib import nullcontext

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from samples import rows_of

import tripletomics as tt
from tripletomics.labels.discoveries import conformal
from tripletomics.model.storage import MARK, seal


@pytest.fixture
def saved(fitted, tmp_path):
    model, adata = fitted
    model.save(tmp_path / "m.tt")
    return model, adata, tmp_path / "m.tt"


def read(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["tripletomics"])


def rewrite(path, tensors=None, **changes):
    """Write the file again with another header or other tensors, and a checksum that holds."""
    with safe_open(path, framework="pt") as file:
        header, known = json.loads(file.metadata()["tripletomics"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    known |= {name: change(known[name].clone()) for name, change in (tensors or {}).items()}
    save_file(known, path, {"tripletomics": json.dumps(header | changes)})
    seal(path)


def change(path, part, **changes):
    rewrite(path, **{part: read(path)[part] | changes})


def put(value):
    """Change the first value of a tensor."""

    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


def test_arrays_in_arrays_out(fitted):
    model, adata = fitted
    x = adata[:, model.features.genes].X
    z, m = model.embed(x), model.map(x)
    assert z.dtype == m.dtype == np.float32
    np.testing.assert_array_equal(z, adata.obsm["X_tt_metric"])
    np.testing.assert_array_equal(m, adata.obsm["X_tt"])
    np.testing.assert_allclose(model.embed(x.toarray()[:3]), z[:3], atol=1e-5)
    assert model.embed(x[:0]).shape == (0, 32)


def test_wrong_width_says_what_is_expected(fitted):
    with pytest.raises(ValueError, match=r"shape \(3, 5\): pass cells by the model's 765 genes"):
        fitted[0].embed(np.zeros((3, 5)))


def test_genes_that_are_not_present_are_ignored(fitted):
    model, adata = fitted
    x = adata[:50, model.features.genes].X.toarray()
    every, present = np.ones(765, dtype=bool), np.arange(765) % 3 > 0
    for one in (model.embed, model.map):
        np.testing.assert_array_equal(one(x, every), one(x))
        assert not np.array_equal(one(x, present), one(x))
    z, m = model.embed(x, present), model.map(x, present)
    x[:, ~present] = np.nan
    np.testing.assert_array_equal(model.embed(x, present), z)
    np.testing.assert_array_equal(model.place(sp.csr_matrix(x), present)[1], m)
    assert np.isfinite(m).all()


@pytest.mark.parametrize("present", [np.ones(5, dtype=bool), np.arange(765)])
def test_present_is_a_truth_for_each_gene(fitted, present):
    message = f"present is {present.dtype} of shape ({len(present)},): pass True or False for each of the model's 765"
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted[0].map(np.zeros((3, 765)), present)


def test_save_and_load_keep_the_features(saved):
    model, adata, path = saved
    loaded = tt.load(path)
    for field in dataclasses.fields(model.features):
        found, expected = getattr(loaded.features, field.name), getattr(model.features, field.name)
        np.testing.assert_array_equal(found, expected, err_msg=field.name)
        assert type(found) is type(expected), field.name
    x, present = adata[:, model.features.genes].X, np.arange(765) % 2 == 0
    np.testing.assert_array_equal(loaded.map(x, present), model.map(x, present))
    np.testing.assert_array_equal(loaded.gene_weights(), model.gene_weights())


def test_save_and_load_keep_everything(saved):
    model, adata, path = saved
    loaded = tt.load(path)
    for name in ("classes", "settings", "scores", "seconds", "versions"):
        assert getattr(loaded, name) == getattr(model, name)
    for stage, columns in model.history.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(loaded.history[stage][name], values)
    query = adata.copy()
    del query.obsm, query.uns
    tt.transform(query, loaded)
    np.testing.assert_allclose(query.obsm["X_tt"], adata.obsm["X_tt"], atol=1e-5)
    np.testing.assert_allclose(query.obsm["X_tt_metric"], adata.obsm["X_tt_metric"], atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "finding", "shape"),
    [("softtriple:centers=4", "surviving_centers", (3,)), ("softmax + hierarchical_triplet", "tree", (2, 4))],
)
def test_what_the_loss_found_is_kept(counts, tmp_path, loss, finding, shape):
    model = tt.fit(counts, "kind", loss=loss, steps=15, progress=False)
    assert model.findings[finding].shape == shape
    model.save(tmp_path / "m.tt")
    loaded = tt.load(tmp_path / "m.tt")
    counts.write_h5ad(tmp_path / "cells.h5ad")
    record = ad.read_h5ad(tmp_path / "cells.h5ad").uns["X_tt"]
    assert record["classes"].tolist() == ["a", "b", "c"]
    for found in (loaded.findings, record["findings"]):
        np.testing.assert_array_equal(found[finding], model.findings[finding])
        assert found[finding].dtype == model.findings[finding].dtype
    line = "Centers that survive: " + ", ".join(
        f"{k} {n}" for k, n in zip("abc", model.findings[finding], strict=False)
    )
    assert (line in loaded.summary()) == (finding == "surviving_centers")


def test_the_scale_of_adacos_is_in_the_history(counts, tmp_path):
    model = tt.fit(counts, "kind", loss="softmax + adacos", steps=15, progress=False)
    scale = model.history["metric"]["scale"]
    assert scale.shape == (15,)
    assert (scale > 0).all()
    assert np.ptp(scale) > 0
    model.save(tmp_path / "m.tt")
    np.testing.assert_allclose(tt.load(tmp_path / "m.tt").history["metric"]["scale"], scale)


def test_the_file_holds_landmarks_of_the_metric_space_and_no_expression(saved):
    _, adata, path = saved
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118
    of_cells = {name: tuple(shape) for name, shape in shapes.items() if {700, 630, 70} & {*shape}}
    assert of_cells == {
        "reference.z": (630, 32), "reference.map": (630, 2), "reference.codes": (630,),
        "cells.hashes": (700,), "cells.roles": (700,), "cells.fitted": (700,),
    }  # fmt: skip
    n = tt.load(path).calibration.n_cells
    assert shapes["calibration.pcs"] == (n, 20)
    assert not any(name.encode() in path.read_bytes() for name in adata.obs_names[:20])


def test_the_summary_says_what_scores_are_means_of_and_what_missing_values_are(fitted):
    model = dataclasses.replace(
        fitted[0], scores={"train": {"map": 0.5, "metric": 0.5}, "held-out": {"map": 0.6, "metric": 0.6}}
    )
    model.findings = model.findings | {"tested": np.array([70.0, len(model.classes) - 1, 0.005])}
    assert f"it is a mean over {len(model.classes) - 1} types, and that of the training cells" in model.summary()
    assert "is the higher one" not in fitted[0].summary()
    model.settings = model.settings | {"missing": "impute"}
    assert 'For new cells with NaN, pass missing="impute" again.' in model.summary()
    assert "missing=" not in fitted[0].summary()


def test_the_summary_and_the_record_show_the_null(fitted):
    model, adata = fitted
    assert set(model.scores) == {"train", "held-out", "permuted"}
    for row in ("held-out cells", "permuted labels", "training cells"):
        assert row in model.summary()
    assert adata.uns["X_tt"]["scores"] == model.scores
    assert f"{model.scores['held-out']['map']:.3f}" in model.summary()
    assert repr(model) == "<tripletomics.Model: 765 genes, 10 types, loss=softmax>"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), "is damaged or not a model file"),
        (lambda p: p.write_bytes(b"not a model"), "is damaged or not a model file"),
        (lambda p: p.write_bytes(b""), "is damaged or not a model file"),
        (lambda p: save_file({"a": torch.zeros(3)}, p), "safetensors file of another program"),
        (lambda p: rewrite(p, format=99), r"written by a newer tripletomics, in format 99"),
        (lambda p: rewrite(p, format=2), r"written by an older tripletomics, in format 2: fit the model again"),
        (lambda p: rewrite(p, format="?"), "is damaged"),
        (lambda p: rewrite(p, settings={}), "is damaged: it lacks 'loss'"),
        (lambda p: change(p, "features", genes=["a"] * 765), "is damaged: a gene is there twice"),
        (lambda p: change(p, "features", genes=["a"], n_seen=1), "is damaged: 1 genes, but values for"),
        (lambda p: change(p, "features", counts="false"), "is damaged: features.counts='false' is not bool"),
        (lambda p: change(p, "features", n_seen=10**30), "is damaged: features.n_seen=10+ is not int"),
        (lambda p: change(p, "features", n_seen=766), "is damaged: 765 genes, of which the encoder would see 766"),
        (lambda p: change(p, "features", depth=float("nan")), "is damaged: features.depth is nan"),
        (lambda p: change(p, "features", width=3), "is damaged: features has 'width', which is not known"),
        (lambda p: rewrite(p, reference={}), "is damaged: reference lacks spread"),
        (lambda p: change(p, "reference", spread=0.0), "is damaged: reference"),
        (lambda p: rewrite(p, classes=read(p)["classes"][::-1]), "is damaged: classes are not sorted"),
        (lambda p: rewrite(p, classes=[1, *read(p)["classes"][1:]]), r"is damaged: classes=\[1, .* is not list"),
        (
            lambda p: rewrite(p, classes=read(p)["classes"][1:]),
            r"is damaged: findings\['unassigned'\] does not have one",
        ),
        (lambda p: rewrite(p, enrolled=["B"]), "is damaged: reference.sizes is int64 of shape"),
        (lambda p: rewrite(p, history={"metric": {"step": [1, 2], "loss": [1.0]}}), "is damaged: history"),
        (lambda p: rewrite(p, scores={"train": {}}), "is damaged: scores lacks a space"),
        (lambda p: change(p, "settings", metric_dim="9" * 12), "is damaged: encoder.metric_head.weight is"),
        (lambda p: change(p, "settings", encoder="mlp:hidden=900000000000"), "is damaged: encoder.trunk.0.weight is"),
        (lambda p: change(p, "calibration", trust=7.0), "is damaged: calibration has numbers out of range"),
        (lambda p: rewrite(p, {"calibration.pcs": lambda t: t[:, :5].contiguous()}), "pcs is float32 of shape"),
        (lambda p: rewrite(p, {"calibration.pcs": lambda t: t[1:].contiguous()}), "calibration"),
        (lambda p: rewrite(p, {"calibration.novelties": lambda t: t[1:].contiguous()}), "calibration.novelties is"),
        (lambda p: rewrite(p, {"calibration.novelties": put(np.nan)}), "novelties has values that are NaN"),
        (lambda p: rewrite(p, {"networks.map_head.out.weight": put(np.nan)}), "out.weight has values that are NaN"),
        (lambda p: rewrite(p, {"networks.map_head.out.bias": lambda t: t.int()}), "bias is torch.int32 of shape"),
        (lambda p: rewrite(p, {"features.axes": put(np.inf)}), "is damaged: features.axes has values that are NaN"),
        (lambda p: rewrite(p, {"features.scale": put(0)}), "is damaged: features.scale is not above 0"),
        (lambda p: rewrite(p, {"features.cap": lambda t: t[:5]}), r"cap is float32 of shape \(5,\), not"),
        (lambda p: rewrite(p, {"reference.codes": put(10)}), "is damaged: reference.codes has values out of range"),
        (lambda p: rewrite(p, {"reference.codes": put(-1)}), "is damaged: reference.codes has values out of range"),
        (lambda p: rewrite(p, {"reference.z": lambda t: t.double()}), "reference.z is float64 of shape"),
        (lambda p: rewrite(p, {"cells.roles": put(3)}), "is damaged: cells.roles has values out of range"),
        (
            lambda p: rewrite(p, {"cells.hashes": lambda t: torch.from_numpy(t.numpy()[::-1].copy())}),
            "is damaged: cells.hashes do not ascend",
        ),
        (lambda p: save_file({"a": torch.zeros(3)}, p, {"tripletomics": "{"}), "is damaged"),
        (lambda p: save_file({"a": torch.zeros(3)}, p, {"tripletomics": "[" * 100_000}), "is damaged: Recursion"),
        (lambda p: save_file({"a": torch.zeros(3)}, p, {"tripletomics": '{"format": 1e400}'}), "format=inf is not"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"sha256", b"sha255")), "its checksum is not where it be"),
    ],
)
def test_damaged_files(saved, damage, message):
    path = saved[2]
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        tt.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_every_changed_byte_is_found(saved):
    whole, path = saved[2].read_bytes(), saved[2]
    digits = whole.index(MARK) + len(MARK)
    places = [*range(digits + 70), *np.random.default_rng(0).integers(len(whole), size=200).tolist(), len(whole) - 1]
    for i in places:
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        with pytest.raises(ValueError, match=r"is damaged|of another program"):
            tt.load(path)
    page = len(whole) // 2
    for other in (whole[:-1], whole + b"\0", whole[:page] + bytes(4096) + whole[page + 4096 :], whole[:page]):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=r"is damaged"):
            tt.load(path)
    path.write_bytes(whole)
    tt.load(path)


def test_coordinates_that_are_not_finite_are_refused(fitted):
    model, adata = fitted
    x, damaged = adata[:20, model.features.genes].X, copy.deepcopy(model)
    with torch.no_grad():
        damaged.networks.map_head.out.weight.fill_(3e38)
    for place in (damaged.embed, damaged.map, damaged.predict):
        with pytest.raises(ValueError, match=r"cells have coordinates that are NaN or infinite"):
            place(x)


def test_a_file_of_the_format_before_has_no_checksum_and_loads(saved):
    model, adata, path = saved
    text = json.dumps({name: value for name, value in read(path).items() if name != "sha256"} | {"format": 7})
    with safe_open(path, framework="pt") as file:
        save_file({k: file.get_tensor(k) for k in file.keys()}, path, {"tripletomics": text})  # noqa: SIM118
    with pytest.warns(UserWarning, match=r"was written in format 7, which carries no checksum: .* model.save writes"):
        old = tt.load(path)
    x = adata[:, model.features.genes].X
    np.testing.assert_array_equal(old.map(x), model.map(x))
    assert old.id == model.id


@pytest.mark.parametrize("number", [6, 7, 8])
def test_files_of_earlier_formats_call_permuted_scores_null(saved, number):
    model, adata, path = saved
    header = read(path) | {"format": number}
    header["scores"] = {"null" if group == "permuted" else group: score for group, score in header["scores"].items()}
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if number > 6 or not name.startswith("cells.")}  # noqa: SIM118
    del tensors["calibration.pcs"]  # which came with format 9
    if number == 6:
        del header["cells"]
    if number < 8:
        del header["sha256"]
    save_file(tensors, path, {"tripletomics": json.dumps(header)})
    if number == 8:
        seal(path)
    with pytest.warns(UserWarning, match="no checksum") if number < 8 else nullcontext():
        old = tt.load(path)
    assert old.scores == model.scores
    assert old.summary() == model.summary()
    changed = adata[:30, model.features.genes].X.toarray() + 1  # so that they are new
    found, known = old.predict(changed, fdr=0.2)[0], old.calibration  # each cell alone
    np.testing.assert_array_equal(found.p, conformal(known.novelties, found.deviation, known.n_cells))
    assert list(old.record()["scores"]) == ["train", "held-out", "permuted"]


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no model file .*nope\.tt"):
        tt.load(tmp_path / "nope.tt")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("m.pt", ValueError, "name the file 'm.tt'"), ("no/m.tt", FileNotFoundError, "does not exist: create it first")],
)
def test_unusable_names(fitted, tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        fitted[0].save(tmp_path / name)
    assert not list(tmp_path.rglob("*"))


def test_an_interrupted_save_leaves_the_old_file(saved, monkeypatch):
    model, _, path = saved
    before = path.read_bytes()

    def fail(tensors, draft, metadata):
        draft.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("tripletomics.model.storage.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        model.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["m.tt"]


def test_sparse_equals_dense(fitted):
    model, adata = fitted
    x = adata[:, model.features.genes].X
    for kind in (sp.csc_matrix, sp.csr_array, lambda x: x.toarray()):
        np.testing.assert_allclose(model.map(kind(x)), model.map(x), atol=1e-4)


def test_a_notebook_shows_scores_remarks_types_and_settings(own, trained):
    own.settings = own.settings | {"batch": "<script>run</script>" + "long" * 30}
    page = own._repr_html_()
    head, *rows = rows_of(page)
    assert head[1:3] == ["map", "metric space"]
    shown = {name: values for name, *values in rows}
    for title, group in (("held-out cells", "held-out"), ("permuted labels", "permuted")):
        assert shown[title][:2] == [f"{own.scores[group][space]:.3f}" for space in ("map", "metric")]
    assert {name: shown[name] for name in own.settings} == {name: [text] for name, text in own.settings.items()}
    assert "<script" not in page
    assert "color" not in page
    for line in own.summary().splitlines()[5:]:
        assert line in page
    assert all(f">{name}</th>" in page for name in own.types)
    own.p_value = dict.fromkeys(own.p_value, 0.5)
    assert "No signal" in own._repr_html_()
