"""Scores of an embedding: arrays in, numbers out.

Most take reference cells ``(z, y)``, an embedding and the codes of its types (-1 is unlabelled and left out), and the
cells to score, ``(query, query_y)``. Without the latter every reference cell is scored against all the others, which
says nothing about a map that was trained with its labels. Distances are Euclidean.

- Labels of the neighbours: `knn_votes` finds the 15 nearest labelled cells once, and everything else follows from the
  true and the predicted codes: `macro_f1`, `balanced_accuracy`, `recall_per_type`, `brier`, `ece`; `permutation_p` and
  `permuted_macro_f1` say what chance gives, `reachable_p` whether there are enough cells to tell, and
  `bootstrap_macro_f1` how wide the interval of a score or of a difference is.
- Names on several levels: `level_f1` and `hierarchical_f1`, with nulls that permute names below the same parent.
- Retrieval: `retrieval` ranks the reference cells of each cell once, for `recall_at_k`, `r_precision` and
  `map_at_r`; `verification` scores whether distances separate pairs of one type from others. `nmi` and `silhouette`
  are about clusters.
- What is kept of the data, against a label-free space r of the same cells: `neighbourhoods` for `knn_recall`,
  `trustworthiness` and `continuity`; `knn_recall_within_types`, `triplet_accuracy`, `centroid_spearman`, `scgraph`,
  `within_between`, `pseudotime_spearman`; and the `distortion` of each cell, where lower is better. Labels alone
  improve none of these.
- Whether to trust a prediction: `ece`, `brier`, `risk_coverage`, `aurc`; `novelty`, `auroc`, `fpr_at_95`.
- What a reader of a map sees: `page_use`, how much of the page is filled; `exchangeability`, whether held-out cells can
  be told from training cells of their type.
- Values that have an order: `correlation` and `correlation_within` types, on a line or around a circle; `distance`, and
  `mean_of_neighbours` to predict them.
- Batches: `batch_scores`, with the extra ``tripletomics[batch]``.

Ties are counted pessimistically: of cells at the same distance, those that would lower the score come first. A map that
puts all cells at one point then scores no better than chance; ties broken by row number would reward sorted rows.
AUROC, risk-coverage and triplets count a tie as one half, and tied neighbours share their votes: that is chance too.

All distances of 100,000 cells to each other would take 80 GB, and are never held at once. Nearest neighbours are exact,
of all cells. Scores that need complete rankings are of at most 2,000 cells, drawn by `seed` (exact where there are no
more), against all reference cells, in blocks of 8 MB. Their standard error is below 0.5 / sqrt(2000) = 0.011.
"""

from tripletomics.knn import NEIGHBOURS
from tripletomics.metrics.arrangement import centroid_spearman, pseudotime_spearman, scgraph, within_between
from tripletomics.metrics.batches import batch_scores
from tripletomics.metrics.labels import (
    ORDERS,
    balanced_accuracy,
    bootstrap_macro_f1,
    knn_balanced_accuracy,
    knn_macro_f1,
    knn_votes,
    macro_f1,
    nmi,
    permutation_p,
    permuted_macro_f1,
    reachable_p,
    recall_per_type,
    silhouette,
)
from tripletomics.metrics.levels import (
    hierarchical_f1,
    level_f1,
    permute_within_parents,
    permuted_hierarchical_f1,
)
from tripletomics.metrics.order import correlation, correlation_within, distance, mean_of_neighbours
from tripletomics.metrics.page import exchangeability, page_use
from tripletomics.metrics.prediction import aurc, auroc, brier, ece, fpr_at_95, novelty, risk_coverage
from tripletomics.metrics.ranking import map_at_r, r_precision, recall_at_k, retrieval, verification
from tripletomics.metrics.structure import (
    continuity,
    distortion,
    knn_recall,
    knn_recall_within_types,
    neighbourhoods,
    triplet_accuracy,
    trustworthiness,
)

__all__ = [
    "NEIGHBOURS",
    "ORDERS",
    "aurc",
    "auroc",
    "balanced_accuracy",
    "batch_scores",
    "bootstrap_macro_f1",
    "brier",
    "centroid_spearman",
    "continuity",
    "correlation",
    "correlation_within",
    "distance",
    "distortion",
    "ece",
    "exchangeability",
    "fpr_at_95",
    "hierarchical_f1",
    "knn_balanced_accuracy",
    "knn_macro_f1",
    "knn_recall",
    "knn_recall_within_types",
    "knn_votes",
    "level_f1",
    "macro_f1",
    "map_at_r",
    "mean_of_neighbours",
    "neighbourhoods",
    "nmi",
    "novelty",
    "page_use",
    "permutation_p",
    "permute_within_parents",
    "permuted_hierarchical_f1",
    "permuted_macro_f1",
    "pseudotime_spearman",
    "r_precision",
    "reachable_p",
    "recall_at_k",
    "recall_per_type",
    "retrieval",
    "risk_coverage",
    "scgraph",
    "silhouette",
    "triplet_accuracy",
    "trustworthiness",
    "verification",
    "within_between",
]
