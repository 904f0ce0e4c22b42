"""Cells to try the package on. They come with packages that are installed; nothing is downloaded."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["pbmc", "pbmc_two_donors"]


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


def pbmc_two_donors() -> AnnData:
    """Return 3,400 blood cells of two donors with 749 genes and 7 types, whose labels come from other genes.

    Each type is told by a few marker genes, such as CD8A. The matrix lacks these genes. So a map has to find the types
    in what the other genes say.

    Returns
    -------
    AnnData
        `X`: counts, sparse, float32. `obs["donor"]`: "pbmc3k" (2,700 cells) or "pbmc68k" (700 cells of another donor
        and another run). `obs["cell_type"]`: the type by marker genes, or "Unknown" where these say nothing or disagree
        (1,876 cells). In "pbmc68k" CD14 was not measured, so it has no CD14 monocytes. `obs["sorted_type"]`: for
        "pbmc68k", the sorted population that the RNA of a cell is most like; else empty. There is no embedding.

    Notes
    -----
    A count of one marker gene may be wrong, so no method can name all cells as the markers do. T cells are the hardest:
    few molecules of CD4 are caught.

    References
    ----------
    Zheng et al., Nature Communications 2017, and "3k PBMCs from a healthy donor", both by 10x Genomics. The files are
    those of desc 2.1.1 (MIT) and `scanpy.datasets.pbmc68k_reduced`; `data/README.md` has the rules.

    Examples
    --------
    >>> adata = tt.datasets.pbmc_two_donors()
    >>> adata.shape
    (3400, 749)
    """
    import anndata

    with resources.as_file(resources.files("tripletomics") / "data" / "pbmc_two_donors.h5ad") as path:
        return anndata.read_h5ad(path)
