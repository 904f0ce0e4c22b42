"""What a reader of a map sees first: how much of the page the cells fill, and whether new cells lie apart on it."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

FIELDS_PER_SIDE = 100  # of the page
PAGE_SIDE = 1.05  # by the larger range of the map
EDGE_RADIUS = 0.99  # of the largest one
MIN_CELLS, MAX_CELLS = 25, 400  # of a type and a side; more are quadratic in time
NEAREST = 10  # neighbours, few enough for 2 x 25 cells


def page_use(m: np.ndarray) -> dict[str, float]:
    r"""Score how much of the page the cells of a 2-D map fill, and how many lie at its edge.

    The page is the square around the middle of the map's ranges, 1.05 times as wide as the larger one, in 100 x 100
    fields.

    .. math:: A_p = \frac{1}{10\,000} \min \Big\{ f : \sum_{i=1}^{f} n_{(i)} \ge \frac{p}{100} \sum_i n_i \Big\}

    with the number of cells n in each field, the fullest field first.

    Parameters
    ----------
    m
        Map (cells, 2).

    Returns
    -------
    ``a50`` and ``a90``, the shares of the page that hold 50 % and 90 % of the cells, and ``edge_share``, the share of
    the cells that are farther than 99 % of the map's radius from its middle, the median of each axis. All are in
    [0, 1], and NaN without cells. Cells that lie all at one point fill one field, and none of them is at the edge.

    Raises
    ------
    ValueError
        If the map does not have two columns, or has rows that are not finite.

    Notes
    -----
    More cells fill more fields, and few cells hardly share one. So compare maps of the same cells, and never scores of
    different cells. Moving a map or stretching both axes alike changes nothing. Turning it moves cells across the
    borders of fields, which changes the scores a little.
    """
    if m.ndim != 2 or m.shape[1] != 2:
        raise ValueError(f"m has shape {m.shape}: the use of the page needs a 2-D map, (cells, 2).")
    if bad := np.count_nonzero(~np.isfinite(m).all(axis=1)):
        raise ValueError(f"m has NaN or infinite values in {bad} of {len(m)} rows: leave these cells out.")
    if not len(m):
        return dict.fromkeys(("a50", "a90", "edge_share"), float("nan"))
    m = m.astype(float)
    low, high = m.min(axis=0), m.max(axis=0)
    side = PAGE_SIDE * (high - low).max() or 1.0  # any page, for cells at one point
    fields = ((m - (low + high) / 2) / side * FIELDS_PER_SIDE + FIELDS_PER_SIDE / 2).astype(int)
    counts = np.bincount(fields @ [FIELDS_PER_SIDE, 1])
    cells = np.sort(counts)[::-1].cumsum()
    a50, a90 = ((np.argmax(100 * cells >= p * len(m)) + 1) / FIELDS_PER_SIDE**2 for p in (50, 90))
    radius = _from(np.median(m, axis=0), m)
    edge = np.mean(radius > EDGE_RADIUS * radius.max())
    return {"a50": float(a50), "a90": float(a90), "edge_share": float(edge)}


def exchangeability(m: np.ndarray, codes: np.ndarray, held_out: np.ndarray, seed: int = 0) -> dict[str, float]:
    r"""Score whether held-out cells can be told from training cells of their type by their coordinates.

    Of each type with at least 25 training and 25 held-out cells, n of each are drawn: as many as both have, but
    at most 400. Then

    .. math:: \text{AUROC} = \frac{1}{n^2} \sum_{h,t} [s_{h \setminus t} > s_{t \setminus h}]
        + \tfrac12 [s_{h \setminus t} = s_{t \setminus h}]

    over the drawn held-out cells h and training cells t, where s is the share of held-out cells among the 10 nearest
    drawn cells of the type, and the two cells that are compared are left out of each other's.

    Parameters
    ----------
    m
        Map, metric space or components (cells, dim).
    codes
        Types (cells,); code -1 is left out.
    held_out
        True for held-out cells, boolean (cells,). They must have been drawn at random: if a donor or a batch was held
        out whole, its cells may well differ, and the scores say nothing about the map.
    seed
        Seed of the draw.

    Returns
    -------
    ``held_out_auroc``, the mean over types weighted by their cells: 0.5 where both are of one distribution, 1 where
    held-out cells lie among themselves, less than 0.5 where each keeps to training cells. ``spread_ratio``, the median
    over types of the median distance of held-out cells from the middle of their type's training cells, the median of
    each axis, divided by the same of these training cells: 1 where they spread alike, below where held-out cells are
    drawn inwards. Both are NaN if no type has enough cells.

    Raises
    ------
    ValueError
        If there are not as many codes, or marks of held-out cells, as cells.

    Notes
    -----
    Each cell is compared with n - 1 cells of each side. If only the cell itself were left out, it would meet one more
    of the other side than of its own, and equal distributions would score below 0.5: 0.44 for n = 25.
    Leaving out the pair that is compared gives 0.5 for every n, since only chance decides which of the two is held out.
    Cells that are as far away as the 10th share what is left of the 10: the order of the rows decides nothing.

    Where all training cells of a type lie at one point and held-out cells do not, its ratio is infinite; where both do,
    it is left out.

    References
    ----------
    Schilling 1986, Multivariate two-sample tests based on nearest neighbors. Airola, Pahikkala, Waegeman, De Baets &
    Salakoski 2011, An experimental comparison of cross-validation techniques for estimating the area under the ROC
    curve (leave-pair-out).
    """
    if not len(m) == len(codes) == len(held_out):
        raise ValueError(
            f"m has {len(m)} cells, codes {len(codes)} and held_out {len(held_out)}. Pass the same cells in all three."
        )
    random, held_out = np.random.default_rng(seed), np.asarray(held_out, dtype=bool)
    aurocs, ratios, sizes = [], [], []
    for code in np.unique(codes[codes >= 0]):
        train, held = (np.flatnonzero((codes == code) & side) for side in (~held_out, held_out))
        n = min(len(train), len(held), MAX_CELLS)
        if n < MIN_CELLS:
            continue
        drawn = np.concatenate([random.permutation(held)[:n], random.permutation(train)[:n]])
        aurocs.append(_told_apart(m[drawn].astype(float)))
        sizes.append(len(train) + len(held))
        middle = np.median(m[train].astype(float), axis=0)
        near, far = (np.median(_from(middle, m[side].astype(float))) for side in (train, held))
        if near > 0 or far > 0:
            ratios.append(far / near if near > 0 else np.inf)
    return {
        "held_out_auroc": float(np.average(aurocs, weights=sizes)) if sizes else float("nan"),
        "spread_ratio": float(np.median(ratios)) if ratios else float("nan"),
    }


def _from(middle: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Return the distances of cells from a point."""
    return np.asarray(np.linalg.norm(m - middle, axis=1))


