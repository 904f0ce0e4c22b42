"""Checks of whether a query is on the scale of the training cells."""

from __future__ import annotations

import numpy as np

from tripletomics import gaps, scales
from tripletomics.features import Features, median_depth, norms, spread_of
from tripletomics.names import percent
from tripletomics.pcs import mean_and_variance
from tripletomics.scales import Scale
from tripletomics.sources import Matrix, dense

ENOUGH = 20  # cells, or genes, for a median or a correlation
CENTRED = 0.1  # share of training values below 0, from which a query without any is unusual
CLOSE, APART = 1.2, 5.0  # ratios of what cells were scaled to: below, no difference; above, coordinates mean nothing
ODD = 2.5  # ratio of distances from the middle in an embedding: above, a warning; another donor has about 1
SAME_LENGTH = 1e-3  # median difference of the lengths of cells, as a share: below, they were divided by it
# of an embedding: dimensions that show anything; and spread of the logarithms of their standard deviations, which is 0
# after z-scoring, and in one type of cells often small
FEW, FLAT, UNEVEN = 5, 0.1, 0.3
FAR = 2 * scales.TAIL  # stricter for a query, because its training values may have been just below `TAIL`
UNDO = {"log1p": "np.expm1(x)", "log2(1 + x)": "(np.exp2(x) - 1)", "log10(1 + x)": "(10**x - 1)",
        "log1p, taken twice": "np.expm1(np.expm1(x))", "normalised": "x"}  # fmt: skip
DO = {"log1p": "np.log1p({})", "log2(1 + x)": "np.log2(1 + {})", "log10(1 + x)": "np.log10(1 + {})",
      "log1p, taken twice": "np.log1p(np.log1p({}))", "normalised": "{}"}  # fmt: skip


def check_scale(
    x: Matrix, features: Features, found: np.ndarray | None = None, given: Scale | None = None
) -> list[str]:
    """Compare the values of a query with those of the training cells.

    Parameters
    ----------
    x
        Query cells by the model's genes.
    features
        The model's features.
    found
        Boolean (genes,): the genes that the query has; all by default.
    given
        The scale of the query, from all genes that it has; by default from those in `x`.

    Returns
    -------
    Sentences on what looks odd but may be right.

    Raises
    ------
    ValueError
        If the query is on another scale than the training cells.
    """
    if features.use_rep is not None:
        return _check_embedding(x, features)
    found = np.ones(x.shape[1], dtype=bool) if found is None else found
    shared = x if found.all() else x[:, found]
    values = gaps.stored(shared)
    negative = bool(values.min(initial=0) < 0)
    if features.counts and negative:
        raise ValueError(
            "The query has negative values, but the model was trained on counts: name the layer with counts."
        )
    notes = []
    if values.any() and not negative:
        trained = features.known_scale
        if trained is None:
            notes += _notes_on_looks(shared, features)
        else:
            notes += _notes_on_kind(shared, features, trained, scales.see(shared) if given is None else given)
    if negative and not features.negative:
        notes.append(
            "The query has negative values, but the training cells had none: it looks z-scored. Name the layer with "
            "the values before that (layer=)."
        )
    elif features.below >= CENTRED and not negative and values.any() and x.shape[0] >= ENOUGH:
        notes.append(
            f"The query has no negative values, but {percent(features.below)} of the training values were below 0: the "
            "training values look z-scored or centred, and the query does not. Treat both in the same way: fit on the "
            "values before that, or scale the query by the means and standard deviations of the training cells."
        )
    elif x.shape[0] >= ENOUGH and values.any():
        if features.counts:
            notes += _note_on_depth(median_depth(shared), features.depth * float(features.shares[found].sum()))
        notes += _notes_on_means(x, features, found)
    return notes


