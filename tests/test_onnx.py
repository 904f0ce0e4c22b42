"""A model as one ONNX graph: it gives what the model gives."""

import json
import sys
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from samples import BRIEF, make_cells, make_pair

import tripletomics as tt
from tripletomics.model.graph import Graph
from tripletomics.notices import TripletomicsWarning

CLOSE = 1e-5  # of the range of an output


def assert_close(found, model, x):
    """The outputs are those of the model, where rounding cannot swap the 15th and the 16th neighbour."""
    if model.reference is None:
        z, m = model.place(x)
        wanted, sure = [z, m], np.ones(len(x), dtype=bool)
    else:
        predicted, z, m = model.predict(x)
        d = model.reference.clusters.search(z, 16)[0]
        wanted, sure = [z, m, predicted.probabilities], d[:, 15] - d[:, 14] > CLOSE
        assert sure.mean() > 0.95
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other)[sure].max() <= CLOSE * np.ptp(other)


def opened(path):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, x):
    return session.run(None, {"genes": np.asarray(x, dtype=np.float32)})


def test_a_warning_about_missing_values(own, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(own.settings, "missing", "impute")
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: sys.exit())
    with pytest.warns(TripletomicsWarning, match="a graph takes none: a cell with NaN"), pytest.raises(SystemExit):
        own.to_onnx(tmp_path / "own.onnx")


def test_the_graph_of_counts_in_the_runtime(own, tmp_path):
    """Of 1,000 cells that the model never saw, at once and one by one."""
    pytest.importorskip("onnxscript")
    x = make_cells(1000, 3).X.toarray()
    own.to_onnx(tmp_path / "own.onnx")
    session = opened(tmp_path / "own.onnx")
    assert [one.name for one in session.get_outputs()] == ["metric", "map", "probabilities"]
    found = run(session, x)
    assert_close(found, own, x)
    for one, other in zip(run(session, x[:1]), found, strict=True):
        np.testing.assert_allclose(one, other[:1], atol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["genes"]) == own.features.genes
    assert json.loads(about["classes"]) == own.classes == own.types
    assert about["model"] == own.id
    assert [path.name for path in tmp_path.iterdir()] == ["own.onnx"]


def test_an_adopted_map_of_proteins_without_labels_in_the_runtime(tmp_path):
    pytest.importorskip("onnxscript")
    adata = make_pair(200)[1]
    adata.obsm["X_known"] = adata.X[:, :2] * 3
    model = tt.fit(adata, map="X_known", **BRIEF)
    model.to_onnx(tmp_path / "map.onnx")
    x = make_pair(100, 2)[1].X
    assert_close(run(opened(tmp_path / "map.onnx"), x), model, x)


@pytest.mark.parametrize("kind", ["levels", "embedding", "three dimensions", "one absent type"])
def test_the_sums_of_the_graph(kind, trained):
    """Without the export, which changes none of them."""
    adata, _given = make_cells(210, 1), {}
    x = make_cells(120, 4).X.toarray()
    if kind == "levels":
        adata.obs["class"] = adata.obs["kind"].map(lambda name: "early" if name < "d" else "late")
        model = tt.fit(adata, ["class", "kind"], **BRIEF)
    elif kind == "embedding":
        adata.obsm["X_own"], x = np.log1p(adata.X.toarray()[:, :20]), np.log1p(x[:, :20])
        model = tt.fit(adata, "kind", use_rep="X_own", **BRIEF)
    elif kind == "three dimensions":
        model = tt.fit(adata, "kind", dim=3, spread=0, **BRIEF)
    else:
        model = replace(trained[0])
        sizes = model.reference.sizes.copy()
        sizes[0] = 0
        model.reference = replace(model.reference, sizes=sizes)
        adata = ad.AnnData(x)
    with torch.no_grad():
        found = Graph(model).eval()(torch.from_numpy(x.astype(np.float32)))
    assert_close([one.numpy() for one in found], model, x)


def test_what_has_no_graph_is_refused_in_words(own, quick, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"two modalities \(rna, protein\), and a graph takes one matrix: fit a model"):
        quick.model.to_onnx(path)
    own.enroll(make_cells(6, 5, "h").X, ["h"] * 6)
    with pytest.raises(ValueError, match=r"enrolled types \(h\), which a graph cannot hold: write the graph of"):
        own.to_onnx(path)
    with pytest.raises(ValueError, match=r"does not end in \.onnx"):
        own.to_onnx(tmp_path / "model.tt")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'^model\.to_onnx needs onnx: pip install "tripletomics\[onnx\]"\.$'):
        own.to_onnx(path)
    assert not list(tmp_path.iterdir())
