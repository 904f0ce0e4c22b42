"""What a table of scores says: means over runs, how cells were held out, and whether labels were found, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from tripletomics.baselines import title_of
from tripletomics.evaluation.scores import MAIN, METRICS
from tripletomics.keys import space_titles
from tripletomics.labels import TOO_FEW, verdict
from tripletomics.names import percent

OF_NAMES = "hierarchical_f1"  # of types on several levels alone


def collect(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean and the sd over runs; the rows keep their order.

    The mean of p-values is not a p-value; twice the median is (Meinshausen, Meier & Bühlmann 2009, p-Values for
    high-dimensional regression).

    Parameters
    ----------
    runs
        Rows as of `score` of one or more seeds, with the columns in `by`.
    by
        Columns that identify a row together with metric, type and split, such as method and space.
    """
    keys = [*by, "metric", "type", "split"]
    groups = runs.groupby(keys, sort=False)
    table = groups["value"].agg(value="mean", sd="std", n_seeds="count").reset_index()
    tests = (table["metric"].isin(["permutation_p", "reachable_p"]) & (table["n_seeds"] > 1)).to_numpy()
    table.loc[tests, "value"] = np.minimum(1, 2 * groups["value"].median().to_numpy()[tests])
    known = table["metric"].map(METRICS)
    table["family"] = [metric.family for metric in known]
    of_labels = ["labels", "retrieval", "verification", "prediction", "order"]
    learned = (table["split"] == "train") & table["family"].isin(of_labels)
    table["label_circular"] = [metric.circular for metric in known] | learned.to_numpy()
    table["null"] = groups["null"].first().to_numpy()
    return table


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the names of methods and spaces for readers, in place of those that users type."""
    names = {"space": table["space"].map(space_titles(table["space"]))}
    if "method" in table:
        names["method"] = table["method"].map(title_of)
    return table.assign(**names)


def drawn_at_random(hold_out: str) -> bool:
    """Return whether cells were held out as a fraction of each type, and not by a column."""
    try:
        float(hold_out)
    except ValueError:
        return False
    return True


def split_sentence(hold_out: str, splits: Sequence[np.ndarray]) -> str:
    """Return in words how cells were held out, and when that is optimistic."""
    sizes = [int(held_out.sum()) for held_out in splits]
    cells = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    same = len(splits) > 1 and all(np.array_equal(held_out, splits[0]) for held_out in splits)
    if not drawn_at_random(hold_out):
        again = ", the same in every fit" if same else ""
        return f"Held out: {cells} of {len(splits[0]):,} cells, by {hold_out}{again}."
    return (
        f"Held out: {cells} of {len(splits[0]):,} cells, {percent(float(hold_out))} of each type at random, which is "
        "optimistic: they may come from the same donors and runs as the training cells."
    )


def embedding_sentence(use_rep: str, blind: bool) -> str:
    """Return in words what scores of an embedding's cells are worth; `blind`: made without the held-out cells."""
    if blind:
        return f"The data is the embedding {use_rep}, made from the training cells alone."
    return (
        f"The data is the embedding {use_rep}. The embedding may have seen the held-out cells; then scores are better "
        "than for new cells."
    )


