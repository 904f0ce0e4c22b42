"""The scores: what each is called and measures, and the rows of numbers of coordinates and of their nulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from tripletomics import labels, metrics
from tripletomics.evaluation.further import score_columns
from tripletomics.labels.nodes import NodeLabels, lineage
from tripletomics.labels.targets import Target


@dataclass(frozen=True)
class Metric:
    """The title of a score, what it measures, and how to read it."""

    title: str
    family: str  # those of `METRICS` have a title each in `report.score_tables`
    higher: bool = True  # whether higher is better
    best: float | None = None  # the ideal value, where neither higher nor lower is better
    circular: bool = False  # rises with how hard the labels were used, whether they mean anything or not


MAIN = (
    "knn_macro_f1", "map_at_r", "knn_recall_30", "knn_recall_within_types", "trustworthiness", "centroid_spearman",
)  # fmt: skip

METRICS = {
    "knn_macro_f1": Metric("15-NN macro-F1", "labels"),
    "knn_balanced_accuracy": Metric("15-NN balanced accuracy", "labels"),
    "recall": Metric("15-NN recall of a type", "labels"),
    "level_f1": Metric("15-NN macro-F1 on a level", "labels"),
    "hierarchical_f1": Metric("hierarchical F1 of the 15-NN type", "labels"),
    "permutation_p": Metric("p of macro-F1, labels of the scored cells permuted", "labels", higher=False),
    "reachable_p": Metric("p of macro-F1 if four of five cells were named right", "labels", higher=False),
    "recall_at_1": Metric("Recall@1 (P@1)", "retrieval"),
    "recall_at_10": Metric("Recall@10", "retrieval"),
    "r_precision": Metric("R-Precision", "retrieval"),
    "map_at_r": Metric("MAP@R", "retrieval"),
    "nmi": Metric("NMI of k-means", "retrieval", circular=True),
    "silhouette": Metric("silhouette of the labels", "retrieval", circular=True),
    "verification_auroc": Metric("AUROC of same-type pairs", "verification"),
    "tar_at_far": Metric("TAR at FAR = 0.001", "verification"),
    "ece": Metric("calibration error (ECE)", "prediction", higher=False),
    "brier": Metric("Brier score", "prediction", higher=False),
    "aurc": Metric("area under risk-coverage", "prediction", higher=False),
    "unseen_recall_at_1": Metric("Recall@1 of unseen types", "unseen"),
    "unseen_map_at_r": Metric("MAP@R of unseen types", "unseen"),
    "unseen_nmi": Metric("NMI of unseen types", "unseen"),
    "novelty_auroc_near": Metric("AUROC of a novel sibling type", "unseen"),
    "novelty_auroc_far": Metric("AUROC of a novel distant type", "unseen"),
    "novelty_fpr95_near": Metric("FPR@95 of a novel sibling type", "unseen", higher=False),
    "novelty_fpr95_far": Metric("FPR@95 of a novel distant type", "unseen", higher=False),
    "knn_recall_10": Metric("recall of 10 neighbours", "structure"),
    "knn_recall_30": Metric("recall of 30 neighbours", "structure"),
    "knn_recall_30_usual": Metric("recall of 30 neighbours in usual components", "structure"),
    "knn_recall_100": Metric("recall of 100 neighbours", "structure"),
    "knn_recall_within_types": Metric("recall of 30 neighbours within types, minus chance", "structure"),
    "trustworthiness": Metric("trustworthiness", "structure"),
    "continuity": Metric("continuity", "structure"),
    "centroid_spearman": Metric("Spearman of centroid distances", "structure"),
    "triplet_accuracy": Metric("random-triplet accuracy", "structure"),
    "scgraph": Metric("scGraph (favours PCA)", "structure"),
    "a50": Metric("page used by half of all cells", "page"),
    "a90": Metric("page used by 90 % of all cells", "page"),
    "edge_share": Metric("share of all cells at the edge of the map", "page", higher=False),
    "held_out_auroc": Metric("held-out told from training, AUROC (.5 = no)", "exchangeability", best=0.5),
    "spread_ratio": Metric("spread of held-out / training cells (1 = alike)", "exchangeability", best=1),
    "within_between": Metric("variance within / between types", "collapse", circular=True),
    "fine_knn_macro_f1": Metric("15-NN macro-F1 of finer labels", "collapse"),
    "pseudotime_spearman": Metric("Spearman of pseudotime", "collapse"),
    "order_correlation": Metric("correlation of an ordered column (Spearman or circular)", "order"),
    "order_correlation_within_types": Metric("correlation of an ordered column within types", "order"),
    "order_error": Metric("mean error of an ordered column", "order", higher=False),
    "column_f1": Metric("15-NN macro-F1 of a further column of types", "order"),
    "ilisi": Metric("iLISI", "batches"),
    "clisi": Metric("cLISI", "batches", circular=True),
    "kbet": Metric("kBET", "batches"),
    "graph_connectivity": Metric("graph connectivity", "batches"),
    "seconds": Metric("seconds", "cost", higher=False),
    "peak_mb": Metric("growth of memory, MB", "cost", higher=False),
    "cells_per_second": Metric("cells per second", "cost"),
}

PERMUTED, SHUFFLED, REFITTED, UNUSED, WITHIN_PARENTS = (
    "labels of the scored cells permuted",
    "coordinates of the scored cells shuffled",
    "fit on permuted labels",
    "labels permuted, which the fit does not use",
    "names of the scored cells permuted among those of the same parent",
)
COLUMNS = ["metric", "type", "split", "value", "null"]
Scores = dict[Any, float]  # by the name of a metric, or by a metric and a type
Sides = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]


@dataclass(frozen=True)
class GroundTruth:
    """What coordinates are scored against, with one entry per cell.

    Attributes
    ----------
    codes
        Types, -1 for unlabelled.
    classes
        Their names.
    held_out
        True for the cells that nothing was fitted on.
    reference
        A label-free space, by default 50 principal components of the training cells, which lie as new cells do in them.
    usual
        Usual components, in which training cells lie further out than new ones: those of earlier releases.
    levels
        The names of the types on several levels; None if there is one level.
    fine, batch_codes
        Codes of finer labels that no method was given, and of batches, which are scored if `score_batches`.
    pseudotime
        Numbers, NaN where there is none.
    further
        Further columns.
    at_random
        Whether the held-out cells were drawn at random within types, so that they should lie as training cells do.
    """

    codes: np.ndarray
    classes: list[str]
    held_out: np.ndarray
    reference: np.ndarray
    fine: np.ndarray | None = None
    batch_codes: np.ndarray | None = None
    pseudotime: np.ndarray | None = None
    further: Sequence[Target] = ()
    score_batches: bool = True
    at_random: bool = False
    usual: np.ndarray | None = None
    levels: NodeLabels | None = None

    def of(self, rows: np.ndarray, codes: np.ndarray) -> GroundTruth:
        """Return the truth of some cells, with other codes."""
        names = ("held_out", "reference", "usual", "fine", "batch_codes", "pseudotime")
        parts = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        further = [target.subset(rows) for target in self.further]
        cut = {name: part[rows] for name, part in parts.items()}
        return replace(self, codes=codes, levels=None, further=further, **cut)

    def permuted(self, seed: int, among: np.ndarray) -> GroundTruth:
        """Return the truth with the labels of some cells permuted among them."""
        codes = self.codes.copy()
        codes[among] = labels.permute(codes[among], np.random.default_rng(seed))
        return replace(self, codes=codes)

    def cells(self, split: str) -> np.ndarray:
        """Return which cells a split scores, boolean (cells,)."""
        return self.held_out if split == "held-out" else ~self.held_out


def score(z: np.ndarray, truth: GroundTruth, seed: int) -> pd.DataFrame:
    """Score a space on training cells among themselves, on held-out cells against the training cells, and as a page.

    Returns
    -------
    One row per value, with the columns metric, type, split, value and null. The use of the page, which is scored if
    there are two dimensions, has the split "": it is one value for all cells.
    """
    tables = []
    for split in ("train", "held-out") if truth.held_out.any() else ("train",):
        typed = bool(truth.classes)
        scores = (_by_labels(z, truth, split, seed) if typed else {}) | _by_structure(z, truth, split, seed)
        if typed and truth.score_batches and truth.batch_codes is not None and split == "held-out":
            held = truth.held_out
            scores |= metrics.batch_scores(z[held], truth.codes[held], truth.batch_codes[held], seed)
        if typed and truth.at_random and split == "held-out":
            scores |= metrics.exchangeability(z, truth.codes, truth.held_out, seed)
        levels, chance = _by_levels(z, truth, split, seed)
        tables.append(_table(scores | levels, split))
        if chance and split == "held-out":
            tables.append(_table(chance, "permuted", WITHIN_PARENTS))
    if z.shape[1] == 2:
        tables.append(_table(metrics.page_use(z), ""))
    return pd.concat(tables, ignore_index=True)


def score_permuted(z: np.ndarray, truth: GroundTruth, seed: int, how: str) -> pd.DataFrame:
    """Score the held-out cells by labels that mean nothing: those of `truth` and, for votes, permutations of them."""
    known, votes = _votes(_sides(z, truth.codes, truth, "held-out"), len(truth.classes))
    random = np.random.default_rng(seed)
    orders = [_by_votes(random.permutation(known), votes, truth.classes) for _ in range(metrics.ORDERS)]
    means = np.mean([list(scores.values()) for scores in orders], axis=0)  # a single permutation may be far off
    scores = dict(zip(orders[0], means.tolist(), strict=True))
    return _table(scores | _by_distances(z, truth, "held-out", seed), "permuted", how)


def score_shuffled(z: np.ndarray, truth: GroundTruth, seed: int) -> pd.DataFrame:
    """Score the structure of held-out cells whose coordinates are shuffled among them."""
    shuffled, within = z.copy(), z.copy()
    random, held = np.random.default_rng(seed), truth.held_out
    shuffled[held] = random.permutation(z[held])
    for code in np.unique(truth.codes[held]):
        cells = held & (truth.codes == code)
        within[cells] = random.permutation(z[cells])
    scores = _by_structure(shuffled, truth, "held-out", seed)
    if truth.classes:
        scores |= _within_types(within, truth, "held-out", seed)
    scores |= score_columns(within, truth.further, truth.codes, held, "held-out")
    return _table(scores, "permuted", SHUFFLED)


def confusion(z: np.ndarray, truth: GroundTruth) -> np.ndarray:
    """Count held-out cells by true type (rows) and by the type of most of their 15 nearest training cells."""
    n = len(truth.classes)
    known, votes = _votes(_sides(z, truth.codes, truth, "held-out"), n)
    return np.bincount(known * n + votes.argmax(axis=1), minlength=n * n).reshape(n, n)


def unseen_types(truth: GroundTruth, seed: int) -> tuple[np.ndarray, int, int]:
    """Choose half of the types; also the type that is nearest to another one, and the one that is farthest from all.

    Distances are those of the centroids of training cells in the reference.

    Raises
    ------
    ValueError
        For fewer than four types.
    """
    types = check_unseen(truth.codes, truth.held_out)
    centroids = np.stack([truth.reference[(truth.codes == code) & ~truth.held_out].mean(axis=0) for code in types])
    apart = cdist(centroids, centroids)
    np.fill_diagonal(apart, np.inf)
    nearest = apart.min(axis=1)
    half = np.random.default_rng(seed).permutation(types)[: len(types) // 2]
    return half, int(types[nearest.argmin()]), int(types[nearest.argmax()])


def check_unseen(codes: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return the types of the training cells; raise if there are too few to leave some out."""
    types = np.unique(codes[(codes >= 0) & ~held_out])
    if len(types) < 4:
        raise ValueError(f"unseen=True leaves half of the types out and needs four or more, not {len(types)}.")
    return types


