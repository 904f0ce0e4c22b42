# %% [markdown]
# # Few labelled cells, or none
#
# You know the type of a few cells only, or of none. This page fits both cases on blood cells whose types are known, so
# that you can see what few labels cost. At the end of this page you will have
#
# - a map and clusters of cells without any label;
# - a model that was fitted with five labelled cells of each type, and a count of the cells that it names correctly;
# - a table that says what more labels would bring;
# - the maps with no label, few labels and all labels, side by side.
#
# The page takes five minutes to read. The fits take a minute.

# %%
import pandas as pd
import scanpy as sc

import tripletomics as tt

adata = tt.datasets.pbmc()
order = adata.obs_names.to_series().sample(frac=1, random_state=0)
test = adata[order[:200]].copy()  # no fit below sees these cells
adata = adata[order[200:]].copy()

# %% [markdown]
# ## No label at all
#
# Without `label`, the encoder learns from the cells alone. It sees each cell in two views, in which different genes are
# hidden. It learns to put the two views near each other, and away from other cells.

# %%
none = tt.fit(adata, key_added="X_none")
none

# %% [markdown]
# **How to see that it worked.** There is no type, so there is no F1. The score is *recall*: how many of a held-out
# cell's nearest neighbours in the data are also its neighbours in the metric space and on the map. Next to it stands
# the score of permuted cells. If the two are alike, the data hold nothing that the model could learn.
#
# Go on as after a PCA, with clusters from the metric space. Here the types are known, so we can see which types each
# cluster has.

# %%
sc.pp.neighbors(adata, use_rep="X_none_metric")
sc.tl.leiden(adata, flavor="igraph", n_iterations=2, resolution=0.5)  # needs: pip install igraph
pd.crosstab(adata.obs["cell_type"], adata.obs["leiden"])

# %% [markdown]
# ## Five labelled cells of each type
#
# All other cells are "Unknown"; missing values and "" mean the same. They take part in the fit: from them, the metric
# space learns how cells differ. The labelled cells say which differences have a name.
#
# **Set labelled cells apart yourself, and hold none out** (`hold_out=0`). The default holds out a tenth of the labelled
# cells, here one of each type. That is too few to tell anything. Besides, the score of a map is a vote of the 15
# nearest labelled cells, and only four of these can be of the right type. A figure may then say "no signal" even where
# the predictions are good. Here the 200 test cells are set apart.


# %%
def label_some(n: int) -> pd.Series:
    """Return the types of `n` cells of each type, or of all if there are fewer; all other cells are "Unknown"."""
    shuffled = adata.obs["cell_type"].sample(frac=1, random_state=0)
    chosen = shuffled.groupby(shuffled, observed=True).head(n).index
    return adata.obs["cell_type"].astype(str).where(adata.obs_names.isin(chosen), "Unknown")


adata.obs["five"] = label_some(5)
model = tt.fit(adata, label="five", hold_out=0, key_added="X_five")

# %% [markdown]
# **How to see that it worked.** Count how many test cells get their type. `reject=0` turns "unassigned" off.

# %%
tt.predict(test, model, reject=0, key_added="X_five")
pd.crosstab(test.obs["cell_type"], test.obs["X_five_label"])

# %% [markdown]
# Most confusions are between types that are much alike: subtypes of T cells, and dendritic cells and monocytes.
#
# ## What helps
#
# We fit three more models: on the 50 labelled cells alone, with up to 20 labelled cells of each type, and with all
# labels.

# %%
adata.obs["twenty"], adata.obs["all"] = label_some(20), adata.obs["cell_type"]
labelled = adata[adata.obs["five"] != "Unknown"].copy()
models = {
    "5 per type": model,
    "5 per type, without the other cells": tt.fit(labelled, "five", hold_out=0, progress=False),
}
models["20 per type"] = tt.fit(adata, "twenty", hold_out=0, progress=False)
models["all"] = tt.fit(adata, "all", hold_out=0, progress=False)
right = {}
for labels, fitted in models.items():
    tt.predict(test, fitted, reject=0, progress=False)
    right[labels] = (test.obs["tt_label"].astype(str) == test.obs["cell_type"].astype(str)).mean()
pd.Series(right, name="share of 200 test cells that get their type").rename_axis("labels").to_frame().round(2)

# %% [markdown]
# These are 200 cells, drawn once: the standard error of each number is about 0.03. So a small difference in this table
# means nothing. Here the cells without a label do not help to name types. [Few labels](../few-labels.md) has larger
# datasets and more draws. There the cells without a label help, and `self_training=True` helps on one of two datasets.
#
# The last map is that of the model with all labels. On all three maps are the 200 test cells, which no fit has seen.
# Compare how far types are apart. B cells (2), the one CD34+ cell (3), and most monocytes (1) and dendritic cells (10)
# lie apart even without a label: the RNA alone tells them apart. Subtypes of T cells (4, 5, 6, 8, 9) overlap on all
# three maps. So labels change this map little. They are needed to give names to the islands.

# %%
tt.transform(test, none, key_added="X_none", progress=False)
maps = {"map without labels": "X_none", "map with 5 labels": "X_five", "map with all labels": "X_tt"}
for name, key in maps.items():
    test.obsm[name] = test.obsm[key]  # the axes have this name
tt.pl.compare(test, color="cell_type", bases=list(maps))

# %% [markdown]
# ## Limits
#
# - A type without a single labelled cell cannot be named. Its cells get the name of another type, or "unassigned".
# - One wrong label out of five does much harm. Look at the labelled cells one by one.
# - With few labels, confidence is calibrated on few cells. Use it to rank cells, not as a probability.
# - More labels help most. First label cells of those types that are taken for each other.
