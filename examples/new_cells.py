# %% [markdown]
# # A reference and new cells
#
# You have a reference: cells with known types. Later you measure new cells. What are they, and how sure is that? At
# the end of this page you will have
#
# - new cells on the map of the reference, with a type and a confidence for each;
# - a check on a whole run that was held out: how far can you believe confidences and label sets?
# - a list of cells of unknown types, with a limit on how many of them are on the list by mistake;
# - predictions for cells in which some genes are missing.
#
# The page takes eight minutes to read. The fits take half a minute.

# %%
import numpy as np
import pandas as pd

import tripletomics as tt

# %% [markdown]
# ## Reference and new cells
#
# The 700 blood cells of scanpy were measured in eight runs. The name of each cell ends in the number of its run. Six
# runs are the reference, and the last two are the new cells. We know the types of the new cells, and use them only to
# count what is right.

# %%
cells = tt.datasets.pbmc()
cells.obs["run"] = cells.obs_names.str.rsplit("-").str[-1]
late = cells.obs["run"].isin(["7", "8"])
reference, query = cells[~late].copy(), cells[late].copy()
truth = query.obs.pop("cell_type").astype(str)

# %% [markdown]
# ## Fit a reference for new cells
#
# Two arguments matter if the new cells come from another run, donor or laboratory:
#
# - `batch="run"` brings cells of one type from different runs together. It also calibrates predictions on whole runs,
#   each left out in turn. This takes longer.
# - `hold_out="run"` holds out whole runs (about a tenth of the cells). So the scores are those of a run that the
#   model never saw. That is what you want to know.

# %%
model = tt.fit(reference, "cell_type", batch="run", hold_out="run")
model

# %% [markdown]
# The last lines say how good predictions of a new run should be. *Macro-F1* is the mean over types of how well each is
# named. The *calibration error* is the mean difference between a confidence and how often it is right. *Label sets* are
# explained below.
#
# ## Name the new cells

# %%
tt.predict(query, model)
query.obs[["tt_label", "tt_confidence", "tt_label_set", "tt_novelty"]].head(8)

# %%
tt.pl.mapping(query, model)

# %% [markdown]
# The reference is grey, and the new cells have the colour of their predicted type. `tt_novelty` says how unlike all
# types a cell is: about the share of the cells of known types that lie nearer to these types. A cell with more than
# 0.95 is "unassigned", and drawn as a cross: it lies farther from all types than 95 % of the cells of known types.
# Its confidence stays that of the best type. `reject=0` rejects no cell, and `reject=0.2` one in five of the known
# types.
#
# `tt.transform(query, model)` writes the coordinates alone.
#
# ## How far to believe the confidence
#
# The true types of the new cells are known here. If the confidence is 0.9, are 90 % of the names right?

# %%
right = query.obs["tt_label"].astype(str) == truth
named = query.obs["tt_label"] != "unassigned"
bins = pd.cut(query.obs["tt_confidence"], [0, 0.6, 0.8, 0.95, 1])
pd.DataFrame({"confidence": query.obs["tt_confidence"], "right": right})[named].groupby(bins, observed=True).agg(
    cells=("right", "size"), mean_confidence=("confidence", "mean"), share_right=("right", "mean")
).round(2)

# %% [markdown]
# The two columns should be about equal in each row. With few cells in a row, a difference of 0.1 or 0.2 is chance.
#
# ## Label sets
#
# Subtypes of T cells overlap. For such cells a single name is often wrong, and a set of two names is an honest
# answer. `tt_label_set` holds the true type of 90 % of the cells (`coverage=0.9`), if the new cells are like those of
# the reference.

# %%
sets = query.obs["tt_label_set"].astype(str)
size = sets.where(sets == "", sets.str.count(r"\|").add(1).astype(str)).replace("", "0")
holds = np.array([true in names.split(" | ") for true, names in zip(truth, sets, strict=True)])
print(f"{holds.mean():.0%} of the sets hold the true type.")
pd.DataFrame({"cells": 1, "hold the truth": holds}).groupby(size.rename("names in the set").to_numpy()).agg(
    {"cells": "size", "hold the truth": "mean"}
).round(2)

# %% [markdown]
# A set may also be empty: then no type is credible. And a set may have one name although the confidence is low, as
# that of the second cell in the table above. A type is in the set if its probability is above a threshold, which is
# the same for all cells. For that cell only one type is above it, and the rest of the probability is spread over many
# types. So 90 % is a promise about all cells together, not about each one: for a single cell look at the confidence,
# too. The threshold is calibrated on few cells here, so the share that is kept varies by 5 to 10 points from fit to
# fit.
#
# ## Unknown types
#
# What if the new cells have a type that the reference does not have? We take the B cells out of the reference, and ask
# again. `batch="run"` matters here, too: predictions are then calibrated on all cells of the reference, not only on a
# tenth of them. So smaller groups can be found.
#
# `fdr=0.1` writes a list of novel cells (`tt_novel`), of which on average at most a tenth is of a known type.

# %%
without = reference[reference.obs["cell_type"] != "CD19+ B"].copy()
smaller = tt.fit(without, "cell_type", batch="run", hold_out=0)
novel = query.copy()
tt.predict(novel, smaller, fdr=0.1)
novel.obs["tt_novel"].groupby(truth).agg(cells="size", on_the_list="sum")

# %%
novel.obs["true type"] = truth
tt.pl.embedding(novel, color=["true type", "tt_novelty"])

# %% [markdown]
# Left are the true types of the new cells, right is their novelty for a model that knows no B cell: compare the B cells
# on both. Read the list with care:
#
# - An empty list does not say that no cell is novel. A new type that is much like a known one is not found.
# - Small groups of novel cells are not found: `novel.uns["tt_mapping"]["shortest_list"]` is the smallest number that
#   a list can have.
# - Doublets and dying cells may be on the list, too. They are unlike the known types.
#
# ## Genes that are missing
#
# In new cells, some genes of the reference are often missing. `tt.predict` does not guess what to do:

# %%
panel = query[:, np.random.default_rng(0).random(query.n_vars) < 0.6].copy()
try:
    tt.predict(panel, model)
except ValueError as error:
    print(error)

# %% [markdown]
# `missing="impute"` treats missing genes as unknown. That is right for a smaller panel. `missing="zero"` says that
# they are not expressed. With either, expect more errors: here 40 % of the genes are missing.

# %%
tt.predict(panel, model, missing="impute")
fewer = panel.obs["tt_label"].astype(str) == truth
print(f"Right names: {right.mean():.0%} with all genes, {fewer.mean():.0%} with 60 % of them.")
print(f"Unassigned: {(~named).mean():.0%} and {(panel.obs['tt_label'] == 'unassigned').mean():.0%}.")

# %% [markdown]
# ## Where to go from here
#
# - [New cells](../new-cells.md): what each number promises, and what it does not; groups of cells; which label of one
#   dataset is which of another; scales and missing values.
# - [New cells on a published map](published_map.ipynb).
# - [A map that grows](../growing-map.md): add the new cells, and new types, to the reference.
