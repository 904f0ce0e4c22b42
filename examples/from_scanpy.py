# %% [markdown]
# # My .h5ad file from scanpy: what now?
#
# You have cells with known types, prepared with scanpy. This notebook makes a map of them and says how well it
# works for cells that it never saw. It then goes on with scanpy, and names the types of new cells.

# %%
from pathlib import Path

import anndata as ad
import pandas as pd
import scanpy as sc

import tripletomics as tt

here = Path(__file__) if "__file__" in globals() else Path("here").resolve()
data = next(folder / "data" for folder in here.parents if (folder / "data").is_dir())
adata = ad.read_h5ad(data / "pbmc.h5ad")

# %% [markdown]
# The last 100 cells stand for a sample that comes later. Nothing below uses their types.

# %%
later = adata[600:].copy()
adata = adata[:600].copy()

# %% [markdown]
# ## Prepare the cells with scanpy
#
# The values of this file are normalised and logged already. Yours may be counts: `tt.fit` normalises them itself.
# Do not scale the genes (`sc.pp.scale`). If scanpy marks highly variable genes, `tt.fit` takes these.

# %%
sc.pp.filter_genes(adata, min_cells=3)
sc.pp.highly_variable_genes(adata, n_top_genes=500)
sc.pp.pca(adata)

# %% [markdown]
# ## Fit
#
# A tenth of each type is held out, and a short fit on permuted labels shows what chance gives. Only the first two rows
# tell you how good the map is. For your own data, better hold out whole donors: `hold_out="donor"`.

# %%
model = tt.fit(adata, label="cell_type")
model

# %% [markdown]
# ## Look at the map
#
# Held-out cells have a dark edge. Colours of types are those of your other scanpy figures, and they are kept in
# `adata.uns`. On the second map, dark cells have neighbours that are not their neighbours in the data.

# %%
tt.pl.embedding(adata, color=["cell_type", "CST3"])

# %%
tt.pl.embedding(adata, color="cell_type", distortion=True)

# %%
tt.pl.history(model)

# %% [markdown]
# ## Go on with scanpy
#
# The 32-D metric space takes the place of the principal components.

# %%
sc.pp.neighbors(adata, use_rep="X_tt_metric")
sc.tl.leiden(adata, flavor="igraph", n_iterations=2, resolution=0.5)  # needs: pip install igraph
pd.crosstab(adata.obs["leiden"], adata.obs["cell_type"])

# %%
sc.pl.embedding(adata, basis="X_tt", color="leiden")

# %% [markdown]
# ## Name the types of new cells
#
# A new cell gets coordinates on the same map, its most probable type with a confidence, and a set of all types that
# are credible. Cells that are like no known type are "unassigned".

# %%
tt.predict(later, model)
later.obs[["tt_label", "tt_confidence", "tt_novelty", "tt_label_set"]].head()

# %%
tt.pl.mapping(later, model)

# %% [markdown]
# ## Compare it with another map
#
# Any key of `obsm` can be scored on the same held-out cells. scanpy's components were fitted to all cells, so their
# scores are a little too good.

# %%
table = tt.evaluate(adata, label="cell_type", basis=["X_tt", "X_pca"])
print(table.attrs["summary"])

# %% [markdown]
# ## Save

# %%
model.save("pbmc.tt")
adata.write_h5ad("pbmc-mapped.h5ad")
tt.load("pbmc.tt")
