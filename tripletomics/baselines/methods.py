"""The methods by name, with what a paper says about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tripletomics.baselines import linear, neighbour_maps, neural
from tripletomics.baselines.inputs import Cells, Coordinates
from tripletomics.knn import NEIGHBOURS


@dataclass(frozen=True)
class Method:
    """How to embed cells, and what a paper says about it.

    Attributes
    ----------
    embed
        Function of cells and a seed that returns the coordinates of training and query cells on a map, in a metric
        space, or in both.
    title
        Its name in figures and tables.
    uses_labels
        Whether the labels of the training cells change anything.
    package
        Python package whose version is reported.
    citation
        Authors, year and journal.
    sentence
        How it was run, settings included.
    """

    embed: Callable[[Cells, int], Coordinates]
    title: str
    uses_labels: bool
    package: str
    citation: str
    sentence: str


_PEARSON = "Pearson 1901, Philos. Mag. 2(11)"
_UMAP = "McInnes, Healy & Melville 2018, arXiv:1802.03426"
_UMAP_SETTINGS = f"n_neighbors {NEIGHBOURS}, min_dist {neighbour_maps.MIN_DIST:g}"
_PCS = "50 principal components"
_NEW = f"{_PCS}, where training cells have those that they would have as new cells"
_TSNE = "van der Maaten & Hinton 2008, J. Mach. Learn. Res. 9; Poličar, Stražar & Zupan 2024, J. Stat. Softw. 109(3)"
_TSNE_SETTINGS = f"perplexity {neighbour_maps.PERPLEXITY:g}, query cells with {neighbour_maps.QUERY_PERPLEXITY:g}"

OTHERS = {"tt": "tripletomics", "pca": "PCA"}  # titles of methods that are none to compare with
METHODS: dict[str, Method] = {
    "pca2": Method(linear.pca2, "PCA", False, "scikit-learn", _PEARSON, "the first two principal components"),
    "pca50": Method(linear.pca50, "PCA, 50 components", False, "scikit-learn", _PEARSON, _PCS),
    "lda": Method(
        linear.lda, "LDA", True, "scikit-learn", "Fisher 1936, Ann. Eugen. 7(2)",
        f"linear discriminant analysis on {_PCS}, all discriminants as metric space and the first two as map (for two "
        "types, the one discriminant and the first principal component)",
    ),
    "nca": Method(
        linear.nca, "NCA", True, "scikit-learn", "Goldberger, Hinton, Roweis & Salakhutdinov 2004, NIPS 17",
        f"neighbourhood components analysis to two dimensions on {_PCS}, of up to {linear.NCA_CELLS:,} training cells "
        "drawn within types",
    ),
    "umap": Method(neighbour_maps.umap, "UMAP", False, "umap-learn", _UMAP, f"UMAP ({_UMAP_SETTINGS}) on {_PCS}"),
    "umap_supervised": Method(
        neighbour_maps.umap_supervised, "supervised UMAP", True, "umap-learn", _UMAP,
        f"UMAP with the training cells' labels as target ({_UMAP_SETTINGS}, target_weight 0.5) on {_PCS}",
    ),
    "tsne": Method(neighbour_maps.tsne, "t-SNE", False, "openTSNE", _TSNE, f"t-SNE ({_TSNE_SETTINGS}) on {_PCS}"),
    "umap_crossfit": Method(
        neighbour_maps.umap_crossfit, "UMAP, cross-fitted PCs", False, "umap-learn", _UMAP,
        f"UMAP ({_UMAP_SETTINGS}) on {_NEW}",
    ),
    "tsne_crossfit": Method(
        neighbour_maps.tsne_crossfit, "t-SNE, cross-fitted PCs", False, "openTSNE", _TSNE,
        f"t-SNE ({_TSNE_SETTINGS}) on {_NEW}",
    ),
    "pacmap": Method(
        neighbour_maps.pacmap, "PaCMAP", False, "pacmap",
        "Wang, Huang, Rudin & Shaposhnik 2021, J. Mach. Learn. Res. 22(201)", f"PaCMAP (10 neighbours) on {_PCS}",
    ),
    "mlp": Method(
        neural.mlp, "MLP + cross-entropy", True, "scikit-learn", "Rumelhart, Hinton & Williams 1986, Nature 323",
        f"a classifier with cross-entropy on {_PCS} (hidden layers of {neural.HIDDEN[0]} and {neural.HIDDEN[1]} units, "
        f"Adam, {neural.EPOCHS} epochs, L2 penalty {neural.WEIGHT_DECAY:g}); its last hidden layer is the metric space",
    ),
    "scanvi": Method(
        neural.scanvi, "scANVI", True, "scvi-tools",
        "Xu, Lopez, Mehlman, Regier, Jordan & Yosef 2021, Mol. Syst. Biol. 17, e9620",
        "scANVI on counts with the defaults of scvi-tools, from a trained scVI model",
    ),
    "parametric_umap": Method(
        neighbour_maps.parametric_umap, "parametric UMAP", False, "umap-learn",
        "Sainburg, McInnes & Gentner 2021, Neural Comput. 33(11)", f"parametric UMAP ({_UMAP_SETTINGS}) on {_PCS}",
    ),
}  # fmt: skip


def title_of(method: str) -> str:
    """Return the name of a method in tables and figures, with its settings where it has some."""
    name, colon, settings = method.partition(":")
    title = METHODS[name].title if name in METHODS else OTHERS.get(name, name)
    return f"{title} ({', '.join(settings.split(','))})" if colon else title
