"""Methods to compare with: each is fitted on training cells alone, and query cells are placed where it puts them.

`METHODS` lists them by the names that ``tt.compare`` takes. The libraries are imported inside: one of them takes
seconds, and nobody needs all. The same cells and seed give the same places, and no global generator is moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tripletomics.baselines import linear, maps, nets
from tripletomics.baselines.cells import Cells, Places, prepare

__all__ = ["METHODS", "Cells", "Method", "Places", "prepare"]


@dataclass(frozen=True)
class Method:
    """How to place cells, and what a paper says about it.

    Attributes
    ----------
    place
        From cells and a seed to the places of training and query cells on a map, in a metric space, or in both.
    title
        Its name for people.
    uses_labels
        Whether the labels of the training cells change anything.
    package
        Distribution whose version is reported.
    citation
        Authors, year and place.
    sentence
        How it was run, settings included.
    """

    place: Callable[[Cells, int], Places]
    title: str
    uses_labels: bool
    package: str
    citation: str
    sentence: str


_UMAP = "McInnes, Healy & Melville 2018, arXiv:1802.03426"
_UMAP_SETTINGS = f"n_neighbors {maps.N_NEIGHBORS}, min_dist {maps.MIN_DIST:g}"
_PCS = "50 principal components"
_NEW = f"{_PCS}, those of the training cells as they would be for new cells"
_TSNE = "van der Maaten & Hinton 2008, J. Mach. Learn. Res. 9; Poličar, Stražar & Zupan 2024, J. Stat. Softw. 109(3)"
_TSNE_SETTINGS = f"perplexity {maps.PERPLEXITY:g}, query cells with {maps.QUERY_PERPLEXITY:g}"

METHODS: dict[str, Method] = {
    "pca2": Method(
        linear.pca2,
        "PCA",
        False,
        "scikit-learn",
        "Pearson 1901, Philos. Mag. 2(11)",
        "the first two principal components",
    ),
    "pca50": Method(
        linear.pca50, "PCA, 50 components", False, "scikit-learn", "Pearson 1901, Philos. Mag. 2(11)", _PCS
    ),
    "lda": Method(
        linear.lda,
        "LDA",
        True,
        "scikit-learn",
        "Fisher 1936, Ann. Eugen. 7(2)",
        f"linear discriminant analysis on {_PCS}, all discriminants as metric space and the first two as map (of two "
        "types, the one discriminant and the first principal component)",
    ),
    "nca": Method(
        linear.nca,
        "NCA",
        True,
        "scikit-learn",
        "Goldberger, Hinton, Roweis & Salakhutdinov 2004, NIPS 17",
        f"neighbourhood components analysis to two dimensions on {_PCS}, of up to {linear.NCA_CELLS:,} training cells "
        "drawn within types",
    ),
    "umap": Method(maps.umap, "UMAP", False, "umap-learn", _UMAP, f"UMAP ({_UMAP_SETTINGS}) on {_PCS}"),
    "umap_supervised": Method(
        maps.umap_supervised,
        "supervised UMAP",
        True,
        "umap-learn",
        _UMAP,
        f"UMAP with the training cells' labels as target ({_UMAP_SETTINGS}, target_weight 0.5) on {_PCS}",
    ),
    "tsne": Method(
        maps.tsne,
        "t-SNE",
        False,
        "openTSNE",
        _TSNE,
        f"t-SNE ({_TSNE_SETTINGS}) on {_PCS}",
    ),
    "umap_crossfit": Method(
        maps.umap_crossfit,
        "UMAP, cross-fitted PCs",
        False,
        "umap-learn",
        _UMAP,
        f"UMAP ({_UMAP_SETTINGS}) on {_NEW}",
    ),
    "tsne_crossfit": Method(
        maps.tsne_crossfit, "t-SNE, cross-fitted PCs", False, "openTSNE", _TSNE, f"t-SNE ({_TSNE_SETTINGS}) on {_NEW}"
    ),
    "pacmap": Method(
        maps.pacmap,
        "PaCMAP",
        False,
        "pacmap",
        "Wang, Huang, Rudin & Shaposhnik 2021, J. Mach. Learn. Res. 22(201)",
        f"PaCMAP (10 neighbours) on {_PCS}",
    ),
    "mlp": Method(
        nets.mlp,
        "MLP + cross-entropy",
        True,
        "scikit-learn",
        "Rumelhart, Hinton & Williams 1986, Nature 323",
        f"a classifier with cross-entropy on {_PCS} (hidden layers of {nets.HIDDEN[0]} and {nets.HIDDEN[1]} units, "
        f"Adam, {nets.EPOCHS} epochs, L2 penalty {nets.WEIGHT_DECAY:g}); its last hidden layer is the metric space",
    ),
    "scanvi": Method(
        nets.scanvi,
        "scANVI",
        True,
        "scvi-tools",
        "Xu, Lopez, Mehlman, Regier, Jordan & Yosef 2021, Mol. Syst. Biol. 17, e9620",
        "scANVI on counts with the defaults of scvi-tools, from a trained scVI model",
    ),
    "parametric_umap": Method(
        maps.parametric_umap,
        "parametric UMAP",
        False,
        "umap-learn",
        "Sainburg, McInnes & Gentner 2021, Neural Comput. 33(11)",
        f"parametric UMAP ({_UMAP_SETTINGS}) on {_PCS}",
    ),
}