def _check_embedding(x: Matrix, features: Features) -> list[str]:
    """Compare an embedding of a query with that of the training cells; raise if it is on another scale.

    Cells of another donor or of a single type lie elsewhere, but about as far out. So three signs count: whether all
    cells have the same length (as after division by it), how far cells lie from the middle of the training cells, and
    whether all dimensions vary alike (as after z-scoring).
    """
    if not x.shape[0]:
        return []
    reads = f"the embedding {features.use_rep!r} that the model was fitted on"
    cure = "embed the query with the same model and in the same way as the training cells"
    norm, spread = spread_of(norms(x))
    alike, were_alike = spread < SAME_LENGTH, features.norm_spread < SAME_LENGTH
    differ = alike != were_alike and max(spread, features.norm_spread) > 10 * SAME_LENGTH
    if differ and len(np.unique(dense(x[:, :1]))) >= ENOUGH:  # copies of a cell have one length, and one first value
        which = ("the query", "the training cells") if alike else ("the training cells", "the query")
        raise ValueError(
            f"The query is not on the scale of {reads}: all cells of {which[0]} have the same length ({norm:.3g} in "
            f"the query, {features.norm:.3g} in training), as after division by it, and those of {which[1]} do not. "
            f"{cure.capitalize()}."
        )
    mean, variance = mean_and_variance(x)
    wide = features.deviation.astype(np.float64)
    ratio = float(np.sqrt((np.square(mean - features.mean) + variance).sum() / np.square(wide).sum()))
    how = f"cells lie {_times(ratio, 1, 'further from', 'nearer to')} the middle of the training cells than these do"
    enough = x.shape[0] >= ENOUGH
    if enough and not 1 / APART < ratio < APART:
        raise ValueError(f"The query is not on the scale of {reads}: its {how}. {cure.capitalize()}.")
    notes = []
    if not 1 / (ODD if enough else APART) < ratio < (ODD if enough else APART):
        notes.append(f"The query may not be on the scale of {reads}: its {how}. {cure.capitalize()}.")
    varies = (wide > 0) & (variance > 0)
    if enough and varies.sum() >= FEW:
        own, usual = (float(np.log(values[varies]).std()) for values in (np.sqrt(variance), wide))
        if (own < FLAT and usual > UNEVEN) or (usual < FLAT / 3 and own > UNEVEN):
            which = ("query", "training cells") if own < usual else ("training cells", "query")
            notes.append(
                f"All dimensions of the embedding vary alike in the {which[0]}, and unlike in the {which[1]}: was one "
                f"of the two z-scored? If so, {cure}."
            )
    return notes


def _notes_on_kind(x: Matrix, features: Features, trained: Scale, given: Scale) -> list[str]:
    """Compare the scales of a query and of the training values; raise if they certainly differ."""
    unlike = given.kind != trained.kind
    if features.counts:
        if given.logged and unlike:
            raise ValueError(
                f"The query holds {given}, but the model was trained on counts: name the layer with the counts "
                "(layer=)."
            )
        if given.kind or not features.like_counts or scales.looks_like_counts(x, len(features.genes)):
            return []
        odd = (
            "The query holds log-transformed or other continuous values, but the model was trained on counts: name the "
            "layer with the counts (layer=)."
        )
        # counts that are not whole may all be small in a part of the cells
        return _refuse(odd, x, trained.kind == "whole")
    if given.kind == "whole" and unlike and not features.like_counts:
        if scales.looks_like_counts(x, len(features.genes)):
            odd = (
                f"The query holds counts, but the model was trained on {trained}: name the layer with the right values "
                "(layer=), or convert them in the same way."
            )
            return _refuse(odd, x, True)
    elif given.kind in UNDO and unlike and (trained.kind in UNDO or (trained.kind == "whole" and given.logged)):
        raise ValueError(_other_scale(given, trained))
    elif not given.kind and not features.like_counts and scales.looks_like_counts(x, len(features.genes), FAR):
        odd = (
            f"The query holds counts, or other values without a logarithm, but the model was trained on {trained}: "
            "name the layer with the right values (layer=), or convert them in the same way."
        )
        return _refuse(odd, x, True)
    elif given.kind in UNDO and not unlike:
        return _notes_on_totals(given, trained)
    return []


