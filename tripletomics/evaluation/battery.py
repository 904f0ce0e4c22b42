"""The scores: what each is called and measures, and the rows of numbers of an embedding and of its nulls."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from tripletomics import labels, metrics


@dataclass(frozen=True)
class Metric:
    """What a score is called, what it measures, and how to read it."""

    title: str
    family: str  # those of `METRICS` have a title each in `report.score_tables`
    higher: bool = True  # whether more is better
    best: float | None = None  # the value to come near to, where neither more nor less is better
    circular: bool = False  # rises with how hard the labels were used, whether they mean anything or not


MAIN = (
    "knn_macro_f1", "map_at_r", "knn_recall_30", "knn_recall_within_types", "trustworthiness", "centroid_spearman",
)  # fmt: skip

METRICS = {
    "knn_macro_f1": Metric("15-NN macro-F1", "labels"),
    "knn_balanced_accuracy": Metric("15-NN balanced accuracy", "labels"),
    "recall": Metric("15-NN recall of a type", "labels"),
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
    "ilisi": Metric("iLISI", "batches"),
    "clisi": Metric("cLISI", "batches", circular=True),
    "kbet": Metric("kBET", "batches"),
    "graph_connectivity": Metric("graph connectivity", "batches"),
    "seconds": Metric("seconds", "cost", higher=False),
    "peak_mb": Metric("growth of memory, MB", "cost", higher=False),
    "cells_per_second": Metric("cells per second", "cost"),
}

PERMUTED, SHUFFLED, REFITTED, UNUSED = (
    "labels of the scored cells permuted",
    "places of the scored cells shuffled",
    "fit on permuted labels",
    "labels permuted, of which the fit uses none",
)
COLUMNS = ["metric", "type", "split", "value", "null"]


@dataclass(frozen=True)
class Truth:
    """What an embedding is scored against, an entry for each cell.

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
    fine, batch
        Codes of finer labels that nobody trained on, and of batches, which are scored if `score_batches`.
    pseudotime
        Numbers, NaN where there is none.
    at_random
        Whether the held-out cells were drawn at random within types, so that they should lie as training cells do.
    """

    codes: np.ndarray
    classes: list[str]
    held_out: np.ndarray
    reference: np.ndarray
    fine: np.ndarray | None = None
    batch: np.ndarray | None = None
    pseudotime: np.ndarray | None = None
    score_batches: bool = True
    at_random: bool = False
    usual: np.ndarray | None = None

    def of(self, rows: np.ndarray, codes: np.ndarray) -> Truth:
        """Return the truth of some cells, with other codes."""
        fine, batch, times, usual = (
            part if part is None else part[rows] for part in (self.fine, self.batch, self.pseudotime, self.usual)
        )
        return replace(
            self, codes=codes, held_out=self.held_out[rows], reference=self.reference[rows], fine=fine, batch=batch,
            pseudotime=times, usual=usual,
        )  # fmt: skip

    def permuted(self, seed: int, among: np.ndarray) -> Truth:
        """Return the truth with the labels of some cells dealt out again among them."""
        codes = self.codes.copy()
        codes[among] = labels.permute(codes[among], np.random.default_rng(seed))
        return replace(self, codes=codes)


def score(z: np.ndarray, truth: Truth, seed: int) -> pd.DataFrame:
    """Score a space on training cells among themselves, on held-out cells against the training cells, and as a page.

    Returns
    -------
    One row a number, with the columns metric, type, split, value and null. Of the use of the page, which is scored if
    there are two dimensions, the split is "": it is one of all cells.
    """
    tables = []
    for split in ("train", "held-out"):
        if split == "train" or truth.held_out.any():
            rows = _by_labels(z, truth, split, seed) + _by_places(z, truth, split, seed)
            if truth.score_batches and truth.batch is not None and split == "held-out":
                held = truth.held_out
                found = metrics.batch_scores(z[held], truth.codes[held], truth.batch[held], seed)
                rows += [(name, "", value) for name, value in found.items()]
            if truth.at_random and split == "held-out":
                found = metrics.exchangeability(z, truth.codes, truth.held_out, seed)
                rows += [(name, "", value) for name, value in found.items()]
            tables.append(_table(rows, split))
    if z.shape[1] == 2:
        tables.append(_table([(name, "", value) for name, value in metrics.page_use(z).items()], ""))
    return pd.concat(tables, ignore_index=True)


def score_permuted(z: np.ndarray, truth: Truth, seed: int, how: str) -> pd.DataFrame:
    """Score the held-out cells by labels that mean nothing: those of `truth`, and for votes many orders of them."""
    known, votes = _votes(_sides(z, truth.codes, truth.held_out, "held-out"), len(truth.classes))
    random = np.random.default_rng(seed)
    orders = [_by_votes(random.permutation(known), votes, truth.classes) for _ in range(metrics.ORDERS)]
    means = np.mean([[value for _, _, value in scores] for scores in orders], axis=0)  # one order alone may stray
    rows = [(metric, kind, float(mean)) for (metric, kind, _), mean in zip(orders[0], means, strict=True)]
    return _table(rows + _by_distances(z, truth, "held-out", seed), "permuted", how)


def score_shuffled(z: np.ndarray, truth: Truth, seed: int) -> pd.DataFrame:
    """Score the structure of held-out cells whose places are dealt out again among them."""
    shuffled, within = z.copy(), z.copy()
    random, held = np.random.default_rng(seed), truth.held_out
    shuffled[held] = random.permutation(z[held])
    for code in np.unique(truth.codes[held]):
        cells = held & (truth.codes == code)
        within[cells] = random.permutation(z[cells])
    rows = [row for row in _by_places(shuffled, truth, "held-out", seed) if row[0] != "knn_recall_within_types"]
    rows.append(("knn_recall_within_types", "", _within_types(within, truth, "held-out", seed)))
    return _table(rows, "permuted", SHUFFLED)


def confusion(z: np.ndarray, truth: Truth) -> np.ndarray:
    """Count held-out cells by true type (rows) and by the type of most of their 15 nearest training cells."""
    n = len(truth.classes)
    known, votes = _votes(_sides(z, truth.codes, truth.held_out, "held-out"), n)
    return np.bincount(known * n + votes.argmax(axis=1), minlength=n * n).reshape(n, n)


def unseen_types(truth: Truth, seed: int) -> tuple[np.ndarray, int, int]:
    """Choose half of the types; the type that is nearest to another one, and the one that is farthest from all.

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
    """Return the types of the training cells if there are enough to leave some out."""
    types = np.unique(codes[(codes >= 0) & ~held_out])
    if len(types) < 4:
        raise ValueError(f"unseen=True leaves half of the types out and needs four or more, not {len(types)}.")
    return types


