import functools
import json
import re
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from matplotlib import pyplot as plt
from samples import files
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

import tripletomics as tt
from tripletomics import baselines, tl
from tripletomics.cli import demonstration
from tripletomics.cli.answers import as_json
from tripletomics.pl.demo_figure import draw_demo


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The demo with fewer cells, few steps, and PCA in place of UMAP, which takes 20 s to compile."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demonstration, "NOISE", (300, 20, 3))
    read, fit = demonstration.read_donors, tl.fit
    monkeypatch.setattr(demonstration, "read_donors", lambda: tuple(cells[::3].copy() for cells in read()))
    monkeypatch.setattr(tl, "fit", functools.partial(fit, steps=15))
    pca = baselines.METHODS["pca2"]
    monkeypatch.setattr(baselines, "METHODS", {"umap": pca, "umap_supervised": pca})
    return tmp_path


def test_demo(small, capsys):
    folder = small / "a" / "demo"
    answer = demonstration.run_demo.__wrapped__(out=folder, progress=False)  # what the command prints or gives as JSON
    capsys.readouterr()
    answer.show()
    out, error = capsys.readouterr()
    assert error == ""
    assert files(folder) == ["blood.h5ad", "blood.tt", "demo.png", "new-donor.h5ad"]
    blood, new = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("blood", "new-donor"))
    assert {"X_tt", "X_tt_metric", "X_umap"} <= set(blood.obsm)
    assert set(blood.obs["donor"]) == {"pbmc3k"}
    assert set(new.obs["donor"]) == {"pbmc68k"}
    held = ((blood.obs["tt_split"] == "held-out") & (blood.obs["cell_type"] != "Unknown")).sum()
    assert f"Macro-F1 of {held} held-out cells" in " ".join(out.split())
    named = (new.obs["tt_label"] != "unassigned").sum()
    assert f"{named} get a type, {new.n_obs - named} are unassigned" in " ".join(out.split())
    scores = blood.uns["X_tt"]["scores"]
    assert re.search(rf"tripletomics +{scores['held-out']['map']:.2f} \(0\.\d\d to 0\.\d\d\)\n", out)
    assert re.search(rf"labels permuted +{scores['permuted']['map']:.2f}\n", out)
    assert re.search(r"UMAP +0\.\d\d \(0\.\d\d to 0\.\d\d\) +(tie|[+-]0\.\d\d) \([+-]0\.\d\d to [+-]0\.\d\d\)\n", out)
    assert max(map(len, out.split("Wrote")[0].splitlines())) <= 80
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert len(tt.load(folder / "blood.tt").classes) == 7

    found = json.loads(as_json(answer.record))
    for part in (found["noise"], found["blood"]):
        for method in part.values():
            assert method["interval"][0] <= method["f1"] <= method["interval"][1]
            assert method["ahead_by"] == pytest.approx(part["tt"]["f1"] - method["f1"])
            assert method["ahead_interval"][0] <= method["ahead_by"] <= method["ahead_interval"][1]
    assert found["new_donor"]["named"] == named
    assert found["permuted"]["blood"] == pytest.approx(scores["permuted"]["map"])


@pytest.fixture
def scored():
    """Blood cells, half of them held out, on a map where types lie roughly in a row."""
    adata = demonstration.read_donors()[0][::2].copy()
    random = np.random.default_rng(0)
    adata.obs["tt_split"] = random.permutation(np.resize(["train", "held-out"], adata.n_obs))
    adata.obsm["X_tt"] = random.normal(size=(adata.n_obs, 2)) + adata.obs["cell_type"].cat.codes.to_numpy()[:, None]
    return adata


def test_scores_are_those_of_scikit_learn(scored):
    found = demonstration.score(scored, ("tt", "pca2", "logistic"), counts=True)
    held, known = scored.obs["tt_split"] == "held-out", scored.obs["cell_type"] != "Unknown"
    y = scored.obs["cell_type"].astype(str)
    for method, basis in {"tt": "X_tt", "pca2": "X_pca2"}.items():
        neighbours = KNeighborsClassifier(15).fit(scored.obsm[basis][~held & known], y[~held & known])
        named = neighbours.predict(scored.obsm[basis][held & known])
        assert found[method]["f1"] == pytest.approx(f1_score(y[held & known], named, average="macro"), abs=0.02)
    assert found["logistic"]["f1"] > found["tt"]["f1"]
    assert demonstration.compared(found["logistic"]).startswith("-0.")
    assert found["tt"]["ahead_interval"].tolist() == [0, 0]


def test_permuted_labels_are_a_tie(scored):
    labels = scored.obs["cell_type"].to_numpy()
    scored.obs["cell_type"] = np.random.default_rng(1).permutation(labels)
    found = demonstration.score(scored, ("tt", "pca2"), counts=True)
    assert demonstration.compared(found["pca2"]).startswith("tie (-0.")


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.02, 0.1), "+0.06 (+0.02 to +0.10)"),
        ((-0.02, 0.14), "tie (-0.02 to +0.14)"),
        ((0, 0.1), "tie (+0.00 to +0.10)"),
    ],
)
def test_a_difference_in_words(interval, words):
    assert demonstration.compared({"ahead_by": 0.06, "ahead_interval": interval}) == words


def test_demo_refuses_a_file(run, tmp_path):
    path = Path(tmp_path / "file")
    path.touch()
    assert run("demo", "--out", path) == (1, "", f"error: {str(path)!r} is a file: name a folder.\n")


def test_figure_shows_new_cells_over_the_grey_reference(small, scored):
    blood, new = demonstration.read_donors()
    random, noise = np.random.default_rng(0), demonstration.make_noise()
    for adata in (blood, new, noise):
        for basis in ("X_tt", "X_umap", "X_umap_supervised"):
            adata.obsm[basis] = random.normal(size=(adata.n_obs, 2))
        adata.obs["tt_split"] = np.resize(["train", "held-out"], adata.n_obs)
    left = random.random(new.n_obs) < 0.4
    new.obs["tt_label"], new.obs["tt_confidence"] = np.where(left, "unassigned", "B cell"), 0.7
    noise.uns["X_tt"] = {"p_value": {"map": 0.9}}
    figure = draw_demo(noise, blood, new, "cell_type", ["a", "b", "c", "d"])
    assert [ax.get_title(loc="left") for ax in figure.axes[:6] if len(ax.get_title(loc="left")) == 1] == [*"abcd"]
    grey = figure.axes[2].collections
    assert {len(one.get_offsets()) for one in grey} == {blood.n_obs, (~left).sum(), left.sum()}
    for ax in figure.axes[2], figure.axes[5]:
        (crosses,) = (one for one in ax.collections if one.get_label() == "unassigned")
        np.testing.assert_allclose(crosses.get_offsets(), new.obsm["X_tt"][left])
        assert f"unassigned ({left.sum()})" in ax.get_title(loc="left")
    (banner,) = figure.axes[1].texts[:1]
    assert banner.get_window_extent().y0 > figure.axes[1].bbox.y0 + 0.7 * figure.axes[1].bbox.height
    plt.close(figure)
