# %% [markdown]
# # A protein panel: cells of a tissue image
#
# A slice of lung tissue was stained for nine proteins. Each cell has the intensity of each protein, a phenotype, and a
# position in the image. At the end of this page you will have
#
# - a map of the cells by their proteins;
# - the same cells drawn in the tissue, in the same colours;
# - phenotypes for the cells that had none, and an idea of how far to believe them.
#
# The page takes five minutes to read. The fit takes half a minute.
#
# The file of the cells has 1 MB. It is not in the package that pip installs, but in the folder `data` of the repository
# of tripletomics. Run the page in a copy of the repository, or put `tissue_protein.h5ad` into your own folder.

# %%
from pathlib import Path

import anndata as ad
import pandas as pd

import tripletomics as tt

name = "tissue_protein.h5ad"
here = Path(__file__) if "__file__" in globals() else Path("here").resolve()
found = [path for folder in here.parents for path in (folder / name, folder / "data" / name) if path.exists()]
if not found:
    raise FileNotFoundError(f"{name} is in the folder data of tripletomics' repository. Copy it to {Path.cwd()}.")
tissue = ad.read_h5ad(found[0])
tissue.obsm["spatial"] = tissue.obs[["X_centroid", "Y_centroid"]].to_numpy()
tissue

# %%
tissue.obs["phenotype"].value_counts()

# %% [markdown]
# `tissue.X` has log(1 + intensity). These values are no counts. `tt.fit` recognises this: it does not normalise, but
# scales each protein to unit variance.
#
# ## What the labels are
#
# A person chose a threshold for each protein (a *gate*), and the gates gave the phenotypes. So **the labels were made
# from the same nine proteins**. A high score is expected and proves little: it says that the map kept what the gates
# said. To learn whether a map finds biology, you need labels from another source, such as RNA of the same cells.
#
# The cells that passed no gate are "Unknown". `tt.fit` takes this word as *no label*: these cells get coordinates on
# the map, but the model learns no type from them.
#
# ## Fit

# %%
model = tt.fit(tissue, label="phenotype", hold_out=0.2)
model

# %% [markdown]
# Look at the row of the held-out cells, and how far it is above that of the permuted labels. All cells come from one
# image. Cells of another patient may differ more: with several images, use `hold_out="imageid"`.
#
# ## The map

# The map has the phenotypes, and the intensity of two proteins. `vmin="p2"` begins the colour scale at the second
# percentile: 2 % of the cells lie below it, and have the lowest colour. Otherwise a few cells whose ECAD is 0 would
# take most of the scale.

# %%
tt.pl.embedding(tissue, color=["phenotype", "CD45", "ECAD"], vmin="p2")

# %% [markdown]
# ## The tissue
#
# A key of `obsm` with "spatial" in its name is drawn as an image: y points down. The model did not see these positions,
# but only the proteins. So you can ask where the groups of the map lie in the tissue.

# %%
tt.pl.embedding(tissue, color="phenotype", basis="spatial", split=None, size=3)

# %% [markdown]
# ## Which proteins make a phenotype?
#
# `tt.explain` says which columns of the matrix set a phenotype apart from the one that is most like it. The figure
# calls them genes. Here they are proteins.

# %%
proteins = tt.explain(tissue, model, "phenotype")
tt.pl.genes(proteins)

# %% [markdown]
# Compare this with the gates that you know. If a protein pulls a phenotype that should not depend on it, look at the
# raw images: intensities of neighbouring cells spill over.
#
# ## Cells that passed no gate
#
# Which phenotype would these cells have? We ask only about those that were held out, because a model is too sure about
# cells that it has seen.

# %%
unknown = tissue[(tissue.obs["phenotype"] == "Unknown") & (tissue.obs["tt_split"] == "held-out")].copy()
tt.predict(unknown, model)
unknown.obs["tt_label"].value_counts()

# %%
sure = unknown.obs["tt_confidence"] > 0.9
pd.crosstab(unknown.obs["tt_label"], sure.map({True: "confidence above 0.9", False: "lower"}).rename(""))

# %% [markdown]
# Be careful here. A cell may have passed no gate because it lies just below one: then a phenotype is plausible. Or it
# is of a type for which the panel has no protein: then every phenotype is wrong. The confidence does not show this,
# because it assumes that the cell is of one of the known types. `tt_novelty` and "unassigned" say that a cell is unlike
# the others. Nothing replaces a look at the image.
#
# ## Where to go from here
#
# - [A reference and new cells](new_cells.ipynb): confidence, label sets, novelty.
# - [Two modalities](two_modalities.ipynb): RNA and proteins of the same cells.
# - [Missing values](../new-cells.md#missing-values): proteins that were not measured in every cell.
