from pathlib import Path

import anndata as ad
import numpy as np

import tripletomics as tt


def test_pbmc_is_the_file_of_the_data_folder():
    """Which `data/make.py` writes by a way of its own."""
    found, stored = tt.datasets.pbmc(), ad.read_h5ad(Path(__file__).parents[1] / "data" / "pbmc.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), stored.X.toarray())
    assert list(found.obs["cell_type"]) == list(stored.obs["cell_type"])
    assert list(found.var_names) == list(stored.var_names)
    assert list(found.obs_names) == list(stored.obs_names)
    assert list(found.obs) == ["cell_type"]
    assert not found.obsm
    assert not found.uns


def test_two_donors_come_with_the_package_and_without_the_genes_of_their_labels():
    adata = tt.datasets.pbmc_two_donors()
    assert adata.shape == (3400, 749)
    assert dict(adata.obs["donor"].value_counts()) == {"pbmc3k": 2700, "pbmc68k": 700}
    assert adata.obs["cell_type"].nunique() == 8
    assert (adata.obs["cell_type"] == "Unknown").sum() == 1876
    assert not {"CD3D", "CD4", "CD8A", "CD79A", "MS4A1", "NKG7", "LYZ", "CD14", "FCGR3A", "FCER1A"} & set(
        adata.var_names
    )
    assert (adata.X.data % 1 == 0).all()  # counts
    assert adata.X.data.min() > 0
    assert set(adata.obs.loc[adata.obs["donor"] == "pbmc3k", "sorted_type"]) == {""}
    assert not adata.obsm
