# %% [markdown]
# # Two modalities of the same cells
#
# RNA and proteins (CITE-seq), or RNA and open chromatin (multiome): one metric space, one map, and predictions for
# cells of which only one of the two was measured.
#
# **What is simulated here.** No small dataset with both comes with the packages that you have installed. So we split
# the genes of 700 blood cells in two. The genes of proteins that lie on the surface of cells stand for a panel of
# proteins. Their values are real, but they are RNA. Measured proteins are usually less sparse, and say more about a
# type than the RNA of the same gene.

# %%
import pandas as pd

import tripletomics as tt

adata = tt.datasets.pbmc()
surface = [
    "CD2", "CD3D", "CD3E", "CD3G", "CD4", "CD7", "CD8A", "CD8B", "CD27", "CD28", "CD33", "CD37", "CD40LG", "CD47",
    "CD52", "CD53", "CD63", "CD74", "CD79A", "CD79B", "CD160", "CD300A", "MS4A1", "FCGR3A", "FCER1A", "IL7R",
    "CCR7", "KLRB1", "KLRC1", "KLRG1", "ITGA4", "ITGB2", "PTPRC", "HLA-DRA", "HLA-DRB1", "TNFRSF4",
]  # fmt: skip
rna = adata[:, ~adata.var_names.isin(surface)].copy()
protein = adata[:, surface].copy()
rna, new_rna = rna[:500].copy(), rna[500:].copy()
protein, new_protein = protein[:500].copy(), protein[500:].copy()
print(rna.shape, protein.shape, new_protein.shape)

# %% [markdown]
# ## Fit
#
# Cells are matched by their names. A cell may be missing in one of the two. Each modality has an encoder of its own,
# and both end in one metric space. The labels may be in either dataset.

# %%
model = tt.fit({"rna": rna, "protein": protein}, label="cell_type")
model

# %% [markdown]
# **How to see that it worked.** `model.summary()` says how types are predicted from both, and from each alone. The line
# "Same cell" asks a harder question: do we find the proteins of a held-out cell if we look for them with its RNA? The
# score of chance stands next to it. Here both halves are RNA of the same cell, so this is easier than with measured
# proteins.

# %%
print(model.summary())

# %%
tt.pl.embedding(rna, color=["cell_type", "LYZ"])

# %% [markdown]
# Both datasets got the same coordinates: those of all that was measured of a cell.

# %%
(rna.obsm["X_tt"] == protein.obsm["X_tt"]).all()

# %% [markdown]
# ## New cells with one modality
#
# The last 200 cells stand for a new sample. We name their types from the proteins alone, from the RNA alone, and from
# both. Cells that lie too far from all known types are "unassigned", and count as wrong here.

# %%
samples = {"protein": new_protein, "rna": new_rna, "both": {"rna": new_rna, "protein": new_protein}}
right, types = {}, {}
for measured, cells in samples.items():
    tt.predict(cells, model, progress=False)
    obs = new_rna.obs if measured == "rna" else new_protein.obs
    right[measured] = (obs["tt_label"].astype(str) == obs["cell_type"].astype(str)).mean()
    sets = obs["tt_label_set"].astype(str)
    types[measured] = sets.str.count(r"\|").add(sets != "").mean()
pd.DataFrame({"share of 200 new cells that get their type": right, "types in a label set, mean": types}).round(2)

# %% [markdown]
# The standard error of each share is about 0.03. So the difference between "rna" and "both" says little. The second
# column says how many types a label set holds. With the proteins alone, more types are credible. Do not compare the
# sets of "rna" and "both": each kind was calibrated apart, on some 50 cells. Those of "both" are larger than they had
# to be, for they hold the true type of more than 90 % of the held-out cells (see the summary).
#
# Where do the cells lie when only the proteins are known? The cells of the fit are grey. All new cells are of known
# types, so about 5 % should be "unassigned". Here there are more, because the limit was calibrated on only about 50
# cells. In a fit of thousands of cells, the share is nearer to 5 %.

# %%
tt.predict(new_protein, model)
tt.pl.mapping(new_protein, model)

# %% [markdown]
# ## Which cells are these?
#
# `search` finds training cells across modalities: we look for cells by the proteins of three new cells.

# %%
found = model.search(protein=new_protein[:3].X, k=5)
pd.DataFrame(found.labels, index=new_protein.obs["cell_type"][:3])

# %% [markdown]
# ## Limits
#
# - A panel of few proteins cannot tell every type from every other. The predictions say so: their label sets hold more
#   types.
# - Two modalities of different cells (from two experiments) are not paired. This fit is not for them.
# - [Two modalities](../two-modalities.md) has real CITE-seq data, scores next to other methods, and limits.