def score_unseen(z: np.ndarray, codes: np.ndarray, seed: int) -> pd.DataFrame:
    """Score the retrieval among cells of types that were left out of training."""

    def rows(y: np.ndarray) -> list[Row]:
        found = metrics.retrieval(z, y, seed=seed)
        return [
            ("unseen_recall_at_1", "", found["recall_at_1"]),
            ("unseen_map_at_r", "", found["map_at_r"]),
            ("unseen_nmi", "", metrics.nmi(z, y, seed)),
        ]

    null = labels.permute(codes, np.random.default_rng(seed))
    return pd.concat([_table(rows(codes), "held-out"), _table(rows(null), "permuted", PERMUTED)], ignore_index=True)


def score_novel(z: np.ndarray, codes: np.ndarray, left_out: np.ndarray, near: int, far: int, seed: int) -> pd.DataFrame:
    """Score how well the distance to the training cells tells a type that was left out from held-out cells."""
    novelty = metrics.novelty(z[~left_out], z[left_out])
    known = ~np.isin(codes[left_out], (-1, near, far))

    def rows(novelty: np.ndarray) -> list[Row]:
        found: list[Row] = []
        for name, code in (("near", near), ("far", far)):
            among = known | (codes[left_out] == code)
            scores, is_novel = novelty[among], ~known[among]
            found.append((f"novelty_auroc_{name}", "", metrics.auroc(scores, is_novel)))
            found.append((f"novelty_fpr95_{name}", "", metrics.fpr_at_95(scores, is_novel)))
        return found

    null = np.random.default_rng(seed).permutation(novelty)
    return pd.concat([_table(rows(novelty), "held-out"), _table(rows(null), "permuted", PERMUTED)], ignore_index=True)


Row = tuple[str, str, float]  # metric, type, value
Sides = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]


def _table(rows: list[Row], split: str, null: str = "") -> pd.DataFrame:
    return pd.DataFrame([(metric, kind, split, value, null) for metric, kind, value in rows], columns=COLUMNS)


def _sides(z: np.ndarray, y: np.ndarray, held_out: np.ndarray, split: str) -> Sides:
    """Return the training cells and, unless they are scored among themselves, the held-out cells."""
    query = (z[held_out], y[held_out]) if split == "held-out" else (None, None)
    return z[~held_out], y[~held_out], *query


