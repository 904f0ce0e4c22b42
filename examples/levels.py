# %% [markdown]
# # Coarse and fine labels
#
# One study calls a cell "CD8 T", another one only "T cell". Both are right, on different levels. At the end of this
# page you will have
#
# - a fit that uses names of all levels, also of cells that are known only coarsely;
# - a map, and a tree that shows down to which level you can trust names;
# - predictions that say "CD4 T" where the finer type is not certain.
#
# The page takes six minutes to read. The fits take half a minute.

# %%
import numpy as np
import pandas as pd

import tripletomics as tt

blood = tt.datasets.pbmc()
blood.obs["cell_type"].value_counts()

# %% [markdown]
# ## Say which name lies below which
#
# The names of all levels make a tree. You write the parent of each name that has one. "CD19+ B", "CD34+" and "CD56+
# NK" have none: they stand at the top.

# %%
parents = {
    "CD4+/CD25 T Reg": "CD4 T",
    "CD4+/CD45RO+ Memory": "CD4 T",
    "CD4+/CD45RA+/CD25- Naive T": "CD4 T",
    "CD8+ Cytotoxic T": "CD8 T",
    "CD8+/CD45RA+ Naive Cytotoxic": "CD8 T",
    "CD4 T": "T cell",
    "CD8 T": "T cell",
    "CD14+ Monocyte": "Myeloid",
    "Dendritic": "Myeloid",
}

# %% [markdown]
# The same tree can come from a table (`parents="parents.csv"`), from an ontology (`parents="cl.obo"`), or from
# columns, one for each level: `label=["class", "subclass", "cell_type"]`.
#
# ## Cells that are known coarsely
#
# Real data are mixed. We make such data: half of the T cells and half of the myeloid cells lose their type, and keep
# only the name above it. We remember the truth to compare with it later.

# %%
truth = blood.obs["cell_type"].astype(str)
forget = (np.random.default_rng(0).random(blood.n_obs) < 0.5) & truth.isin(parents)
blood.obs["known"] = truth.where(~forget, truth.map(parents))
pd.crosstab(truth, blood.obs["known"].isin(set(parents.values())).map({True: "coarse", False: "fine"}))

# %% [markdown]
# ## Fit
#
# Without `parents`, "CD4 T" would be one more type, and the fit would push these cells away from the types below "CD4
# T". That is wrong: they belong to them. With `parents`, a cell called "CD4 T" comes close to the types below this
# name, and goes away from all others.

# %%
model = tt.fit(blood, "known", parents=parents, hold_out=0.2)
model

# %% [markdown]
# The summary has a score for each level. The number in brackets is what chance gives. For chance, the names are
# shuffled only among cells with the same name on the level above, such as the types of T cells among T cells. So a
# model that can only tell T cells from other cells scores no better than chance on the types of T cells.
#
# - **"hierarchical"** counts a name together with all names above it. So "CD8 T" for a cell that is "CD4 T" is wrong in
#   one name, and right in "T cell". Its chance is high, because chance knows the names above.
# - **The label sets** have about one name on average. But a name such as "CD4 T" stands for all types below it. So
#   they stand for more types than they have names: here nearly two.
#
# ## The map

# %%
tt.pl.embedding(blood, "known", legend_loc="right margin")

# %% [markdown]
# Each name at the top of the tree has a hue, and its types are shades of it. Cells that are known coarsely are paler.
#
# ## To which level can names be trusted?

# %%
tt.pl.tree(model)

# %% [markdown]
# "training cells" have the name or one below it. `F1` says how well held-out cells get this name or one below it (1 is
# best), and the number of these cells is in brackets. A name with fewer than five held-out cells has a dash.
#
# A rule: choose the F1 that you need, such as 0.8. Follow a branch from its top down, as long as each name has it. The
# last such name is the one to trust. A dash is no F1, so stop there, too. With 0.8 you go down to the two types of
# "Myeloid" and to "CD4+/CD25 T Reg", but from "CD8 T" you go back to "T cell". An F1 of twenty cells or fewer is off by
# 0.1 or more: near the limit, hold out more cells before you decide.
#
# ## Predictions use all levels
#
# The model writes the deepest name with a probability of at least one half. We look at the held-out cells, which it
# never saw.

# %%
held = blood[blood.obs["tt_split"] == "held-out"].copy()
tt.predict(held, model)
held.obs["truth"] = truth[held.obs_names]
columns = ["truth", "known", "tt_label", "tt_confidence", "tt_label_set"]
coarse = held.obs["tt_label"].isin(set(parents.values())).to_numpy()
pd.concat([held.obs[coarse].head(5), held.obs[~coarse].head(5)])[columns]

# %% [markdown]
# The first five cells got a name above the types: no type below it has a probability of one half, but all of these
# types together have. `tt_label_set` has the fewest names that stand for all types that are credible. "CD4 T" in it
# means: one of the types below "CD4 T".
#
# Are the names right? A name is right if it is the true type, or a name above it. We compare with the truth that we
# took away.

# %%
above = {name: {name} for name in truth.unique()}
for name, names in above.items():
    while name in parents:
        name = parents[name]
        names.add(name)
right = np.array([label in above[true] for label, true in zip(held.obs["tt_label"], held.obs["truth"], strict=True)])
named = (held.obs["tt_label"] != "unassigned").to_numpy()
kind = np.where(coarse, "got a name above the types", "got the name of a type")
kind = np.where(named, kind, "unassigned")
pd.DataFrame({"cells": 1, "right": np.where(named, right, np.nan)}).groupby(kind).agg(
    {"cells": "sum", "right": "mean"}
).round(2)

# %% [markdown]
# ## Where to go from here
#
# - [Types on several levels](../levels.md): columns, ontologies, several columns at once, how sets grow along the
#   tree, and scores.
# - [Few labels](few_labels.ipynb): what to do if most cells have no name at all.
# - [A reference and new cells](new_cells.ipynb).
