"""What a figure takes from a table of scores: which rows, how far above their null, and whether there is any signal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tripletomics import baselines
from tripletomics.evaluation import METRICS, found_in
from tripletomics.keys import SPACES
from tripletomics.parts import did_you_mean
from tripletomics.pl.palette import listed

NEEDED = ("space", "metric", "type", "split", "value", "sd", "n_seeds")
MIN_SCALE = 0.25  # of the scores: on a shorter scale a small difference would look large
SHOWN = ("knn_macro_f1", "map_at_r", "knn_recall_within_types", "trustworthiness", "centroid_spearman")
SHOWN_NARROW = ("knn_macro_f1", "knn_recall_within_types", "centroid_spearman")


def checked_table(table: Any) -> pd.DataFrame:
    """Check a table of scores and return the rows that are not of a single type, each with a `method`.

    In a table of one method, as :func:`tripletomics.evaluate` returns it, the key of each space is its method.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a DataFrame, not {type(table).__name__}. tt.evaluate returns one.")
    if lacks := [name for name in NEEDED if name not in table]:
        raise ValueError(
            f"table lacks the columns {listed(lacks)}. Pass what tt.evaluate returns, or the .table of tt.compare. "
            f"Columns: {listed(table.columns)}."
        )
    table = table.assign(**{name: table[name].fillna("").astype(str) for name in ("space", "metric", "type", "split")})
    table["split"] = table["split"].replace("null", "permuted")  # as earlier versions wrote it
    table["method"] = table["method"].astype(str) if "method" in table else table["space"]
    table = table[table["type"] == ""]
    twice = table.duplicated(["method", "space", "metric", "split"])
    if twice.any():
        method, metric, split = table.loc[twice, ["method", "metric", "split"]].iloc[0]
        raise ValueError(
            f"table has two rows for {metric!r} of {method!r} ({split}); one row is one number. Draw one table at a "
            "time."
        )
    return table


def choose_metrics(table: pd.DataFrame, metrics: Sequence[str] | None, choice: Sequence[str] = SHOWN) -> list[str]:
    """Return the metrics to draw: those that are wanted, or a short choice of what is there."""
    rows = table["split"].isin(("held-out", "permuted"))
    compared = table[rows].groupby("metric", sort=False)["split"].nunique()
    present = list(compared.index[compared == 2])
    if isinstance(metrics, str):
        metrics = [metrics]
    for metric in metrics or ():
        if metric not in present:
            if metric in set(table["metric"]):
                raise ValueError(
                    f"metric {metric!r} has no permuted score to compare it with. With one: {listed(present)}."
                )
            near = did_you_mean(metric, present)
            raise ValueError(f"metric {metric!r} is not in the table.{near} Present: {listed(present)}.")
    wanted = list(dict.fromkeys(metrics or [metric for metric in choice if metric in present] or present[:5]))
    if not wanted:
        raise ValueError(
            "table has no metric with both held-out and permuted rows, so nothing to draw. If it was read with pandas "
            "from a file of an earlier version, pass keep_default_na=False, na_values={'value': '', 'sd': ''}: else "
            "'null' is read as missing."
        )
    return wanted


def lower_is_better(metric: str) -> bool:
    """Return whether lower is better; for an unknown metric, higher is."""
    return metric in METRICS and not METRICS[metric].higher


def title_of_metric(metric: str) -> tuple[str, str]:
    """Return the title of a metric, and what a note says about it, such as "minus chance"."""
    title, _, remark = (METRICS[metric].title if metric in METRICS else metric).partition(", ")
    return title, remark


def circular(table: pd.DataFrame, metric: str) -> bool:
    """Return whether a metric rises with how hard the labels were used, whether they mean anything or not."""
    if metric in METRICS and METRICS[metric].circular:
        return True
    rows = table[(table["metric"] == metric) & (table["split"] == "held-out")]
    return "label_circular" in rows and bool(rows["label_circular"].astype(bool).any())


