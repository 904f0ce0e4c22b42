import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import tripletomics as tt


@pytest.fixture
def cells():
    random = np.random.default_rng(0)
    y = np.arange(200) % 4
    x = random.poisson(random.gamma(1, 1, size=(4, 150))[y]).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(x))
    adata.obs["cell_type"] = np.array(list("abcd"))[y]
    return adata


def test_components_are_those_of_a_fit_with_the_same_cells_held_out(cells):
    fitted = cells.copy()
    tt.fit(fitted, "cell_type", hold_out=0.3, steps=5, progress=False)
    tt.pca(cells, "cell_type", hold_out=0.3)
    np.testing.assert_array_equal(cells.obsm["X_tt_pca"], fitted.obsm["X_tt_pca"])
    assert cells.obs["tt_split"].tolist() == fitted.obs["tt_split"].tolist()


def test_sparse_equals_dense_and_the_seed_decides(cells):
    dense = ad.AnnData(cells.X.toarray(), obs=cells.obs.copy())
    for table in (cells, dense):
        tt.pca(table, hold_out=0.2, seed=3)
    np.testing.assert_array_equal(cells.obsm["X_tt_pca"], dense.obsm["X_tt_pca"])
    before = cells.obs["tt_split"].tolist()
    tt.pca(cells, hold_out=0.2, seed=4)
    assert cells.obs["tt_split"].tolist() != before


def test_held_out_cells_change_nothing(cells):
    cells.obs["spared"] = np.arange(200) % 5 == 0
    other = cells.copy()
    x = other.X.toarray()
    x[other.obs["spared"]] = x[other.obs["spared"]][::-1] * 2
    other.X = x
    for table in (cells, other):
        tt.pca(table, hold_out="spared", key_added="X_new")
    train = (cells.obs["X_new_split"] == "train").to_numpy()
    assert train.sum() == 160
    np.testing.assert_array_equal(cells.obsm["X_new_pca"][train], other.obsm["X_new_pca"][train])
    assert (cells.obsm["X_new_pca"][~train] != other.obsm["X_new_pca"][~train]).any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hold_out": 1.5}, ValueError, "hold_out=1.5 is neither a fraction"),
        ({"hold_out": 0.999, "label": None}, ValueError, "leaves"),
        ({"label": "celltype"}, KeyError, "Did you mean 'cell_type'?"),
        ({"layer": "raw"}, KeyError, "layer='raw'"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"key_added": "tt"}, ValueError, "key_added='tt'"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(cells, options, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        tt.pca(cells if "layer" in options or len(options) == 1 else cells[:1].copy(), **options)
    assert not list(cells.obsm)
    assert "tt_split" not in cells.obs


def test_no_table_in_memory_is_refused():
    with pytest.raises(TypeError):
        tt.pca("cells.h5ad")


def test_the_split_of_a_map_is_left_alone(cells):
    tt.fit(cells, "cell_type", steps=2, progress=False)
    before = cells.copy()
    with pytest.raises(
        ValueError, match=r"were held out from the map .* pass hold_out='tt_split' to hold out the same"
    ):
        tt.pca(cells, hold_out=0.3, seed=4)
    assert cells.obs.equals(before.obs)
    tt.pca(cells, hold_out="tt_split")
    assert cells.obs["tt_split"].tolist() == before.obs["tt_split"].tolist()