def overview(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the main scores as text, "held-out ± sd (permuted)", a row for each method and space."""
    shown = [MAIN[0], OF_NAMES, *MAIN[1:]]
    main = table[(table["type"] == "") & (table["space"] != "") & table["metric"].isin(shown)]

    def words(rows: pd.DataFrame) -> str:
        values, sds = (dict(zip(rows["split"], rows[column], strict=True)) for column in ("value", "sd"))
        if np.isnan(values.get("held-out", np.nan)):
            return "-"
        spread = "" if np.isnan(sds["held-out"]) else f" ± {sds['held-out']:.3f}"
        return f"{values['held-out']:.3f}{spread} ({values.get('permuted', np.nan):.3f})"

    cells = {key: words(rows) for key, rows in main.groupby([*by, "metric"], sort=False)}
    wide = pd.Series(cells).rename_axis([*by, "metric"]).unstack("metric")  # sort=False mixes values up
    wide = wide.reindex(main.set_index([*by]).index.unique())
    return wide[[metric for metric in shown if metric in wide]]


def headline(table: pd.DataFrame, runs: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Return in words which map names the types of held-out cells best, or that none does, or that none is ahead.

    A map is ahead if the 95 % t-interval of its difference to the next one, seed by seed in `runs`, is above 0.
    """
    rows = table[(table["metric"] == "knn_macro_f1") & (table["space"] == "map")].set_index(["method", "split"])
    said = found_in(table[table["space"] == "map"], "method")
    found = [method for method, word in said.items() if word == "signal"]
    if not found and said and "not tested" not in said.values():
        if "too few" in said.values():
            return f"{TOO_FEW.capitalize()} whether a map names their types: hold out more of them."
        return "NO SIGNAL: no map names the types of held-out cells better than with permuted labels."
    if not found:
        return ""
    value = rows["value"].astype(float).to_dict()
    ranked = sorted(found, key=lambda method: -value[method, "held-out"])
    scores = ", ".join(f"{titles[method]} {value[method, 'held-out']:.3f}" for method in ranked)
    scores += f"; permuted labels give {value[ranked[0], 'permuted']:.3f}"
    scores = f"Macro-F1 of held-out cells on the map: {scores}"
    if len(ranked) == 1:
        return f"{scores}."
    f1 = runs[(runs["metric"] == "knn_macro_f1") & (runs["space"] == "map") & (runs["split"] == "held-out")]
    first, second = (f1[f1["method"] == method].set_index("seed")["value"] for method in ranked[:2])
    apart = (first - second).dropna()
    if len(apart) < 2:
        return f"{scores}. This is one seed, which gives no ranking."
    half = stats.t.ppf(0.975, len(apart) - 1) * apart.std() / np.sqrt(len(apart))
    low, high = apart.mean() - half, apart.mean() + half
    words = f"{apart.mean():.3f} (95 % interval {low:.3f} to {high:.3f} over {len(apart)} seeds)"
    if low > 0:
        return f"{titles[ranked[0]]} is the map that names the types best, ahead by {words}. {scores}."
    return f"No map is ahead: {titles[ranked[0]]} and {titles[ranked[1]]} differ by {words}. {scores}."


def found_in(table: pd.DataFrame, by: str | list[str]) -> dict[Any, str]:
    """Return the `labels.verdict` of each method or space whose held-out labels were tested."""
    tests = table[(table["split"] == "held-out") & table["metric"].isin(["permutation_p", "reachable_p"])]
    found: dict[Any, str] = {}
    for key, rows in tests.groupby(by, sort=False, observed=True):
        p = rows.set_index("metric")["value"].astype(float)
        if "permutation_p" in p:
            found[key] = verdict(p["permutation_p"], p.get("reachable_p", 0.0))
    return found


def verdicts(table: pd.DataFrame, by: str) -> list[str]:
    """Return a sentence for each method and space: whether the labels are found in its held-out cells.

    With types on several levels, another sentence has the scores of each level.
    """
    held = table[(table["type"] == "") & table["metric"].isin(["knn_macro_f1", "permutation_p", "reachable_p"])]
    lines = []
    keys = [by] if by == "space" else [by, "space"]
    for key, rows in held.groupby(keys, sort=False, observed=True):
        value = rows.set_index(["metric", "split"])["value"]
        f1, p = value.get(("knn_macro_f1", "held-out"), np.nan), value.get(("permutation_p", "held-out"), np.nan)
        null, reachable = value.get(("knn_macro_f1", "permuted"), np.nan), value.get(("reachable_p", "held-out"), 0.0)
        said = verdict(p, reachable)
        name = ", ".join(map(str, key))
        if np.isnan(f1):
            lines.append(f"{name}: no held-out cell could be scored.")
        elif said == "not tested":
            lines.append(f"{name}: held-out macro-F1 {f1:.3f}, not tested: the held-out cells are of one type.")
        elif said == "too few":
            lines.append(
                f"{name}: {TOO_FEW.upper()}. Held-out macro-F1 {f1:.3f}, permuted labels {null:.3f}; even with four of "
                f"five named right, p would be {reachable:.2g}. Hold out more of each type."
            )
        elif said == "no signal":
            lines.append(f"{name}: NO SIGNAL. Held-out macro-F1 {f1:.3f}, permuted labels {null:.3f} (p = {p:.2g}).")
        else:
            lines.append(f"{name}: held-out macro-F1 {f1:.3f}, permuted labels {null:.3f}.")
    return lines + _on_levels(table, keys)


def _on_levels(table: pd.DataFrame, keys: list[str]) -> list[str]:
    """Return a sentence for each method and space on the names of each level; none if there is one level."""
    lines = []
    found = table[table["metric"].isin(["level_f1", OF_NAMES])]
    for key, rows in found.groupby(keys, sort=False, observed=True):
        by_split = {split: own.set_index("type")["value"] for split, own in rows.groupby("split")}
        null = by_split.get("permuted", pd.Series(dtype=float))
        words = [
            f"{level or 'hierarchical F1'} {value:.3f} ({null.get(level, np.nan):.3f})"
            for level, value in by_split.get("held-out", null[:0]).items()
        ]
        if words:
            lines.append(f"{', '.join(map(str, key))}: held-out macro-F1 on levels: {', '.join(words)}.")
    return lines + ["In brackets: with names permuted among those of the same parent."] * bool(lines)
