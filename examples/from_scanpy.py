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
# It takes ten minutes with your own file. Five comments begin with `# yours`: change the code below the first four,
# and below the fifth if you have a second file. Run the rest as it is. The page uses 700 blood cells that come with
# scanpy, so that it runs anywhere.

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
# yours: a gene of adata.var_names, to colour the map by
gene = "CST3"
# yours: the title of the figure
title = "Blood cells"
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
# | batches, whose cells form islands of their own | `tt.fit(adata, label, batch="batch")` brings them together. |
# | highly variable genes, marked by scanpy | `tt.fit` takes these. Without marks, it chooses genes itself. |
#
# At the end of this page, the model names the types of new cells. Here a seventh of the cells, drawn at random, stands
# for a sample that you measure later, and no fit sees it. Do you have no second file? Then this works with your cells,
# too. Or leave out this cell and the section "Name the types of new cells": the fit then has all your cells.

# %%
# yours: later = ad.read_h5ad("more_cells.h5ad") takes the place of both lines
aside = np.random.default_rng(0).random(adata.n_obs) < 1 / 7
later, adata = adata[aside].copy(), adata[~aside].copy()

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
# - **The number of held-out cells decides how exact the score is.** With about 60 cells, as here, it is off by 0.1 or
#   more. `hold_out=0.3` gives a more exact score, and leaves fewer cells for training.
# - **A small type can hardly win a vote of 15 cells.** A type with fewer than about 8 training cells enters the mean
#   with an F1 near 0, even where the model knows it. With such types, look at the macro-F1 of the predictions, below
#   the table.
# - **Label sets** are explained in [A reference and new cells](new_cells.ipynb). The summary says how many of them hold
#   the true type. They are calibrated on few cells, so this share varies by 5 to 10 points from fit to fit.
# - The types of these cells were found from the same RNA, and some of them overlap. So a score below 1 does not mean
#   that the map failed. `tt.pl.confusion` shows which types are taken for which.

# %%
tt.pl.confusion(adata, label)

# %% [markdown]
# Most errors here are among subtypes of T cells, and among monocytes and dendritic cells: these types are alike. But a
# part of the CD8+ cytotoxic T cells is called "Dendritic", which is no near miss. The row has a handful of cells, so
# one or two of them make such a share. With more cells, such a row would be a reason to look at these cells.
#
# ## Look at the map
#
# Held-out cells have a dark edge and full colour. Trust the map where held-out cells lie among training cells of
# their own colour. The colours are those of your other scanpy figures (`adata.uns["cell_type_colors"]`). A gene may
# take the place of the column: CST3, here, is high in monocytes and dendritic cells.

# %%
tt.pl.embedding(adata, color=[label, gene])

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
tt.pl.embedding(adata, color=label, title=title, save="map.pdf")

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
# held-out cells score no better than chance, and the map says **"no signal"**. The words cover the middle of the map
# on purpose: there is nothing to read in it. If your own map says so:
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
# Do the cells of several batches form islands of their own on the map? Add `batch="batch"`, the column of the batches:
# it brings cells of one type from different batches together.
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
# to all cells, also to the held-out ones, so their score is a little too good. To be fair, principal components need
# normalised and logged values. So counts are normalised and logged first, in a copy. (If your counts are in a layer,
# `plain.X` has to hold them: `plain.X = plain.layers["counts"]`.)

# %%
plain = adata.copy()
if abs(plain.X - plain.X.astype(int)).max() == 0:  # whole numbers: counts
    sc.pp.normalize_total(plain)
    sc.pp.log1p(plain)
sc.pp.pca(plain)
table = tt.evaluate(plain, label, basis=["X_tt", "X_tt_metric", "X_pca"])
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
# are credible (empty, if none is). `tt_novelty` says how unlike all known types the cell is, from 0 to 1. Above 0.95,
# it is "unassigned".

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
