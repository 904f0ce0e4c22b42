"""Cells to try the package on. They come with packages that are installed; nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["pbmc"]


def pbmc() -> AnnData:
    """Return 700 blood cells with 765 genes and 10 types, which come with scanpy.

    Returns
    -------
    AnnData
        `X`: log-normalised values, sparse, float32. `obs["cell_type"]`: the name of the sorted population that the RNA
        of a cell is most like. So the labels depend on the RNA. There is no embedding and no ranking of genes.

    References
    ----------
    Zheng et al., Nature Communications 2017 (68k PBMC). The subset is `scanpy.datasets.pbmc68k_reduced`.

    Examples
    --------
    >>> adata = tt.datasets.pbmc()
    >>> adata.shape
    (700, 765)
    """
    import anndata
    import scanpy

    source = scanpy.datasets.pbmc68k_reduced()
    adata = anndata.AnnData(source.raw.X.copy(), source.obs[[]].copy(), source.raw.var[[]].copy())
    adata.obs["cell_type"] = source.obs["bulk_labels"].astype(str).astype("category")
    return adata
