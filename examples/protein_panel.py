# %% [markdown]
# # A protein panel: cells of a tissue image
#
# 11,201 cells, nine markers, phenotypes gated by hand. A panel is no count matrix: nothing is normalised, every marker
# is brought to unit variance. Cells that no gate claimed are "Unknown": they are placed and teach the map no type.

# %%
from pathlib import Path

import anndata as ad

import tripletomics as tt

here = Path(__file__) if "__file__" in globals() else Path("here").resolve()
data = next(folder / "data" for folder in here.parents if (folder / "data").is_dir())
adata = ad.read_h5ad(data / "tissue_protein.h5ad")

# %% [markdown]
# A fifth of the cells is kept out of everything: scaling, training, the reference of the score. What counts is the row
# of the held-out cells, and how far it is from that of the permuted labels. (The gates use the same nine markers, so a
# high score is expected here; see `data/README.md`.)

# %%
model = tt.fit(adata, label="phenotype", hold_out=0.2)
print(model.summary())

# %%
tt.pl.embedding(adata, color="phenotype")
