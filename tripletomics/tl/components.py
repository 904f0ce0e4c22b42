"""`pca`: principal components in which the cells they were fitted on lie as new cells do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tripletomics.arguments import checking_names
from tripletomics.labels import UNLABELLED

if TYPE_CHECKING:
    from anndata import AnnData
else:
    AnnData = object


@checking_names
def pca(
    adata: AnnData,
    label: str | None = None,
    *,
    hold_out: float | str = 0.1,
    layer: str | None = None,
    counts: bool | Literal["auto"] = "auto",
    unlabelled: Sequence[str] = UNLABELLED,
    seed: int = 0,
    key_added: str = "X_tt",
) -> None:
    """Fit principal components on the training cells, and give every cell the coordinates that it has as a new cell.

    In usual components, the cells that they were fitted on lie further out than new cells. With these components,
    neighbours of new cells among training cells, and maps of both, can be trusted.

    Parameters
    ----------
    adata
        Annotated cells in memory.
    label
        Column of `obs` with the cell types. It is used only to hold out cells of every type.
    hold_out
        Cells that nothing is fitted on: as for `fit`.
    layer
        Layer to use in place of `.X`.
    counts
        Whether the values are counts, which are normalised and log-transformed first; "auto" decides.
    unlabelled
        Names in the column that mean unlabelled: as for `fit`.
    seed
        Seed of everything random.
    key_added
        Prefix of the key in `obsm`.

    Returns
    -------
    None. Written to `adata`:

    ``obsm["X_tt_pca"]``
        Principal components, float32 (cells, 50) or fewer, of the genes and the scaling that `fit` takes.
    ``obs["tt_split"]``
        Categorical, "train" or "held-out" (``obs["<key_added>_split"]`` with another `key_added`).
    ``uns["X_tt_pca"]``
        Hashes of the training cells and of the values, by which ``fit(use_rep="X_tt_pca")`` with another `key_added`
        knows that these components have not seen the held-out cells.

    Raises
    ------
    KeyError
        If there is no such column or layer.
    TypeError
        If `adata` is not an AnnData in memory, or holds no numbers.
    ValueError
        If a value cannot be used, or a map with this key held out other cells. Nothing is written then.

    References
    ----------
    That components of new cells shrink: Lee, Zou & Wright 2010, Ann. Stat. 38(6).

    Examples
    --------
    >>> tt.pca(adata, "cell_type", key_added="X_own")
    >>> adata.obsm["X_own_pca"].shape == (adata.n_obs, 50)
    True
    >>> adata.obs["X_own_split"].cat.categories.tolist()
    ['train', 'held-out']
    """
    import numpy as np

    from tripletomics import keys, labels, pp
    from tripletomics.folds import subsample_for_features
    from tripletomics.problem import fit_features

    pp.check_key(key_added, adata)
    pp.check_whole("seed", seed, 0, 2**32 - 1)
    pp.check_anndata(adata)
    table = pp.open_table(adata, layer, () if label is None else [label], unlabelled, ())
    codes = np.full(adata.n_obs, -1)
    if label is not None:
        codes, _ = labels.encode(pp.column(adata, label, "label"), unlabelled)
    held_out = pp.split(adata, hold_out, codes, seed)
    if (~held_out).sum() < 2:
        raise ValueError(f"hold_out={hold_out!r} leaves {(~held_out).sum()} training cells: two or more are needed.")
    column, split = keys.split_key(key_added), pp.split_names(held_out)
    if key_added in adata.obsm and column in adata.obs and (adata.obs[column].astype(str) != split.astype(str)).any():
        raise ValueError(
            f"obs[{column!r}] marks the cells that were held out from the map in obsm[{key_added!r}], and this "
            f"call would hold out others: pass hold_out={column!r} to hold out the same, or another key_added."
        )
    fitted = subsample_for_features(~held_out, seed)
    x, genes = pp.choose(table, fitted, counts)
    adata.obsm[keys.pca_key(key_added)] = fit_features(x[fitted], genes, seed).pcs(x, None, fitted)
    adata.obs[column] = split
    pp.note_training(adata, keys.pca_key(key_added), held_out)
