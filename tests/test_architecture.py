"""The house rules that code can break without noticing: who imports whom, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tripletomics

ROOT = Path(tripletomics.__file__).parent
LEVELS = (  # each may import from its own and from later ones
    {"cli"},
    {"tl", "experiment"},
    {"pp", "pl", "report", "store"},
    {"model", "training", "evaluation", "attribution", "labels", "index", "metrics", "baselines"},
    {"embedding", "losses", "samplers", "networks", "features", "augment", "sources", "seen", "pcs", "scales"},
    {"area", "optimizer", "parts", "geometry", "knn", "files", "devices", "processes", "keys", "names", "checkpoint"},
    {"notices"},
)
ANNDATA = {"cli", "tl", "experiment", "pp", "pl", "report", "store", "sources", "baselines"}
MATPLOTLIB = {"pl", "report"}


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path, *, runtime=False):
    """Names of the modules that a file imports; with `runtime`, those at its top level alone."""
    tree = ast.parse(path.read_text())
    for node in tree.body if runtime else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = [path for path in ROOT.rglob("*.py") if not path.name.startswith("__") or path.parent != ROOT]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path):
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    assert room(path) in level, "a new room: give it a level"
    for module in imports(path):
        if module.startswith("tripletomics.") and module.split(".")[1] in level:
            assert level[module.split(".")[1]] >= level[room(path)], module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_anndata_and_matplotlib_stay_in_their_rooms(path):
    used = {module.split(".")[0] for module in imports(path)}
    assert not used & {"anndata", "scanpy"} or room(path) in ANNDATA
    assert "matplotlib" not in used or room(path) in MATPLOTLIB


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_crowded_and_no_pickle(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 420
    assert not {"pickle", "joblib", "dill"} & {module.split(".")[0] for module in imports(path)}
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text)))


def test_a_loss_setting_is_known_to_its_loss_alone():
    for path in FILES:
        if room(path) != "losses" and room(path) != "geometry":
            names = {
                node.arg for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.arg | ast.keyword)
            }
            assert not names & {"margin", "mining", "temperature"}, path


@pytest.mark.parametrize("module", ["tripletomics", "tripletomics.cli", "tripletomics.tl"])
def test_import_is_light(module):
    code = (
        f"import sys, {module}; print(*[m for m in ('torch', 'scanpy', 'anndata', 'matplotlib') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_public_names():
    assert set(tripletomics.__all__) <= set(dir(tripletomics))
    for name in tripletomics.__all__:
        assert getattr(tripletomics, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tripletomics.nothing  # noqa: B018
