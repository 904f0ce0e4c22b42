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
