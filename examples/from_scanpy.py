# %% [markdown]
# # Your .h5ad file from scanpy
#
# You have an .h5ad file with cells of known types. At the end of this page you will have
#
# - a map of your cells that uses their types, and a score that says how well it works for cells it never saw;
# - a figure for a paper, as a PDF file;
# - clusters, by scanpy, from the space behind the map;
# - a saved model, which names the types of new cells.
#
# It takes ten minutes with your own file. Three comments begin with `# yours`: change the code below them, and run
# the rest as it is. The page uses 700 blood cells that come with scanpy, so that it runs anywhere.

# %%
import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import tripletomics as tt

# %% [markdown]
# ## Read your cells

# %%
# yours: adata = ad.read_h5ad("my_cells.h5ad")
adata = tt.datasets.pbmc()
# yours: the column of adata.obs that has the types
label = "cell_type"
adata

# %%
adata.obs[label].value_counts()

# %% [markdown]
# Check what your file has before you go on:
#
# | in your file | what to do |
# |---|---|
# | `adata.X` has counts | Nothing. `tt.fit` recognises counts, and normalises and logs them itself. |
# | `adata.X` has log-normalised values | Nothing. |
# | `adata.X` was scaled with `sc.pp.scale` | Go back to the values before: often `adata = adata.raw.to_adata()`. |
# | the counts are in a layer | `tt.fit(adata, label, layer="counts")` |
# | cells without a type | Nothing, if they have no value or are called "Unknown". Another name: `unlabelled=["?"]`. |
# | a type with one or two cells | It is kept. But no score can say much about it. |
# | cells of several donors | Hold out whole donors: `hold_out="donor"` (see below). |
# | highly variable genes, marked by scanpy | `tt.fit` takes these. Without marks, it chooses genes itself. |
#
# The last 100 cells of this example stand for a sample that you measure later. Nothing before the end of this page
# sees them.

# %%
# yours: later = ad.read_h5ad("more_cells.h5ad") takes the place of both lines
later = adata[600:].copy()
adata = adata[:600].copy()

# %% [markdown]
# ## Fit

# %%
model = tt.fit(adata, label)
model

# %% [markdown]
# What happened:
#
# - A tenth of the cells of each type was **held out**. The choice of genes, the scaling and the training of the network
#   did not see them.
# - A small network learned a **metric space** of 32 dimensions, in which cells of one type lie close together, and a
#   **map** of two dimensions.
# - A short second fit used **permuted labels**: the types, shuffled among the cells. It shows what chance gives.
#
# How to read the table:
#
# - **macro-F1** is between 0 and 1. Each held-out cell is given the type of most of its 15 nearest training cells. F1
#   says how often that is right for a type, and macro-F1 is the mean over types, so that rare types count as much as
#   common ones.
# - **Compare the first two rows.** The score of held-out cells should be far above that of permuted labels. The third
#   row, of training cells, proves nothing: their labels were learned.
# - **The number of held-out cells decides how exact the score is.** With about 60 cells, as here, it is off by up to
#   0.1. `hold_out=0.3` gives a more exact score, but leaves fewer cells for training.
# - The types of these cells were found from the same RNA, and subtypes of T cells are hard to tell apart. So a score
#   below 1 does not mean that the map failed. `tt.pl.confusion` shows which types are taken for which.

# %%
tt.pl.confusion(adata, label)

# %% [markdown]
# ## Look at the map
#
# Held-out cells have a dark edge and full colour. Trust the map where held-out cells lie among training cells of their
# own colour. The colours are those of your other scanpy figures (`adata.uns["cell_type_colors"]`). You can also colour
# by a gene: CST3 is high in monocytes and dendritic cells.

# %%
tt.pl.embedding(adata, color=[label, "CST3"])

# %% [markdown]
# Can you trust the neighbours of a cell? On the next map, the neighbours of a dark cell are not its neighbours in the
# data (in principal components). [Read your map](../read-your-map.md) says more about distances and gaps.

