"""Trees of cell types above the labels of the datasets: by hand where the names say what they are."""

from __future__ import annotations

import anndata as ad
import common
import numpy as np
from scipy.cluster.hierarchy import linkage

BLOOD = {
    "Naive CD4 T": "CD4 T", "Memory CD4 T": "CD4 T", "CD4 T": "T", "CD8 T": "T", "T": "lymphoid", "NK": "lymphoid",
    "B": "lymphoid", "DC": "myeloid", "monocyte": "myeloid", "CD14+ Mono": "monocyte",
}  # fmt: skip
BY_HAND = {
    "pbmc3k": BLOOD | {"FCGR3A+ Mono": "monocyte"},
    "cite_cbmc_rna": BLOOD | {
        "CD16+ Mono": "monocyte", "pDCs": "DCs", "DC": "DCs", "DCs": "myeloid", "Eryth": "erythroid and Mk",
        "Mk": "erythroid and Mk", "T/Mono doublets": "doublets", "Multiplets": "doublets",
    },
    "paul15": {
        "1Ery": "late Ery", "2Ery": "late Ery", "3Ery": "middle Ery", "4Ery": "middle Ery", "5Ery": "early Ery",
        "6Ery": "early Ery", "late Ery": "Ery", "middle Ery": "Ery", "early Ery": "Ery", "Ery": "erythroid and Mk",
        "7MEP": "erythroid and Mk", "8Mk": "erythroid and Mk", "9GMP": "GMP", "10GMP": "GMP", "GMP": "myeloid",
        "12Baso": "Baso", "13Baso": "Baso", "Baso": "granulocyte", "14Mo": "Mo", "15Mo": "Mo", "Mo": "myeloid",
        "16Neu": "Neu", "17Neu": "Neu", "Neu": "granulocyte", "18Eos": "granulocyte", "granulocyte": "myeloid",
        "11DC": "myeloid",
    },
}  # fmt: skip


def tree_of(name: str, adata: ad.AnnData, labels: np.ndarray, train: np.ndarray) -> dict[str, str]:
    """Return the parent of each type of a dataset: by hand or, where the names say nothing, from training cells."""
    if name in BY_HAND:
        return BY_HAND[name]
    return parents_by_centroids(common.usual(adata, train, counts=True)[1][train], labels[train])


def parents_by_centroids(pcs: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    """Merge the nearest types (average linkage of centroids), and leave out the last merge, which is the root."""
    types = sorted(set(labels))
    merges = linkage(np.stack([pcs[labels == one].mean(axis=0) for one in types]), "average")[:, :2].astype(int)
    names, parents = list(types), {}
    for number, pair in enumerate(merges[:-1], start=1):
        names.append(f"group {number}")
        parents |= {names[child]: names[-1] for child in pair}
    return parents
