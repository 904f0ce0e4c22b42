# %% [markdown]
# # New cells on a published map
#
# A paper shows a UMAP. Its .h5ad file has the coordinates of the cells, but not the program that made them. You want
# your own cells on this figure, and nothing on it may move. At the end of this page you will have
#
# - your cells on the published map, with types and with a figure;
# - a number that says how far their coordinates may be off, and a table with this number for each type;
# - a map that shows what happens to cells of a type that the map does not have.
#
# The page takes six minutes to read. The fits take half a minute.

# %%
import numpy as np
import scanpy as sc

import tripletomics as tt

# %% [markdown]
# ## The published map
#
# 525 of the 700 blood cells of scanpy stand for the cells of the paper. We make the map that the paper would show, and
# keep only the coordinates. The other 175 cells stand for your new cells.

# %%
cells = tt.datasets.pbmc()
new = np.arange(cells.n_obs) % 4 == 0
paper, query = cells[~new].copy(), cells[new].copy()

sc.pp.pca(paper)
sc.pp.neighbors(paper)
sc.tl.umap(paper)
paper.uns["cell_type_colors"] = sc.pl.palettes.default_20[:10]  # the colours of the paper
sc.pl.embedding(paper, basis="X_umap", color="cell_type", frameon=False)

# %% [markdown]
# With a real paper you have this figure already, and the cell above is one line: `paper =
# ad.read_h5ad("paper.h5ad")`. Look for the key of the coordinates in `paper.obsm`. If they are in a table, give its
# path: `map="coordinates.csv"`.
#
# ## Adopt the map
#
# `map="X_umap"` tells `tt.fit` to learn these coordinates, and to make no map of its own. A fifth of the cells is held
# out. Their true coordinates are known, so they show how good the coordinates of new cells will be.

# %%
model = tt.fit(paper, "cell_type", map="X_umap", hold_out=0.2)
model

# %% [markdown]
# ## How far are learned coordinates off?
#
# The summary compares the learned coordinates of the held-out cells with their true ones, in percent of the width of
# the map. Three rows are compared:
#
# - **tt**: the learned coordinates.
# - **mean of 15 nearest**: the mean coordinates of the 15 nearest training cells. This needs no learning, so learned
#   coordinates should be closer to the true ones. They are, here. In `right_type` (see below) they are no better: the
#   two tie.
# - **permuted coordinates**: the same network, trained on coordinates that were dealt to the cells at random. This is
#   what chance gives. If the learned coordinates are no better, the summary says that this map cannot be learned from
#   these genes.
#
# Here is the same as a table. `median_percent` is the median distance, and one cell in ten exceeds `p90_percent`.
# `right_type` is the share of cells that lie among cells of their own type. `right_type_true` is the same at the true
# coordinates, because the published map itself does not separate all types.

# %%
columns = ["cells", "median_percent", "p90_percent", "right_type", "right_type_true"]
errors = model.map_errors.set_index(["method", "cell_type"])[columns].round(2)
errors.xs("all", level="cell_type")

# %% [markdown]
# For the learned coordinates, type by type:

# %%
errors.loc["tt"].drop("all").sort_values("cells", ascending=False)

# %% [markdown]
# The figure shows the same. On the left are the true coordinates of the held-out cells, on the right the learned ones.
# The training cells have the same coordinates on both.

# %%
tt.pl.compare(paper, "cell_type", bases=["X_umap", "X_tt"])

# %% [markdown]
# Held-out cells should lie on the islands of their own colour, at about the same coordinates as on the left. Do not
# compare single cells: in UMAP itself, the coordinates of a cell are partly chance.
#
# ## Put your cells on it

# %%
tt.predict(query, model)
tt.pl.mapping(query, model, title="New cells on the published map")

# %% [markdown]
# The published map is pale and keeps its axes and colours: its 420 training cells are drawn, without the 105 of the 525
# cells that were held out. Your cells are bright. Crosses are cells that are like no
# type of the map. `query.obsm["X_tt"]` has the coordinates, and `query.obs` the predictions.
#
# Here the true types of the new cells are known, so we can count:

# %%
named = query.obs["tt_label"] != "unassigned"
right = query.obs["tt_label"].astype(str) == query.obs["cell_type"].astype(str)
print(f"{named.sum()} of {query.n_obs} cells are named, and {right[named].mean():.0%} of these names are right.")
print(f"Name and place on the map agree for {query.obs['tt_agrees'].mean():.0%} of the cells.")

# %% [markdown]
# The label of a cell does not come from its coordinates on the map, but from the 32-D metric space. Where label and
# coordinates contradict each other, `tt_agrees` is False: believe neither.
#
# The summary of the fit also says how many of the label sets hold the true type. They should be 90 %. They are
# calibrated on few cells here, so this share varies by 5 to 10 points, and sometimes more, from fit to fit.
#
# ## A type that the map does not have
#
# Every cell gets coordinates on a map, also a cell that does not belong there. We take the B cells out of the paper,
# and map the B cells among the new cells.

# %%
without = paper[paper.obs["cell_type"] != "CD19+ B"].copy()
del without.uns["cell_type_colors"]
smaller = tt.fit(without, "cell_type", map="X_umap")
strangers = query[query.obs["cell_type"] == "CD19+ B"].copy()
tt.predict(strangers, smaller)
tt.pl.mapping(strangers, smaller, title="B cells on a map without B cells")

# %%
print(f"unassigned: {(strangers.obs['tt_label'] == 'unassigned').mean():.0%} of {strangers.n_obs} B cells")
strangers.obs[["tt_label", "tt_confidence", "tt_novelty"]].head()

# %% [markdown]
# So read `tt_label` and `tt_novelty` together with the coordinates. Coordinates on the map alone are no evidence.
#
# ## Where to go from here
#
# - [Published map](../published-map.md): what `map` takes, what is written, how far learned coordinates are off on
#   larger data, and what they cannot do.
# - [A reference and new cells](new_cells.ipynb): how far to believe the predictions.
# - [A map that grows](../growing-map.md): how to add new types to a map whose old cells stay.
