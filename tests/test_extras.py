"""What the core does without, and how it says so."""

import subprocess
import sys
from pathlib import Path

import pytest

import tripletomics as tt
from tripletomics import extras
from tripletomics.tl import comparing

COMPARE = sorted(module for module, extra in extras.EXTRAS.items() if extra == "compare")
WITHOUT = """
import sys

sys.modules |= dict.fromkeys({blocked})  # as if they were not installed
import anndata as ad
import numpy as np
import tripletomics as tt

adata = ad.AnnData(np.random.default_rng(0).poisson(3.0, (60, 20)).astype(np.float32), obs={{"kind": list("abc") * 20}})
model = tt.fit(adata, "kind", steps=2, progress=False)
new = adata[:9].copy()
tt.transform(new, model)
tt.predict(new, model)
tt.explain(adata, model, "kind")
tt.pl.embedding(adata, "kind")
tt.pl.history(model)
tt.pl.confusion
tt.sklearn.TripletMap
"""


@pytest.fixture
def bare(monkeypatch):
    """An environment without the extra "compare"."""
    for module in COMPARE:
        monkeypatch.setitem(sys.modules, module, None)


def test_the_core_imports_none_of_the_extras():
    code = WITHOUT.format(blocked=[*extras.EXTRAS])
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


def test_every_extra_is_declared():
    tomllib = pytest.importorskip("tomllib")
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(extras.EXTRAS.values()) <= set(declared["optional-dependencies"])
    names = {module.lower() for module in COMPARE}
    assert not names & {line.partition(">")[0].lower() for line in declared["dependencies"]}
    assert names == {line.partition(">")[0].lower() for line in declared["optional-dependencies"]["compare"]}
    assert "compare" in declared["optional-dependencies"]["test"][-1]


@pytest.mark.usefixtures("bare")
def test_compare_without_the_extra_runs_what_is_installed(counts, monkeypatch):
    """It names the rest once."""
    monkeypatch.setattr(comparing, "METHODS", ("pca2", "tsne", "tsne_crossfit", "pacmap"))
    with pytest.warns(UserWarning, match="compare") as said:
        result = tt.compare(counts, "kind", seeds=1, cache=None, progress=False)
    assert [str(one.message) for one in said] == [
        "tsne, tsne_crossfit, pacmap are left out, because openTSNE and pacmap are not installed: "
        'pip install "tripletomics[compare]".'
    ]
    assert result.methods == ["pca2"]
    assert result.settings["methods"] == "pca2"
    with pytest.raises(
        ImportError, match=r'^A report needs bokeh and jinja2: pip install "tripletomics\[compare\]"\.$'
    ):
        result.to_html("report.html")


@pytest.mark.usefixtures("bare")
def test_what_is_named_and_not_installed_is_refused_before_any_work(counts, run, tmp_path, monkeypatch):
    monkeypatch.setattr("tripletomics.experiment.make_task", lambda *_, **__: pytest.fail("work"))
    with pytest.raises(ImportError, match=r"^methods: 'tsne' needs openTSNE: pip install"):
        tt.compare(counts, "kind", ["pca2", "tsne"])
    status, _, error = run("compare", tmp_path / "no.h5ad", "--label", "kind", "--out", tmp_path / "report.html")
    assert (status, error) == (1, 'error: A report needs bokeh and jinja2: pip install "tripletomics[compare]".\n')