def _notes_on_totals(given: Scale, trained: Scale) -> list[str]:
    """Compare what cells were scaled to before the logarithm."""
    if given.total and trained.total:
        ratio = given.total / trained.total
        if not 1 / APART < ratio < APART:
            raise ValueError(_other_scale(given, trained))
        return [] if 1 / CLOSE < ratio < CLOSE else [_other_scale(given, trained)]
    ratio = given.step / trained.step if trained.step else 0.0
    if not ratio or 1 / APART < ratio < APART:
        return []
    return [
        f"Before the logarithm, the value of one molecule is {_times(ratio, 1, 'more', 'less')} in the query than in "
        "the training cells: were the cells scaled to another total, or are they of another depth?"
    ]


def _other_scale(given: Scale, trained: Scale) -> str:
    """Return a message that names both scales, and how to convert the query."""
    way = ""
    if trained.kind in UNDO:
        before = UNDO[given.kind]
        if given.total and trained.total and not 1 / CLOSE < given.total / trained.total < CLOSE:
            before += f" * {trained.total / given.total:.4g}"
        way = f", or convert the values x of the query: {DO[trained.kind].format(before)}"
    return (
        f"The query holds {given}, but the model was trained on {trained}: name the layer with the right values "
        f"(layer=){way}."
    )


def _refuse(odd: str, x: Matrix, certain: bool) -> list[str]:
    """Raise a ValueError; return a note instead if there are few cells, or nothing is certain."""
    if certain and x.shape[0] >= ENOUGH:
        raise ValueError(odd)
    return [odd.replace("holds", "seems to hold")]


def _notes_on_looks(x: Matrix, features: Features) -> list[str]:
    """Return notes by how the values look, for a model whose file does not say what it was trained on."""
    if scales.looks_like_counts(x, len(features.genes)) == features.like_counts:
        return []
    what, other = "counts", "log-transformed or other continuous values"
    trained, given = (what, other) if features.like_counts else (other, what)
    odd = (
        f"The query holds {given}, but the model was trained on {trained}: name the layer with the right values "
        "(layer=), or convert them."
    )
    return _refuse(odd, x, True)


def _note_on_depth(query: float, training: float) -> list[str]:
    if not training or training / 5 <= query <= training * 5:
        return []
    return [
        f"The query's cells have {_times(query, training)} counts than the training cells (median {query:.0f} against "
        f"{training:.0f} over the matched genes): their coordinates may be off."
    ]


def _notes_on_means(x: Matrix, features: Features, found: np.ndarray) -> list[str]:
    """Compare the mean values of the genes, as the encoder sees them."""
    seen = found[: features.n_seen]
    mean, _ = mean_and_variance(features.normalise(x, found))
    query, training = ((means / features.scale)[seen] for means in (mean, features.mean))
    notes = []
    if not (features.counts or features.negative):
        level, usual = query.sum(), training.sum()
        if level and usual and not usual / 3 <= level <= usual * 3:
            notes.append(
                f"The query's values are {_times(level, usual, 'larger', 'smaller')} than those of the training cells: "
                "are they normalised and transformed in the same way?"
            )
    correlation = _agreement(query, training) if seen.sum() >= ENOUGH else 1.0
    if correlation < 0.3:
        notes.append(
            "Genes that are high in the training cells are not high in the query (Spearman correlation "
            f"{correlation:.2f} over {seen.sum()} genes): do the names mean the same genes?"
        )
    return notes


def _agreement(query: np.ndarray, training: np.ndarray) -> float:
    """Return the Spearman correlation of the means of genes, 1 where they do not distinguish the genes."""
    from scipy.stats import spearmanr

    if np.std(training) < 0.3 or not np.ptp(query):  # the means of centred values are chance
        return 1.0
    return float(spearmanr(query, training).statistic)


def _times(a: float, b: float, more: str = "more", fewer: str = "fewer") -> str:
    """Return how far `a` is from `b` as text, such as "12 times more"."""
    return f"{a / b:.0f} times {more}" if a > b else f"{b / a:.0f} times {fewer}"
