"""Every score of coordinates, with what it means and when it proves nothing.

`METRICS` lists the scores by the names that tables use. Held-out cells are scored against the training cells, by
labels and by a label-free reference; the null says what the same score is when there is nothing to find. `scores`
makes the numbers, and `summary` takes their means over runs and says in words what they show.
"""

from tripletomics.evaluation.further import NONE_WITHIN, column_sentences, no_freedom_sentence
from tripletomics.evaluation.scores import (
    COLUMNS,
    MAIN,
    METRICS,
    PERMUTED,
    REFITTED,
    SHUFFLED,
    UNUSED,
    GroundTruth,
    Metric,
    check_unseen,
    confusion,
    score,
    score_novel,
    score_permuted,
    score_shuffled,
    score_unseen,
    unseen_types,
)  # fmt: skip
from tripletomics.evaluation.summary import (
    collect,
    drawn_at_random,
    embedding_sentence,
    found_in,
    headline,
    named,
    overview,
    split_sentence,
    verdicts,
)  # fmt: skip

__all__ = [
    "COLUMNS",
    "MAIN",
    "METRICS",
    "NONE_WITHIN",
    "PERMUTED",
    "REFITTED",
    "SHUFFLED",
    "UNUSED",
    "GroundTruth",
    "Metric",
    "check_unseen",
    "collect",
    "column_sentences",
    "confusion",
    "drawn_at_random",
    "embedding_sentence",
    "found_in",
    "headline",
    "named",
    "no_freedom_sentence",
    "overview",
    "score",
    "score_novel",
    "score_permuted",
    "score_shuffled",
    "score_unseen",
    "split_sentence",
    "unseen_types",
    "verdicts",
]  # fmt: skip
