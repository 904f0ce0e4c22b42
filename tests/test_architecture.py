"""The house rules that code can break without noticing: who imports whom, how long things are, what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tripletomics as tt

ROOT = Path(tt.__file__).parent
FLOORS = (  # from top to bottom; imports go down, or to the right on one line
    ("__main__", "cli"),
    ("sklearn", "tl", "datasets"),
    ("experiment",),
    ("report", "pl", "store", "pp"),
    ("model",),
    ("growth",),
    ("nulls", "crossfit", "predictors"),
    ("training", "monitor"),
    ("problem",),
    ("evaluation", "baselines", "labels", "adoption", "metrics", "index", "attribution"),
    ("losses", "samplers", "embedding", "networks", "seen", "features", "augment", "scales", "pcs", "gaps", "sources"),
    ("checkpoint", "files", "area", "optimizer", "geometry", "knn", "folds", "devices", "processes"),
    ("arguments", "parts", "keys", "names", "notices", "extras"),
)
PLACE = {name: (floor, i) for floor, names in enumerate(FLOORS) for i, name in enumerate(names)}
ANNDATA = {"cli", "tl", "datasets", "experiment", "pp", "pl", "report", "store", "baselines"}
MATPLOTLIB = {"pl", "report"}
OPTIONAL = {"mudata", "scib_metrics", "scvi", "tensorflow", "umap", "psutil"}
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
LINES, CODE_LINES, ARGUMENTS, POSITIONAL = 400, 60, 12, 6  # code lines: without docstring and blank lines
CONSTRUCTORS = "__init__"  # of estimators


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def room(module):
    return module.split(".")[1]


def imported(node):
    """The names in an import statement."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def for_types(tree):
    """The nodes that only type checkers see."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {id(inner) for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(path, types=True):
    """The modules that a file imports anywhere, with or without those of types alone."""
    hidden = set() if types else for_types(TREES[path])
    return {name for node in ast.walk(TREES[path]) if id(node) not in hidden for name in imported(node)}


def own_imports(path):
    """The modules of this package that a file imports at run time; a name in a package stands for the package."""
    found = {name for name in imports(path, types=False) if name in MODULES} - {name_of(path)}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def functions():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield path, node


def is_public_verb(path, node):
    return room(name_of(path)) in ("tl", "pl", "cli") and not node.name.startswith("_")


def test_imports_go_downwards():
    for path in FILES:
        here = room(name_of(path))
        assert here in PLACE, f"{path}: a new room: give it a floor"
        bare = {alias.name for node in ast.walk(TREES[path]) if isinstance(node, ast.Import) for alias in node.names}
        assert "tripletomics" not in bare, f"{path}: the whole package is above every room"
        for module in imports(path, types=False):
            there = room(module) if module.startswith("tripletomics.") else here
            if there in PLACE and there != here:
                assert PLACE[there][0] >= PLACE[here][0], f"{path}: {module} is on a higher floor"
                assert PLACE[there] > PLACE[here], f"{path}: {module} is to the left"


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: own_imports(path) for name, path in MODULES.items()}
    graph = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in graph.items()}
    while free := [name for name, others in graph.items() if not others & set(graph)]:
        for name in free:
            del graph[name]
    assert not graph


def test_imports_inside_functions_are_in_verbs():
    """They keep `--help` and `import tripletomics` light; elsewhere they would hide a circle."""
    for path in FILES:
        if path.name == "__init__.py" or room(name_of(path)) in ("cli", "tl", "__main__"):
            continue
        top = set(map(id, TREES[path].body)) | for_types(TREES[path])
        for node in ast.walk(TREES[path]):
            if id(node) not in top:
                bare = any(name.startswith("tripletomics") for name in imported(node))
                assert not bare, f"{path}: {ast.unparse(node)}"


def test_anndata_and_matplotlib_stay_in_their_rooms():
    for path in FILES:
        used = {module.split(".")[0] for module in imports(path)}
        assert not used & {"anndata", "scanpy"} or room(name_of(path)) in ANNDATA, path
        assert "matplotlib" not in used or room(name_of(path)) in MATPLOTLIB, path
        assert not used & {"pickle", "joblib", "dill"}, path


def test_no_module_is_crowded():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= LINES, path
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(TREES[path])), path


def test_functions_are_short_and_not_named_like_their_module():
    for path, node in functions():
        own = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
        lines = path.read_text().splitlines()
        text = range(own.lineno, own.end_lineno + 1) if own else ()
        length = sum(bool(lines[i - 1].strip()) for i in range(node.lineno, node.end_lineno + 1) if i not in text)
        assert length <= CODE_LINES, f"{path}: {node.name} has {length} lines"
        assert node.name != path.stem or node not in TREES[path].body, f"{path}: {node.name}"


def test_no_function_takes_many_arguments_and_no_call_gives_many_by_place():
    for path, node in functions():
        given = node.args
        n = len(given.posonlyargs + given.args + given.kwonlyargs)
        assert n <= ARGUMENTS or is_public_verb(path, node) or node.name == CONSTRUCTORS, f"{path}: {node.name} has {n}"
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not any(isinstance(one, ast.Starred) for one in node.args):
                assert len(node.args) <= POSITIONAL, f"{path}:{node.lineno}"


def test_warnings_have_one_place():
    for path in FILES:
        assert path.stem == "notices" or "stacklevel" not in path.read_text(), path


def test_a_loss_setting_is_known_to_its_loss_alone():
    for path in FILES:
        if room(name_of(path)) not in ("losses", "geometry"):
            names = {node.arg for node in ast.walk(TREES[path]) if isinstance(node, ast.arg | ast.keyword)}
            assert not names & {"margin", "mining", "temperature"}, path


def test_from_fit_to_the_arithmetic_of_the_triplet_sum():
    """Four frames in three files, and the kernel in a fourth; those of torch and of decorators are not counted."""
    frames = []

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_name == "triplet_sum" and not frames:
            while frame:
                name = frame.f_globals.get("__name__", "")
                if name.startswith("tripletomics.") and name != "tripletomics.arguments":
                    frames.append((frame.f_globals["__name__"], frame.f_code.co_name))
                frame = frame.f_back

    random = np.random.default_rng(0)
    import anndata as ad

    adata = ad.AnnData(random.poisson(3.0, (60, 20)).astype(np.float32), obs={"kind": list("abc") * 20})
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        tt.fit(adata, "kind", loss="triplet:reduction=all", steps=1, hold_out=0, progress=False)
    finally:
        sys.setprofile(before)
    assert [name for _, name in frames[::-1]] == ["fit", "train_encoder", "train", "forward", "triplet_sum"]
    assert len({module for module, _ in frames}) == 4


@pytest.mark.parametrize("module", ["tripletomics", "tripletomics.cli", "tripletomics.tl"])
def test_import_is_light(module):
    code = (
        f"import sys, {module}; print(*[m for m in ('torch', 'scanpy', 'anndata', 'matplotlib') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_public_names():
    assert set(tt.__all__) <= set(dir(tt))
    for name in tt.__all__:
        assert getattr(tt, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tt.nothing  # noqa: B018
