import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import tripletomics as tt

FEW = {"steps": 10, "progress": False}


def test_everything_survives_h5ad(fitted, tmp_path):
    model, adata = fitted
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad")
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_array_equal(read.obsm[key], adata.obsm[key])
    assert (read.obs["tt_split"] == adata.obs["tt_split"]).all()
    assert read.uns["X_tt"]["scores"] == model.scores
    assert dict(read.uns["X_tt"]["settings"]) == model.settings
    for stage, columns in model.history.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(read.uns["X_tt"]["history"][stage][name], values)


@pytest.fixture(scope="module")
def usual(made):
    """The places of a CSR matrix."""
    adata = made.copy()
    tt.fit(adata, label="kind", **FEW)
    return adata.obsm


@pytest.mark.parametrize(
    "kind", [sp.csc_matrix, sp.csr_array, lambda x: x.toarray(), lambda x: x.toarray().astype(np.float64),
             lambda x: x.toarray().astype(np.int64)],
    ids=["csc", "csr_array", "dense", "float64", "int64"],
)  # fmt: skip
def test_kinds_of_matrix_give_the_same_map(counts, usual, kind):
    counts.X = kind(counts.X)
    tt.fit(counts, label="kind", **FEW)
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_allclose(counts.obsm[key], usual[key], atol=1e-4)