def score_unseen(z: np.ndarray, codes: np.ndarray, seed: int) -> pd.DataFrame:
    """Score the retrieval among cells of types that were left out of training."""

    def scores(y: np.ndarray) -> Scores:
        found = metrics.retrieval(z, y, seed=seed)
        return {
            "unseen_recall_at_1": found["recall_at_1"],
            "unseen_map_at_r": found["map_at_r"],
            "unseen_nmi": metrics.nmi(z, y, seed),
        }

    permuted = labels.permute(codes, np.random.default_rng(seed))
    tables = [_table(scores(codes), "held-out"), _table(scores(permuted), "permuted", PERMUTED)]
    return pd.concat(tables, ignore_index=True)


def score_novel(z: np.ndarray, codes: np.ndarray, left_out: np.ndarray, near: int, far: int, seed: int) -> pd.DataFrame:
    """Score how well the distance to the training cells separates a type that was left out from held-out cells."""
    novelty = metrics.novelty(z[~left_out], z[left_out])
    known = ~np.isin(codes[left_out], (-1, near, far))

    def scores(novelty: np.ndarray) -> Scores:
        found: Scores = {}
        for name, code in (("near", near), ("far", far)):
            among = known | (codes[left_out] == code)
            values, is_novel = novelty[among], ~known[among]
            found[f"novelty_auroc_{name}"] = metrics.auroc(values, is_novel)
            found[f"novelty_fpr95_{name}"] = metrics.fpr_at_95(values, is_novel)
        return found

    permuted = np.random.default_rng(seed).permutation(novelty)
    tables = [_table(scores(novelty), "held-out"), _table(scores(permuted), "permuted", PERMUTED)]
    return pd.concat(tables, ignore_index=True)


