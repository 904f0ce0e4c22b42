# %% [markdown]
# # Cells on disk: datasets larger than memory
#
# `tt.fit`, `tt.transform` and `tt.predict` take a path in place of an AnnData. This notebook simulates 60,000 cells in
# a temporary folder. The same lines serve for larger ones.
#
# **What is read.** This example is small, so `tt.fit` reads its matrix whole, as it does with up to 2 GB and 300,000
# cells. Of a larger one, a sample of the cells is fitted, with an equal share of each type. `tt.transform` and
# `tt.predict` read a block of rows at a time, whatever the size: on this page too.

# %%
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr

import tripletomics as tt
from tripletomics.tl import transform_shard

warnings.filterwarnings("ignore", "Writing zarr v2")  # anndata announces its next version
folder = Path(tempfile.mkdtemp())
UNIT = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss in a MB


def peak() -> str:
    """Say how much memory this process has used at most."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / UNIT:,.0f} MB at most since the start"


# %% [markdown]
# ## Simulate
#
# We simulate counts of 400 genes in 12 types. The largest type has ten times the cells of the smallest. In each type,
# one gene in twenty differs from the mean of all types.

# %%
GENES, TYPES = 400, 12
random = np.random.default_rng(0)
change = np.where(random.random((TYPES, GENES)) < 0.05, random.normal(0, 2, (TYPES, GENES)), 0)
rates = np.exp(random.normal(-3.6, 1.2, GENES) + change)
share = np.geomspace(10, 1, TYPES) / np.geomspace(10, 1, TYPES).sum()


def simulate(n: int, first: int) -> ad.AnnData:
    """Return the counts of `n` cells."""
    codes = random.choice(TYPES, n, p=share)
    blocks = [random.poisson(rates[some]).astype(np.float32) for some in np.array_split(codes, max(n // 10_000, 1))]
    types = pd.Categorical.from_codes(codes, [f"type {i + 1:02}" for i in range(TYPES)])
    obs = pd.DataFrame({"cell_type": types}, index=[f"cell{first + i}" for i in range(n)])
    return ad.AnnData(sp.vstack([sp.csr_matrix(block) for block in blocks]), obs=obs)


simulate(60_000, 0).write_zarr(folder / "atlas.zarr")
simulate(20_000, 60_000).write_zarr(folder / "new.zarr")
print(peak())

# %% [markdown]
# ## Fit
#
# The coordinates are written into the store, next to the cells. With an .h5ad file, a new file replaces the old one. If
# the fit fails, the store is as it was. `checkpoint="fit.ckpt"` lets a fit that was stopped continue.

# %%
model = tt.fit(folder / "atlas.zarr", label="cell_type")
model.save(folder / "atlas.tt")
print(peak())
model

# %% [markdown]
# Read only what the map needs. The matrix stays on disk.


# %%
def read_map(path: Path) -> ad.AnnData:
    """Return `obs` and the map of a store, without its matrix."""
    store = zarr.open_group(path, mode="r")
    return ad.AnnData(obs=ad.io.read_elem(store["obs"]), obsm={"X_tt": store["obsm/X_tt"][:]})


tt.pl.embedding(read_map(folder / "atlas.zarr"), color="cell_type")

# %% [markdown]
# A cell has about 20 counts here, so many cells cannot be told from cells of another type. They lie in between. These
# types were simulated: the map shows that a fit from disk works, and nothing about biology.
#
# ## Predict new cells

# %%
tt.predict(folder / "new.zarr", model)
print(peak())
new = read_map(folder / "new.zarr")
pd.crosstab(new.obs["cell_type"], new.obs["tt_label"])

# %% [markdown]
# Most types get their name. Two do not: many cells of "type 08" and of "type 12" are called "type 02". This simulation
# made these three much alike, and the 20 counts of a cell hold too little of the genes that differ. Then the more
# common type is the better guess. Even the best rule that there is, which knows the true rates of all genes, names most
# cells of "type 12" wrongly, and many of "type 08".
#
# ## Several processes: shards
#
# `tt.transform` only embeds. Several processes (or jobs of a cluster) can each take a part of a large store. In a
# terminal, each job is one line. If a job was killed, start it again:
#
# ```bash
# tripletomics transform atlas.zarr --model atlas.tt --shard 1/4
# tripletomics transform atlas.zarr --model atlas.tt --shard 2/4
# ```
#
# The same in Python, here one part after the other, into a key of its own. Rows that are not embedded yet are NaN.

# %%
for i in (1, 2, 3, 4):
    transform_shard(folder / "atlas.zarr", folder / "atlas.tt", f"{i}/4", key_added="X_parts", progress=False)
store = zarr.open_group(folder / "atlas.zarr", mode="r")
np.array_equal(store["obsm/X_parts"][:], store["obsm/X_tt"][:])

# %% [markdown]
# `predict --shard i/N` does the same for labels, and `predict` without `--shard` then joins the parts.
#
# ## Limits
#
# - A matrix that is stored by genes (CSC) is read whole. `tripletomics convert atlas.h5ad atlas.zarr` writes it by
#   rows.
# - `tt.evaluate` and `tt.compare` need the cells in memory: give them a subsample.
# - [Large datasets](../scale.md) has times and memory up to a million cells, and a plan for 100 million.