# %%
tt.pl.embedding(adata, color=label, distortion=True)

# %% [markdown]
# ## A figure for a paper
#
# `save=` writes the figure with 300 dpi, and with text that a drawing program can edit. The ending of the name is the
# format: `.pdf`, `.svg` or `.png`.

# %%
tt.pl.embedding(adata, color=label, title="Blood cells", save="map.pdf")

# %% [markdown]
# ## What if labels mean nothing?
#
# A network can learn any labels of its training cells. To see what that looks like, we shuffle the labels and fit
# again.

# %%
shuffled = adata.copy()
shuffled.obs[label] = np.random.default_rng(0).permutation(adata.obs[label])
tt.fit(shuffled, label)

# %%
tt.pl.embedding(shuffled, color=label)

# %% [markdown]
# In the metric space the training cells score high again: the network has learned labels without meaning. The
# held-out cells score no better than chance, and the map says **"no signal"**. If your own map says so:
#
# 1. Check that the labels belong to these cells (`adata.obs_names`), and that `adata.X` has the right values.
# 2. Check that the genes that tell the types apart are in the file. Does `sc.pl.dotplot` show them?
# 3. If the labels come from another measurement (a treatment, a donor), "no signal" can be the answer: this RNA does
#    not tell the labels apart.
# 4. If it says **"too few held-out cells to tell"**, hold out more: `hold_out=0.3`.
#
# ## Whole donors
#
# Random held-out cells come from the same donors as the training cells, so their score is optimistic. If `adata.obs`
# has a column of donors (or batches, or patients), hold out whole donors. The score is then that of donors whom the
# model never saw.
#
# ```python
# model = tt.fit(adata, label, hold_out="donor")
# ```
#
# ## Go on with scanpy
#
# The 32-D metric space takes the place of the principal components: for neighbours, clusters, PAGA, and so on.
# (Leiden clusters need `pip install igraph`.)

# %%
sc.pp.neighbors(adata, use_rep="X_tt_metric")
sc.tl.leiden(adata, flavor="igraph", n_iterations=2, resolution=0.5)
pd.crosstab(adata.obs["leiden"], adata.obs[label])

# %%
tt.pl.embedding(adata, color="leiden")

# %% [markdown]
# Labels were used to make this space. So these clusters are no independent evidence that the types exist.
#
# ## Compare with another map
#
# Any key of `obsm` can be scored on the same held-out cells, such as scanpy's principal components. These were fitted
# to all cells, also to the held-out ones, so their score is a little too good.

# %%
sc.pp.pca(adata)
table = tt.evaluate(adata, label, basis=["X_tt", "X_tt_metric", "X_pca"])
print(table.attrs["summary"])

# %% [markdown]
# With so few cells, a difference of a few hundredths may be chance. `tt.compare` fits UMAP, t-SNE and others on the
# same training cells, several times, and draws all maps: [honest evaluation](../honest-evaluation.md).
#
# ## Save

# %%
model.save("my_map.tt")
adata.write_h5ad("my_cells_mapped.h5ad")

model = tt.load("my_map.tt")
adata = ad.read_h5ad("my_cells_mapped.h5ad")

# %% [markdown]
# The map, the split, the scores and the colours are in the .h5ad file. The file of the model has no expression values
# and no names of cells. You can send it to a colleague.
#
# ## Name the types of new cells
#
# A new cell gets coordinates on the same map, its most probable type with a confidence, and a set of all types that
# are credible. A cell that is like no known type is "unassigned".

# %%
tt.predict(later, model)
later.obs[["tt_label", "tt_confidence", "tt_novelty", "tt_label_set"]].head()

# %%
tt.pl.mapping(later, model)

# %% [markdown]
# ## Where to go from here
#
# - [A reference and new cells](new_cells.ipynb): how far to believe these predictions.
# - [Levels of labels](levels.ipynb): coarse and fine types.
# - [Few labels, or none](few_labels.ipynb).
# - [Choose settings](../choose-settings.md): what `structure`, `spread` and others do to the map.