def _told_apart(m: np.ndarray) -> float:
    """Return the leave-pair-out AUROC of the first half of the cells, the held-out ones, against the second."""
    n = len(m) // 2
    d = cdist(m, m, "sqeuclidean")
    np.fill_diagonal(d, np.inf)
    held, train = _own_shares(d[:n, :n], d[:n, n:]), 1 - _own_shares(d[n:, n:], d[n:, :n]).T
    ahead = np.round(held - train, 9)  # the same share, summed up in another order, may differ in its last digit
    return float(np.mean(ahead > 0) + np.mean(ahead == 0) / 2)


def _own_shares(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for each cell the share of its own side among the 10 nearest, without each cell of the other side in turn.

    Given are squared distances to the cells of its own and of the other side. Without one of the 10 nearest, the 11th
    takes its place.
    """
    borders = np.partition(np.hstack([own, other]), (NEAREST - 1, NEAREST), axis=1)[:, NEAREST - 1 : NEAREST + 1]
    shares = []
    for left_out in (False, True):
        border = borders[:, [int(left_out)]]
        mine, level_mine = (own < border).sum(axis=1)[:, None], (own == border).sum(axis=1)[:, None]
        closer, level = other < border, other == border
        all_closer = mine + closer.sum(axis=1)[:, None] - left_out * closer
        all_level = level_mine + level.sum(axis=1)[:, None] - left_out * level
        shares.append((mine + (NEAREST - all_closer) * level_mine / np.maximum(all_level, 1)) / NEAREST)
    return np.where(other <= borders[:, :1], shares[1], shares[0])
