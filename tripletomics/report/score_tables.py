"""Scores as the page shows them: a value, its null beneath, and a tint only where there is signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tripletomics.evaluation import MAIN, METRICS
from tripletomics.evaluation.scores import Metric
from tripletomics.keys import SPACES
from tripletomics.labels import TOO_FEW, verdict
from tripletomics.names import percent

SHOWN = (*MAIN, "a50", "held_out_auroc", "silhouette")
FURTHER = "order"  # the family of scores of further columns, of which the type is the column
FAMILIES = {
    "labels": "Labels",
    "retrieval": "Retrieval",
    "verification": "Verification",
    "prediction": "Prediction",
    "unseen": "Types that were never seen",
    "structure": "Structure of the data",
    "page": "Use of the page",
    "exchangeability": "Held-out and training cells of a type",
    "collapse": "Collapse",
    FURTHER: "Column",
    "batches": "Batches",
}  # fmt: skip; without the cost: seconds on a machine that did other work, too, are no result


@dataclass(frozen=True)
class Entry:
    """One score."""

    text: str
    value: float | None = None
    sd: str = ""
    null: str = ""
    how: str = ""  # how the null was made
    tint: float = 0.0  # 0 to 1: how far above the null, compared with the best of the column


@dataclass(frozen=True)
class Row:
    """The scores of a method in one space."""

    title: str
    verdict: str  # "" where there is signal, else why not
    entries: list[Entry]


@dataclass(frozen=True)
class ScoreTable:
    """One table: metrics by methods, those of maps apart from the others."""

    title: str
    heads: list[Metric]  # of the columns
    groups: dict[str, list[Row]]
    nulls: list[str]  # how they were made


class ScoreTables:
    """The tables of a page, from the tidy table of a comparison."""

    def __init__(self, table: pd.DataFrame, titles: Mapping[str, str], methods: Sequence[str]) -> None:
        table = table.assign(split=table["split"].replace("null", "permuted"))  # as earlier versions wrote it
        self.table, self.titles = table, titles
        plain = table[(table["type"].fillna("").astype(str) == "") | (table["family"] == FURTHER)]
        self.numbers: dict[tuple, Any] = {
            (row.method, row.space, row.metric, row.split): row for row in plain.itertuples(index=False)
        }
        self.metrics = [metric for metric in METRICS if metric in set(plain["metric"])]
        measured = table[table["family"] != "cost"]
        scored = set(zip(measured["method"], measured["space"], strict=True))
        self.pairs = [(method, space) for space in SPACES for method in methods if (method, space) in scored]

    def row(self, method: str, space: str, metric: str, split: str) -> Any:
        """Return one row of the table, or None; a value of all cells counts as held-out."""
        if METRICS[metric].family == "page" and split == "held-out":
            split = ""
        return self.numbers.get((method, space, metric, split))

    def verdict(self, method: str, space: str) -> str:
        """Return what the permutation test found, an empty text where there is signal."""
        row, least = (self.numbers.get((method, space, m, "held-out")) for m in ("permutation_p", "reachable_p"))
        said = "not tested" if row is None else verdict(row.value, 0.0 if least is None else least.value)
        words = {"signal": "", "too few": TOO_FEW, "no signal": f"no signal (p = {row.value:.2g})" if row else ""}
        return words.get(said, said)

    def scores(self, title: str, metrics: Sequence[str], split: str) -> ScoreTable | None:
        """Return the table of some metrics; None if none of them was measured."""
        metrics = [m for m in metrics if any(self.row(*pair, m, split) is not None for pair in self.pairs)]
        if not metrics:
            return None
        rows = {pair: [self.entry(*pair, metric, split) for metric in metrics] for pair in self.pairs}
        heads = [replace(METRICS[metric], circular=self.circular(metric, split)) for metric in metrics]
        groups: dict[str, list[Row]] = {}
        for (method, space), entries in rows.items():
            if any(entry.text for entry in entries):
                row = Row(self.titles.get(method, method), self.verdict(method, space), entries)
                groups.setdefault(SPACES[space], []).append(row)
        nulls = sorted({entry.how for entries in rows.values() for entry in entries if entry.how})
        return ScoreTable(title, heads, groups, nulls)

    def circular(self, metric: str, split: str) -> bool:
        """Return whether a score rises with how hard the labels were used."""
        same = self.table[(self.table["metric"] == metric) & (self.table["split"] == split)]
        return bool(METRICS[metric].circular or same["label_circular"].fillna(False).astype(bool).any())

    def entry(self, method: str, space: str, metric: str, split: str) -> Entry:
        """Return one score with its null, tinted by its share of the best gain over the null in this column."""
        row = self.row(method, space, metric, split)
        if row is None:
            return Entry("")
        if not np.isfinite(row.value):
            return Entry("–")
        null = self.row(method, space, metric, "permuted") if split == "held-out" else None
        null = null if null is not None and np.isfinite(null.value) else None
        tint = 0.0
        if split == "held-out" and not self.circular(metric, split):
            best = max((self.gain(*pair, metric) for pair in self.pairs if pair[1] == space), default=0.0)
            tint = max(0.0, self.gain(method, space, metric)) / best if best > 0 else 0.0
        return Entry(
            text=written(row.value, metric),
            value=float(row.value),
            sd=written(row.sd, metric) if np.isfinite(row.sd) else "",
            null=written(null.value, metric) if null is not None else "",
            how=str(null.null) if null is not None else "",
            tint=round(tint, 2),
        )

    def gain(self, method: str, space: str, metric: str) -> float:
        """Return how far a held-out score lies above its null; 0 without signal."""
        row, null = (self.row(method, space, metric, split) for split in ("held-out", "permuted"))
        if self.verdict(method, space) or row is None or null is None:
            return 0.0
        gain = (row.value - null.value) * (1 if METRICS[metric].higher else -1)
        return float(gain) if np.isfinite(gain) else 0.0

    def of_map(self, method: str) -> tuple[str, str]:
        """Return the name and the verdict of the map of a method, or of its metric space if it has no map."""
        space = "map" if (method, "map") in self.pairs else "metric"
        return f"{self.titles.get(method, method)}, {SPACES[space]}", self.verdict(method, space)

    def nulls(self, method: str) -> dict[str, float]:
        """Return the null of the held-out macro-F1 in each space of a method."""
        found = {space: self.numbers.get((method, space, "knn_macro_f1", "permuted")) for space in SPACES}
        return {space: float(row.value) for space, row in found.items() if row is not None}

    def caption(self, method: str) -> str:
        """Return the held-out macro-F1 of a map and its null, for below the map."""
        entry = self.entry(method, "map", "knn_macro_f1", "held-out")
        words = f"held-out F1 {entry.text}" if entry.value is not None else "held-out F1 not measured"
        return words + (f" · permuted {entry.null}" if entry.null else "")

    def recall(self) -> tuple[list[dict[str, str]], dict[str, list[Entry]]]:
        """Return the recall of each type: the methods with their verdicts, and for each type one entry per method."""
        rows = self.table[(self.table["metric"] == "recall") & (self.table["type"].fillna("") != "")]
        numbers = {(row.method, row.space, str(row.type), row.split): row for row in rows.itertuples(index=False)}
        pairs = [pair for pair in self.pairs if any(key[:2] == pair for key in numbers)]
        heads = [
            {"title": self.titles.get(m, m), "space": SPACES[space], "verdict": self.verdict(m, space)}
            for m, space in pairs
        ]
        entries: dict[str, list[Entry]] = {}
        for name in dict.fromkeys(rows.loc[rows["split"] == "held-out", "type"].astype(str)):
            for pair in pairs:
                score, null = (numbers.get((*pair, name, split)) for split in ("held-out", "permuted"))
                entries.setdefault(name, []).append(recall_entry(score, null, bool(self.verdict(*pair))))
        return heads, entries

    def families(self, split: str) -> Iterator[ScoreTable]:
        """Yield one table for each family of scores."""
        for family, title in FAMILIES.items():
            for part, heading in self._by_column(title) if family == FURTHER else [(self, title)]:
                names = [m for m in part.metrics if METRICS[m].family == family and m != "recall"]
                if scores := part.scores(heading, names, split):
                    yield scores

    def _by_column(self, title: str) -> Iterator[tuple[ScoreTables, str]]:
        """Yield the tables of each further column alone, and their title."""
        further = self.table["family"] == FURTHER
        for column in self.table.loc[further, "type"].astype(str).unique():
            rows = self.table[~further | (self.table["type"] == column)]
            yield (
                ScoreTables(rows, self.titles, list(dict.fromkeys(method for method, _ in self.pairs))),
                (f"{title} {column!r}"),
            )


def recall_entry(score: Any, null: Any, no_signal: bool) -> Entry:
    """Return the recall of one type, tinted by itself."""
    if score is None or not np.isfinite(score.value):
        return Entry("–")
    chance = f"{null.value:.2f}" if null is not None and np.isfinite(null.value) else ""
    tint = 0.0 if no_signal else round(float(score.value), 2)
    return Entry(f"{score.value:.2f}", float(score.value), null=chance, tint=tint)


def written(value: float, metric: str) -> str:
    """Return a score with three decimals, and shares of the page in per cent."""
    if METRICS[metric].family == "page":
        return percent(value, 2)
    return f"{value:.1e}" if metric in ("permutation_p", "reachable_p") and 0 < value < 0.001 else f"{value:.3f}"