def _table(scores: Scores, split: str, null: str = "") -> pd.DataFrame:
    keys = [key if isinstance(key, tuple) else (key, "") for key in scores]
    rows = [(*key, split, value, null) for key, value in zip(keys, scores.values(), strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _sides(z: np.ndarray, y: np.ndarray, truth: GroundTruth, split: str) -> Sides:
    """Return two arrays of the training cells and, unless these are scored among themselves, of the held-out cells."""
    held_out = truth.held_out
    query = (z[held_out], y[held_out]) if split == "held-out" else (None, None)
    return z[~held_out], y[~held_out], *query


def _votes(sides: Sides, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of the labelled cells to score, and the votes of their neighbours."""
    z, y, query, query_y = sides
    if query is None or query_y is None:
        return y[y >= 0], metrics.knn_votes(z, y, classes=classes)
    known = query_y >= 0
    return query_y[known], metrics.knn_votes(z, y, query[known], classes)


def _by_labels(z: np.ndarray, truth: GroundTruth, split: str, seed: int) -> Scores:
    """Score how well neighbours, retrieval and distances agree with the labels."""
    known, votes = _votes(_sides(z, truth.codes, truth, split), len(truth.classes))
    scores = _by_votes(known, votes, truth.classes)
    if split == "held-out":
        scores["permutation_p"] = metrics.permutation_p(known, votes.argmax(axis=1), seed)
        scores["reachable_p"] = metrics.reachable_p(known, seed)
    return scores | _by_distances(z, truth, split, seed)


def _by_distances(z: np.ndarray, truth: GroundTruth, split: str, seed: int) -> Scores:
    """Score how well retrieval, clusters and pairs of cells agree with the labels."""
    sides, here = _sides(z, truth.codes, truth, split), truth.cells(split)
    scores: Scores = metrics.retrieval(*sides, seed=seed)
    scores["nmi"] = metrics.nmi(z[here], truth.codes[here], seed)
    scores["silhouette"] = metrics.silhouette(z[here], truth.codes[here], seed)
    scores["verification_auroc"], scores["tar_at_far"] = metrics.verification(*sides, seed=seed)
    return scores | {"within_between": metrics.within_between(z[here], truth.codes[here])}


def _by_votes(known: np.ndarray, votes: np.ndarray, classes: list[str]) -> Scores:
    """Score the votes of neighbours against the true codes."""
    predicted, confidence = votes.argmax(axis=1), votes.max(axis=1, initial=0)
    recalls = metrics.recall_per_type(known, predicted, len(classes))
    return {
        "knn_macro_f1": metrics.macro_f1(known, predicted),
        "knn_balanced_accuracy": metrics.balanced_accuracy(known, predicted),
        **{("recall", name): value for name, value in zip(classes, recalls, strict=True)},
        "ece": metrics.ece(confidence, predicted == known),
        "brier": metrics.brier(votes, known),
        "aurc": metrics.aurc(confidence, predicted == known),
    }


def _by_levels(z: np.ndarray, truth: GroundTruth, split: str, seed: int) -> tuple[Scores, Scores]:
    """Score the names that neighbours give on each level, and what chance gives below the right parents."""
    if truth.levels is None:
        return {}, {}
    nodes, tree = truth.levels.nodes, truth.levels.tree
    found: Scores = {}
    chance: Scores = {}
    for name, codes in truth.levels.on_levels().items():
        known, votes = _votes(_sides(z, codes, truth, split), len(tree.names))
        key = "level_f1", name
        found[key], chance[key] = metrics.level_f1(known, votes.argmax(axis=1), tree.parents, seed)
    _, fine, query, _ = _sides(z, tree.leaf_codes(nodes), truth, split)
    here = truth.cells(split) & (nodes >= 0 if query is not None else tree.leaf_codes(nodes) >= 0)
    votes = metrics.knn_votes(z[~truth.held_out], fine, None if query is None else z[here], tree.n_leaves)
    given = nodes[here], votes.argmax(axis=1), lineage(tree)
    found["hierarchical_f1"] = metrics.hierarchical_f1(*given)
    chance["hierarchical_f1"] = metrics.permuted_hierarchical_f1(*given, tree.parents, seed)
    return found, chance


def _by_structure(z: np.ndarray, truth: GroundTruth, split: str, seed: int) -> Scores:
    """Score how well coordinates agree with the label-free reference, and with what else is known of the cells."""
    here, r, y = truth.cells(split), truth.reference, truth.codes
    batch = None if truth.batch_codes is None else truth.batch_codes[here]
    z_train, r_train, z_query, r_query = _sides(z, r, truth, split)
    scores: Scores = metrics.neighbourhoods(z_train, r_train, z_query, r_query, seed=seed)
    scores["triplet_accuracy"] = metrics.triplet_accuracy(z_train, r_train, z_query, r_query, seed=seed)
    if truth.classes:
        scores |= _within_types(z, truth, split, seed)
        scores["centroid_spearman"] = metrics.centroid_spearman(z[here], r[here], y[here])
        scores["scgraph"] = metrics.scgraph(z[here], r[here], y[here], batch)
    if truth.usual is not None:
        found = metrics.knn_recall(*_sides(z, truth.usual, truth, split), k=(30,), seed=seed)
        scores["knn_recall_30_usual"] = float(found[0])
    if truth.fine is not None:
        scores["fine_knn_macro_f1"] = metrics.knn_macro_f1(*_sides(z, truth.fine, truth, split))
    if truth.pseudotime is not None:
        scores["pseudotime_spearman"] = metrics.pseudotime_spearman(*_sides(z, truth.pseudotime, truth, split))
    return scores | score_columns(z, truth.further, truth.codes, truth.held_out, split)


def _within_types(z: np.ndarray, truth: GroundTruth, split: str, seed: int) -> Scores:
    z_train, r_train, z_query, r_query = _sides(z, truth.reference, truth, split)
    _, y_train, _, y_query = _sides(z, truth.codes, truth, split)
    found = metrics.knn_recall_within_types(z_train, r_train, y_train, z_query, r_query, y_query, seed=seed)
    return {"knn_recall_within_types": found}
