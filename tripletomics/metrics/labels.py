"""How well an embedding separates types: nearest neighbours and clustering."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import normalized_mutual_info_score, silhouette_score

from tripletomics.knn import NEIGHBOURS, nearest
from tripletomics.metrics.distances import labelled, row_blocks, squared_distances, subsample

ORDERS = 100  # random orders of the scored labels that a null is the mean of
DRAWS = 1000  # samples of the scored cells that an interval is read from: an end then varies by about 2 % of its width


def knn_votes(z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, classes: int | None = None) -> np.ndarray:
    """Count which types the 15 nearest labelled cells have.

    Parameters
    ----------
    z, y
        Reference embedding (cells, dim) and its codes; code -1 is left out.
    query
        The cells to ask about; without them every labelled reference cell, among all the others.
    classes
        Columns of the result; by default the largest code + 1.

    Returns
    -------
    Shares (queries, classes) of the neighbours, of which there are fewer than 15 where there are fewer other labelled
    cells; NaN where there is none. ``.argmax(axis=1)`` is the predicted type, at equal votes the one of the smaller
    code. Cells that are as far away as the 15th share the votes that are left: the order of the rows decides nothing.
    """
    z, y = z[y >= 0], y[y >= 0]
    classes = int(y.max(initial=-1)) + 1 if classes is None else int(classes)  # not int8: it multiplies
    queries = len(y) if query is None else len(query)
    others = len(y) - (query is None)
    k, more = min(NEIGHBOURS, others), min(NEIGHBOURS + 1, others)
    if k < 1:
        return np.full((queries, classes), np.nan)
    distance, near = nearest(z, query, more)
    cells = np.arange(queries)[:, None] * classes + y[near[:, :k]]
    votes = np.bincount(cells.ravel(), minlength=queries * classes).reshape(queries, classes) / k
    tied = np.flatnonzero(distance[:, -1] == distance[:, k - 1]) if more > k else np.empty(0, dtype=int)
    for block in row_blocks(len(tied), len(y)):
        rows = tied[block]
        d = squared_distances(z, query, rows)
        last = np.partition(d, k - 1, axis=1)[:, k - 1 : k]
        closer, level = d < last, d == last
        share = (k - closer.sum(axis=1)) / level.sum(axis=1)
        weights = closer + level * share[:, None]
        votes[rows] = weights @ (y[:, None] == np.arange(classes)) / k
    return votes


def knn_macro_f1(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None
) -> float:
    """Score how well the 15 nearest labelled cells name the type of a cell.

    `macro_f1` of the most frequent type of `knn_votes`.

    Parameters
    ----------
    z, y
        Reference embedding (cells, dim) and its codes; code -1 is left out.
    query, query_y
        The cells to score; without them every reference cell is scored against all the others.

    Returns
    -------
    Macro-F1 in [0, 1], NaN if there is nothing to score or only one reference cell.
    """
    truth, predicted = _predicted(z, y, query, query_y)
    return macro_f1(truth, predicted)


def knn_balanced_accuracy(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None
) -> float:
    """Score how well the 15 nearest labelled cells name the type of a cell, with equal weight for every type.

    `balanced_accuracy` of the most frequent type of `knn_votes`.

    Parameters
    ----------
    z, y, query, query_y
        As in `knn_macro_f1`.

    Returns
    -------
    A number in [0, 1], NaN if there is nothing to score or only one reference cell.
    """
    truth, predicted = _predicted(z, y, query, query_y)
    return balanced_accuracy(truth, predicted)


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    r"""Score predicted types so that a rare type counts as much as a common one.

    .. math:: \text{macro-F1} = \frac1c \sum_{t=1}^{c} \frac{2\,\text{TP}_t}{2\,\text{TP}_t + \text{FP}_t + \text{FN}_t}

    over the c types that were found or predicted.

    Parameters
    ----------
    truth, predicted
        Codes (cells,); cells whose true code is -1 are left out. A predicted -1 is wrong, and of no type.

    Returns
    -------
    A number in [0, 1], NaN without cells.
    """
    truth, predicted, classes = _coded(truth, predicted)
    return _macro_f1(truth, predicted, classes) if len(truth) else float("nan")


def recall_per_type(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    r"""Score each type by the share of its cells that were recognised.

    .. math:: \text{recall}_t = \frac{\text{TP}_t}{\text{TP}_t + \text{FN}_t}

    Parameters
    ----------
    truth, predicted
        As in `macro_f1`.
    classes
        Length of the result.

    Returns
    -------
    Recalls (classes,), NaN where no cell has the type. A type without reference cells is never predicted: 0.
    """
    truth, predicted = truth[truth >= 0], predicted[truth >= 0]
    size = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[truth == predicted], minlength=classes)
    return np.where(size > 0, right / np.maximum(size, 1), np.nan)


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    r"""Score predicted types by the mean of their recalls.

    .. math:: \text{balanced accuracy} = \frac1c \sum_{t=1}^{c} \text{recall}_t

    over the c types that cells have.

    Parameters
    ----------
    truth, predicted
        As in `macro_f1`.

    Returns
    -------
    A number in [0, 1], NaN without cells.

    References
    ----------
    Brodersen, Ong, Stephan & Buhmann 2010, The balanced accuracy and its posterior distribution.
    """
    truth, predicted, classes = _coded(truth, predicted)
    return float(np.nanmean(recall_per_type(truth, predicted, classes))) if len(truth) else float("nan")


def permutation_p(truth: np.ndarray, predicted: np.ndarray, seed: int, permutations: int = 199) -> float:
    r"""Test whether predictions agree with the types better than by chance.

    .. math:: p = \frac{1 + \#\{\, b : F_1(\pi_b(y), \hat y) \ge F_1(y, \hat y) \,\}}{1 + B}

    with the macro-F1 of B random orders of the true types.

    Parameters
    ----------
    truth, predicted
        As in `macro_f1`.
    seed
        Seed of the orders.
    permutations
        Their number; the smallest p is 1 / (1 + permutations).

    Returns
    -------
    A number in (0, 1]; NaN for a single type, which leaves nothing to permute, and without cells.

    Notes
    -----
    It assumes that cells are independent. Cells of one donor are not, so a donor effect can make p small as well.

    References
    ----------
    Ojala & Garriga 2010, Permutation tests for studying classifier performance.
    """
    if len(np.unique(truth[truth >= 0])) < 2:
        return float("nan")
    reached = permuted_macro_f1(truth, predicted, seed, permutations) >= macro_f1(truth, predicted)
    return (1 + int(np.count_nonzero(reached))) / (1 + permutations)


def reachable_p(truth: np.ndarray, seed: int, permutations: int = 199) -> float:
    """Return the p that `permutation_p` would give if four of five cells of each type were predicted right.

    If even that could be chance, a p that is not small shows nothing: there are too few cells, or too few of all types
    but one. The cells of a type with one or two cells all count as right.

    Parameters
    ----------
    truth, seed, permutations
        As in `permutation_p`.

    Returns
    -------
    A number in (0, 1]; NaN for a single type and without cells.
    """
    truth = truth[truth >= 0]
    predicted, types = truth.copy(), np.unique(truth)
    for i, code in enumerate(types):
        predicted[np.flatnonzero(truth == code)[2::5]] = types[(i + 1) % len(types)]
    return permutation_p(truth, predicted, seed, permutations)


def permuted_macro_f1(truth: np.ndarray, predicted: np.ndarray, seed: int, orders: int = ORDERS) -> np.ndarray:
    """Score predictions by random orders of the true types: what chance gives.

    Parameters
    ----------
    truth, predicted
        As in `macro_f1`.
    seed, orders
        Seed of the orders, and their number.

    Returns
    -------
    The macro-F1 (orders,) of each; NaN without cells.
    """
    truth, predicted, classes = _coded(truth, predicted)
    if not len(truth):
        return np.full(orders, np.nan)
    random = np.random.default_rng(seed)
    return np.array([_macro_f1(random.permutation(truth), predicted, classes) for _ in range(orders)])


def bootstrap_macro_f1(truth: np.ndarray, predicted: np.ndarray, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Score predictions on random samples of the cells: how far a score hangs on which cells were held out.

    A sample has as many cells as there are, drawn with replacement. All methods are scored on the same samples, so that
    methods can be compared pair by pair.

    Parameters
    ----------
    truth
        As in `macro_f1`.
    predicted
        Codes (methods, cells) by each method.
    seed, draws
        Seed of the samples, and their number.

    Returns
    -------
    The macro-F1 (draws, methods) of each sample; NaN without cells.

    Notes
    -----
    `numpy.quantile(result, (0.025, 0.975), axis=0)` is the 95 % interval of each score, and that of
    `result[:, 0] - result[:, 1]` the interval of a difference. If that holds 0, the two are a tie. The interval is for
    one fit and one split: it does not say how much another fit would differ. It assumes that cells are independent;
    those of one donor are not, and then it is too narrow.

    References
    ----------
    Efron 1979, Bootstrap methods: another look at the jackknife.
    """
    predicted, truth = predicted[:, truth >= 0], truth[truth >= 0]
    if not len(truth):
        return np.full((draws, len(predicted)), np.nan)
    classes = int(max(truth.max(), predicted.max(initial=-1))) + 1
    random = np.random.default_rng(seed)
    rows = (random.integers(len(truth), size=len(truth)) for _ in range(draws))
    return np.array([[_macro_f1(truth[row], codes[row], classes) for codes in predicted] for row in rows])


def nmi(z: np.ndarray, y: np.ndarray, seed: int) -> float:
    r"""Score how well k-means with the number of types finds them (normalised mutual information).

    .. math:: \text{NMI} = \frac{2\, I(y; c)}{H(y) + H(c)}

    with the clusters c, the mutual information I and the entropies H.

    Parameters
    ----------
    z, y
        Embedding (cells, dim) and its codes; code -1 is left out.
    seed
        Seed of k-means, which takes the best of 4 starts.

    Returns
    -------
    A number in [0, 1], NaN for fewer than two types.

    Notes
    -----
    Many small types raise it by chance, so compare it on the same cells only. Clusters that are not round, or that
    differ much in size, lower it.

    References
    ----------
    Manning, Raghavan & Schütze 2008, Introduction to information retrieval, section 16.3.
    """
    z, y = z[y >= 0], y[y >= 0]
    types = len(np.unique(y))
    if types < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than types: the score says so
        clusters = KMeans(types, n_init=4, random_state=seed).fit_predict(z)
    return float(normalized_mutual_info_score(y, clusters))


def silhouette(z: np.ndarray, y: np.ndarray, seed: int) -> float:
    r"""Score how much closer cells are to their own type than to the next one (silhouette).

    .. math:: s_i = \frac{b_i - a_i}{\max(a_i, b_i)}

    with the mean distance a of a cell to the others of its type and the smallest mean distance b to another type;
    the score is the mean over cells.

    Parameters
    ----------
    z, y
        Embedding (cells, dim) and its codes; code -1 is left out.
    seed
        Seed of the draw of 2,000 cells, where there are more: the score is of these among each other.

    Returns
    -------
    A number in [-1, 1], NaN for fewer than two types or if every cell has its own.

    Notes
    -----
    It rewards tight round islands, also of random labels: on the cells that a supervised map was trained on it is
    worthless. A cell that is alone in its type counts 0.

    References
    ----------
    Rousseeuw 1987, Silhouettes: a graphical aid to the interpretation and validation of cluster analysis.
    """
    z, y = z[y >= 0], y[y >= 0]
    rows = subsample(len(y), seed)
    z, y = z[rows], y[rows]
    if not 2 <= len(np.unique(y)) < len(y):
        return float("nan")
    return float(silhouette_score(z, y))


def _predicted(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None, query_y: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the predicted codes; none if there is no choice between reference cells."""
    z, y, query, truth = labelled(z, y, query, query_y)
    if len(y) < 2:
        return truth[:0], truth[:0]
    return truth, knn_votes(z, y, query).argmax(axis=1)


def _coded(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    truth, predicted = truth[truth >= 0], predicted[truth >= 0]
    return truth, predicted, int(max(truth.max(initial=-1), predicted.max(initial=-1))) + 1


def _macro_f1(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    either = np.bincount(truth, minlength=classes) + np.bincount(predicted[predicted >= 0], minlength=classes)
    right = np.bincount(truth[truth == predicted], minlength=classes)
    return float(np.mean(2 * right[either > 0] / either[either > 0]))