def pairs_of_scores(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the held-out score of each (method, space) next to its permuted one.

    Returns
    -------
    Indexed by method and space, in the order of the table: ``held`` and its ``held_sd``, ``permuted`` and its
    ``permuted_sd``, NaN where one is not known; and whether the held-out score is ``clear``, on the better side of the
    permuted one by more than two sd of both together, where these are known, or ``worse`` than it.
    """
    rows = table[table["metric"] == metric].set_index(["method", "space"])
    held, null = (rows.loc[rows["split"] == split, ["value", "sd"]].astype(float) for split in ("held-out", "permuted"))
    null = null.reindex(held.index)
    gain = (held["value"] - null["value"]) * (-1 if lower_is_better(metric) else 1)
    clear = ~(gain <= 2 * np.nan_to_num(np.hypot(held["sd"], null["sd"])))  # not a score without a permuted one
    return pd.DataFrame({"held": held["value"], "held_sd": held["sd"], "permuted": null["value"],
                         "permuted_sd": null["sd"], "clear": clear, "worse": gain < 0})  # fmt: skip


def limits(scores: Iterable[float]) -> tuple[float, float]:
    """Return the ends of a scale that holds all scores, and 0 if it is near; NaN are left out."""
    there = np.array([score for score in scores if np.isfinite(score)] or [0.0, 1.0])
    low, high = there.min(), there.max()
    low = 0.0 if 0 < low < 0.3 * high else low
    spare = max(0.09 * (high - low), (MIN_SCALE - (high - low)) / 2)
    return float(low - spare), float(high + spare)


def silent_spaces(table: pd.DataFrame) -> set[tuple[str, str]]:
    """Return each (method, space) whose held-out labels are found no better than permuted ones."""
    return {key for key, said in verdicts(table).items() if said == "no signal"}


def verdicts(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return what the test of held-out labels says about each (method, space) that was tested."""
    return found_in(table, ["method", "space"])


def ranked(drawn: pd.DataFrame, table: pd.DataFrame, silent: set[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return the methods that are drawn with their spaces, the best of the whole table first, whatever is drawn.

    The first of the scores that are drawn by default counts, so that all figures of a table have the same order, and of
    a method its best space. Methods that differ in `structure` alone stay together, in its order, and the best of them
    counts. Methods that are `silent` in all their spaces come after all others, and those that were not measured last,
    both in the same way; ties keep the order of the table.
    """
    spaces: dict[str, list[str]] = {}
    for method, space in zip(drawn["method"], drawn["space"], strict=True):
        if space not in spaces.setdefault(method, []):
            spaces[method].append(space)
    metric = choose_metrics(table, None)[0]
    held = pairs_of_scores(table, metric)["held"].dropna() * (-1 if lower_is_better(metric) else 1)

    def rank(method: str) -> tuple[bool, bool, float]:
        own = [held[method, space] for space in spaces[method] if (method, space) in held.index]
        return not own, all((method, space) in silent for space in spaces[method]), -max(own, default=0.0)

    dials: dict[tuple[str, ...], list[str]] = {}
    for method in spaces:
        dials.setdefault(structure_of(method)[0], []).append(method)
    together = sorted(dials.values(), key=lambda methods: min(map(rank, methods)))
    order = [method for methods in together for method in sorted(methods, key=lambda one: structure_of(one)[1])]
    return [(method, sorted(spaces[method], key=lambda s: s != "map")) for method in order]


def structure_of(method: str) -> tuple[tuple[str, ...], float]:
    """Return the name and the other settings of a method, and its `structure`; NaN where it does not set it."""
    name, _, given = method.partition(":")
    settings = {key.strip(): value for key, _, value in (piece.partition("=") for piece in given.split(","))}
    if name != "tt" or "structure" not in settings:
        return (method,), np.nan
    structure = float(settings.pop("structure"))
    return (name, *sorted(f"{key}={value}" for key, value in settings.items())), structure


def n_seeds(table: pd.DataFrame, metrics: Iterable[str]) -> int:
    """Return how many seeds the held-out scores are the mean of; the fewest, if they differ."""
    rows = table[table["metric"].isin(list(metrics)) & (table["split"] == "held-out")]
    return int(rows["n_seeds"].astype(float).min()) if len(rows) else 1


def headline(table: pd.DataFrame, basis: str) -> tuple[str, float, float, str] | None:
    """Return space, held-out macro-F1, its null, and what its test says, of the map in a basis; None if absent.

    A basis ``"X_umap"`` is the map of the method ``"umap"``, or in a table of one method the space ``"X_umap"``.
    """
    for key in ((method_of(basis), "map"), (basis, basis)):
        rows = table[(table["method"] == key[0]) & (table["space"] == key[1])]
        if len(rows):
            scores = rows[rows["metric"] == "knn_macro_f1"].set_index("split")["value"]
            held, null = (float(scores.get(split, np.nan)) for split in ("held-out", "permuted"))
            return key[1], held, null, verdicts(table).get(key, "not tested")
    return None


def method_of(basis: str) -> str:
    """Return the method whose map a basis holds."""
    return basis.removeprefix("X_")


def title_of(method: str, titles: Mapping[str, str] | None = None) -> str:
    """Return the title of a method or a basis."""
    method = method_of(method)
    for key in (method, f"X_{method}"):
        if titles and key in titles:
            return titles[key]
    if method.endswith("_metric"):
        return f"{title_of(method.removesuffix('_metric'), titles)}, {SPACES['metric']}"
    return baselines.title_of(method)


def check_titles(titles: Mapping[str, str] | None, methods: Iterable[str]) -> None:
    """Raise a ValueError for the title of a method that is not there."""
    known = [method_of(method) for method in methods]
    for name in titles or ():
        if method_of(name) not in known:
            raise ValueError(
                f"titles has {name!r}, which is not drawn.{did_you_mean(name, known)} Drawn: {listed(known)}."
            )
