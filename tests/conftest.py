import os
import sys

os.environ["MPLBACKEND"] = "agg"  # no window opens
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait starve shared cores
SIDE_BY_SIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1
if SIDE_BY_SIDE:
    for library in ("OMP", "OPENBLAS", "NUMBA"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

from dataclasses import replace
from inspect import isfunction
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "numba"))
import numba

njit = numba.njit


def remembered(*given, **settings):
    """Keep what UMAP and PyNNDescent compile at every start, 20 s in each process, but not one function in two ways."""
    if given and isfunction(given[0]):
        return njit(*given, **settings) if settings else remembered()(given[0])

    def compiled(function):
        try:
            return njit(*given, **{"cache": True} | settings)(function)
        except RuntimeError:  # no file to which the code belongs
            return njit(*given, **settings)(function)

    return compiled


numba.njit = remembered

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from samples import FAST, make_cells, make_pair, plain, shuffled
from threadpoolctl import threadpool_limits

import tripletomics as tt
from tripletomics import cli
from tripletomics.losses.registry import LOSSES

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session", autouse=True)
def threads():
    torch.set_num_threads(1 if SIDE_BY_SIDE else 2)
    if SIDE_BY_SIDE:
        threadpool_limits(1, "blas")  # a plugin may have imported numpy before its variable was set


@pytest.fixture
def few_steps(monkeypatch):
    """Short fits where nobody says how long, and how good they are does not count."""
    monkeypatch.setattr("tripletomics.training.default_steps", lambda n, pace=0: 20)


@pytest.fixture
def own_registry():
    """A loss that a test registers is there for this test alone."""
    with mock.patch.dict(LOSSES):
        yield


@pytest.fixture(autouse=True)
def no_figures():
    """No test leaves a figure open."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """No test reads or fills the user's own cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data():
    """The folder of larger real datasets, where the machine has one."""
    folder = os.environ.get("TRIPLETOMICS_DATA")
    if not folder:
        pytest.skip("TRIPLETOMICS_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def pbmc_file():
    return DATA / "pbmc.h5ad"


@pytest.fixture
def pbmc(pbmc_file):
    return ad.read_h5ad(pbmc_file)


@pytest.fixture(scope="session")
def fitted(pbmc_file):
    """A model with the default settings but few steps, and the cells it was fitted on."""
    adata = ad.read_h5ad(pbmc_file)
    model = tt.fit(adata, label="cell_type", steps=40, progress=False)
    return model, adata


@pytest.fixture(scope="session")
def made():
    """300 cells x 150 genes of Poisson counts in three types that differ in 10 genes each, CSR."""
    random = np.random.default_rng(0)
    kinds = np.arange(300) % 3
    rate = np.full((300, 150), 0.5)
    for kind in range(3):
        rate[np.ix_(kinds == kind, np.arange(kind * 10, kind * 10 + 10))] = 6
    x = sp.csr_matrix(random.poisson(rate * random.uniform(0.5, 2, size=(300, 1))).astype(np.float32))
    adata = ad.AnnData(x)
    adata.obs["kind"] = np.array(["a", "b", "c"])[kinds]
    adata.obs["donor"] = [f"d{i}" for i in random.integers(5, size=300)]
    return adata


@pytest.fixture
def counts(made):
    """These cells, to be changed."""
    return made.copy()


@pytest.fixture
def run(capsys):
    """Run a command line in this process; give its exit status, stdout and stderr."""

    def run(*arguments):
        status = 0
        capsys.readouterr()
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as leave:
            status = leave.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def trained():
    """A model of 600 cells of seven types of which an eighth has no label, and these cells."""
    adata = make_cells(600, 1)
    adata.obs.loc[adata.obs_names[::8], "kind"] = np.resize(np.array([np.nan, "Unknown"], dtype=object), 75)
    return tt.fit(adata, "kind", **FAST), adata


@pytest.fixture
def own(trained):
    """The model, to be changed."""
    return replace(trained[0])


@pytest.fixture(scope="session")
def new_cells():
    return make_cells(500, 2)


@pytest.fixture(scope="session")
def both():
    """A model of 400 cells with RNA and proteins, whose second table has another order, with a quarter held out."""
    rna, protein = make_pair(400)
    protein = shuffled(protein)
    return SimpleNamespace(model=tt.fit((rna, protein), "kind", hold_out=0.25, **FAST), rna=rna, protein=protein)


@pytest.fixture(scope="session")
def unlabelled():
    """The same without labels."""
    rna, protein = make_pair(400)
    return SimpleNamespace(model=tt.fit((rna, protein), hold_out=0.25, **FAST), rna=rna, protein=protein)


@pytest.fixture(scope="session")
def partly():
    """A model of cells with RNA, with proteins and with both; those of type "g" have proteins alone."""
    rna, protein = make_pair(450)
    protein.obs["kind"] = rna.obs["kind"]
    rna, protein = rna[:300][(rna.obs["kind"] != "g")[:300]].copy(), protein[150:].copy()
    return SimpleNamespace(model=tt.fit((rna, protein), "kind", hold_out=0.2, **FAST), rna=rna, protein=protein)


@pytest.fixture(scope="session")
def quick():
    """The coordinates of a few steps, with which other ways to say the same are compared."""
    rna, protein = make_pair()
    model = tt.fit((rna, protein), "kind", steps=4, progress=False)
    return SimpleNamespace(model=model, rna=rna, protein=protein)


@pytest.fixture(scope="session")
def fresh():
    """New cells: their tables, without labels, and their types."""
    rna, protein = make_pair(200, 2)
    kinds = rna.obs["kind"].to_numpy()
    return SimpleNamespace(rna=plain(rna), protein=plain(protein), kinds=kinds)


@pytest.fixture
def source(pbmc, tmp_path):
    """A file of 300 blood cells."""
    adata = pbmc[::2][:300].copy()
    adata.obs["donor"] = [f"d{i % 4}" for i in range(adata.n_obs)]
    adata.layers["logged"] = adata.X.copy() * 2
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"