def _votes(sides: Sides, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of the labelled cells to score, and the votes of their neighbours."""
    z, y, query, query_y = sides
    if query is None or query_y is None:
        return y[y >= 0], metrics.knn_votes(z, y, classes=classes)
    known = query_y >= 0
    return query_y[known], metrics.knn_votes(z, y, query[known], classes)


def _by_labels(z: np.ndarray, truth: Truth, split: str, seed: int) -> list[Row]:
    """Score how well neighbours, retrieval and distances agree with the labels."""
    known, votes = _votes(_sides(z, truth.codes, truth.held_out, split), len(truth.classes))
    rows = _by_votes(known, votes, truth.classes)
    if split == "held-out":
        rows.append(("permutation_p", "", metrics.permutation_p(known, votes.argmax(axis=1), seed)))
        rows.append(("reachable_p", "", metrics.reachable_p(known, seed)))
    return rows + _by_distances(z, truth, split, seed)


def _by_distances(z: np.ndarray, truth: Truth, split: str, seed: int) -> list[Row]:
    """Score how well retrieval, clusters and pairs of cells agree with the labels."""
    sides = _sides(z, truth.codes, truth.held_out, split)
    rows: list[Row] = [(name, "", value) for name, value in metrics.retrieval(*sides, seed=seed).items()]
    here = truth.held_out if split == "held-out" else ~truth.held_out
    rows.append(("nmi", "", metrics.nmi(z[here], truth.codes[here], seed)))
    rows.append(("silhouette", "", metrics.silhouette(z[here], truth.codes[here], seed)))
    auroc, tar = metrics.verification(*sides, seed=seed)
    rows += [("verification_auroc", "", auroc), ("tar_at_far", "", tar)]
    return [*rows, ("within_between", "", metrics.within_between(z[here], truth.codes[here]))]


def _by_votes(known: np.ndarray, votes: np.ndarray, classes: list[str]) -> list[Row]:
    """Score the votes of neighbours against the codes that are known."""
    predicted, confidence = votes.argmax(axis=1), votes.max(axis=1, initial=0)
    recalls = metrics.recall_per_type(known, predicted, len(classes))
    return [
        ("knn_macro_f1", "", metrics.macro_f1(known, predicted)),
        ("knn_balanced_accuracy", "", metrics.balanced_accuracy(known, predicted)),
        *(("recall", name, value) for name, value in zip(classes, recalls, strict=True)),
        ("ece", "", metrics.ece(confidence, predicted == known)),
        ("brier", "", metrics.brier(votes, known)),
        ("aurc", "", metrics.aurc(confidence, predicted == known)),
    ]


def _by_places(z: np.ndarray, truth: Truth, split: str, seed: int) -> list[Row]:
    """Score how well places agree with the label-free reference, and with what else is known of the cells."""
    here = truth.held_out if split == "held-out" else ~truth.held_out
    batch = None if truth.batch is None else truth.batch[here]
    z_train, _, z_query, _ = _sides(z, truth.codes, truth.held_out, split)
    r_train, _, r_query, _ = _sides(truth.reference, truth.codes, truth.held_out, split)
    sides = (z_train, r_train, z_query, r_query)
    rows: list[Row] = [(name, "", value) for name, value in metrics.neighbourhoods(*sides, seed=seed).items()]
    rows += [
        ("knn_recall_within_types", "", _within_types(z, truth, split, seed)),
        ("centroid_spearman", "", metrics.centroid_spearman(z[here], truth.reference[here], truth.codes[here])),
        ("triplet_accuracy", "", metrics.triplet_accuracy(*sides, seed=seed)),
        ("scgraph", "", metrics.scgraph(z[here], truth.reference[here], truth.codes[here], batch)),
    ]
    if truth.usual is not None:
        u_train, _, u_query, _ = _sides(truth.usual, truth.codes, truth.held_out, split)
        found = metrics.knn_recall(z_train, u_train, z_query, u_query, k=(30,), seed=seed)
        rows.append(("knn_recall_30_usual", "", float(found[0])))
    if truth.fine is not None:
        rows.append(("fine_knn_macro_f1", "", metrics.knn_macro_f1(*_sides(z, truth.fine, truth.held_out, split))))
    if truth.pseudotime is not None:
        times = _sides(z, truth.pseudotime, truth.held_out, split)
        rows.append(("pseudotime_spearman", "", metrics.pseudotime_spearman(*times)))
    return rows


def _within_types(z: np.ndarray, truth: Truth, split: str, seed: int) -> float:
    z_train, y_train, z_query, y_query = _sides(z, truth.codes, truth.held_out, split)
    r_train, _, r_query, _ = _sides(truth.reference, truth.codes, truth.held_out, split)
    return metrics.knn_recall_within_types(z_train, r_train, y_train, z_query, r_query, y_query, seed=seed)
