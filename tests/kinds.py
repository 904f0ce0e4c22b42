"""Cells of seven known types and of a new one, made, and what `predict` writes about them."""

import anndata as ad
import numpy as np
import scipy.sparse as sp

import tripletomics as tt

OBS = ["tt_label", "tt_confidence", "tt_novelty", "tt_label_set"]
KNOWN, NEW = "abcdefg", "h"
FAST = {"steps": 30, "progress": False}
BRIEF = {"steps": 5, "progress": False}  # where two fits are compared, however good


def cells(n, seed, types=KNOWN, genes=150):
    """Poisson counts of types that differ in all genes, each cell with a depth of its own."""
    shape, random = np.random.default_rng(0), np.random.default_rng(seed)
    rates = np.exp(shape.normal(-0.3, 0.7, genes) + 0.8 * shape.normal(size=(8, genes)))
    kinds = random.permutation(np.arange(n) % len(types))
    rate = rates[["abcdefgh".index(name) for name in types]][kinds] * random.uniform(0.5, 2, size=(n, 1))
    adata = ad.AnnData(sp.csr_matrix(random.poisson(rate).astype(np.float32)))
    adata.obs["kind"] = np.array(list(types))[kinds]
    adata.obs_names = [f"cell {i} of {seed}" for i in range(n)]
    adata.var_names = [f"Gene{i}" for i in range(genes)]
    return adata


def predicted(adata, model, **given):
    adata = adata.copy()
    tt.predict(adata, model, **given)
    return adata


def values(adata, prefix="tt"):
    return [adata.obs[name.replace("tt", prefix, 1)].to_numpy() for name in OBS]


def assert_same(one, other):
    for found, expected in zip(values(one), values(other), strict=True):
        if found.dtype == float:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        else:
            assert found.tolist() == expected.tolist()
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_allclose(one.obsm[key], other.obsm[key], atol=1e-4)


def state(adata):
    return [str(adata.obs.dtypes.to_dict()), sorted(adata.obsm), sorted(adata.uns), adata.X.sum()]
