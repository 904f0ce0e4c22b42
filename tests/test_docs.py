"""What the pages of the manual show, and the commands of the README, run as they stand there."""

import csv
import re
import shlex
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scanpy as sc
from samples import make_cells, make_pair, plain
from sklearn.neighbors import NearestNeighbors

import tripletomics as tt
from tripletomics import losses

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language, page=PAGES[0]):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture
def clone(tmp_path, monkeypatch, few_steps):
    """A folder that has the data where the README looks for it."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "tripletomics-demo").mkdir()
    cells = tt.datasets.pbmc_two_donors()[::4]
    for name, donor in {"blood": "pbmc3k", "new-donor": "pbmc68k"}.items():  # what the demo writes, but smaller
        cells[cells.obs["donor"] == donor].copy().write_h5ad(tmp_path / "tripletomics-demo" / f"{name}.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def scene(tmp_path, monkeypatch, few_steps, own_registry, trained):
    """What the pages of the manual take as given: small tables and a model; few methods, and one fit of each."""
    monkeypatch.chdir(tmp_path)
    adata, (rna, protein), (_, new_protein) = make_cells(150, 1, "abcde"), make_pair(150), make_pair(60, 2)
    for table in (adata, rna):
        table.obs["cell_type"] = table.obs["kind"]
    adata.obs["donor"] = [f"d{i % 4}" for i in range(150)]
    adata.obs["day"], adata.obs["phase"] = np.arange(150) % 6, np.arange(150) % 24
    adata.obs["stage"] = np.array(list("xyz"))[np.arange(150) % 3]
    adata.obs["stage"] = adata.obs["stage"].astype("category")
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(150, 2)).astype(np.float32)
    adata.obsm["X_scVI"] = np.log1p(adata.X[:, :30].toarray())
    for name in ("atlas", "new"):
        adata.write_zarr(f"{name}.zarr")
        adata.write_h5ad(f"{name}.h5ad")
    (tmp_path / "data").symlink_to(ROOT / "data")
    query = make_cells(50, 3)
    query.obsm["X_scVI"] = np.log1p(query.X[:, :30].toarray())
    query.obs["leiden"] = query.obs["kind"].astype("category").cat.codes.astype(str)
    scene = SimpleNamespace(**{name: getattr(tt, name) for name in tt.__all__} | {"pl": tt.pl})
    scene.evaluate = lambda *given, **more: tt.evaluate(*given, **more | {"refits": min(more.get("refits", 0), 1)})
    scene.compare = partial(tt.compare, methods=("tt", "pca2"), seeds=1)
    return {
        "tt": scene, "adata": adata, "rna": rna, "protein": protein, "model": trained[0], "query": query,
        "new_protein": plain(new_protein), "x": rna.X, "y": protein.X,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page.name for page in PAGES[1:] if blocks("python", page)])
def test_python_of_the_manual(scene, page):
    """Blocks of one page follow one another."""
    if page == "honest-evaluation.md":
        tt.fit(scene["adata"], "cell_type", progress=False)
    for code in blocks("python", ROOT / "docs" / page):
        exec(compile(code, page, "exec"), scene)


def test_terminal(clone, run):
    """In this process; that the program starts as one of its own is shown in `test_cli.py`."""
    (commands,) = (block for block in blocks("bash") if "tripletomics fit" in block)
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "tripletomics"
        status, _, error = run(*arguments)
        assert status == 0, error
    written = {path.name for path in clone.iterdir()}
    assert {"map.h5ad", "map.png", "blood.tt", "labels.h5ad", "labels.png", "report.html"} <= written


class Exact:
    """In place of the index of pynndescent, which is compiled for 20 s in each process."""

    def __init__(self, x, n_neighbors, **_):
        distances, indices = NearestNeighbors(n_neighbors=n_neighbors).fit(x).kneighbors(x)
        self.neighbor_graph = indices, distances

    def compress_index(self):
        pass


def test_scanpy_goes_on_from_the_metric_space(trained, new_cells, monkeypatch):
    """With what pynndescent gives it, which it takes by itself for more than 8192 cells: 1.11 needs one below 0.7."""
    monkeypatch.setattr("pynndescent.pynndescent_.NNDescent", Exact)
    adata = new_cells.copy()
    tt.transform(adata, trained[0])
    sc.pp.neighbors(adata, use_rep="X_tt_metric", transformer="pynndescent")
    assert adata.obsp["connectivities"].shape == (adata.n_obs, adata.n_obs)


def test_the_two_commands_are_one_line_each():
    setup = [block.strip() for block in blocks("bash") if block.startswith("pip")]
    assert [line.split(" && ")[1] for line in setup] == ["tripletomics demo", "python -m pytest"]


def test_every_loss_is_in_the_comparison():
    page = (ROOT / "docs" / "choose-a-loss.md").read_text()
    with (ROOT / "docs" / "tables" / "losses.csv").open() as file:
        rows = [row["loss"] for row in csv.DictReader(file)]
    for name in losses.names(views=1, ordered=False):
        assert any(name in re.split(r"[ *+]+", row) for row in rows), f"{name}: run benchmarks/losses.py"
        assert name in page, f"{name}: say when to choose it"
