"""What the commands print: sentences, tables of types and scores, and the names of files that were written.

In a terminal, a table fits the width. Elsewhere it is complete and tab-separated, and stdout has nothing else.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics.names import harmless, percent, printable

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

HEADS = {  # of a table of scores in a terminal, and what they mean
    "knn_macro_f1": ("macro\nF1", "macro-F1 of a vote of the 15 nearest training cells"),
    "hierarchical_f1": ("hier.\nF1", "F1 that counts a name for all names above it"),
    "map_at_r": ("mAP\n@R", "mean average precision at R: are the nearest cells of the same type?"),
    "knn_recall_30": ("recall\n@30", "share of the data's 30 nearest neighbours that are found again"),
    "knn_recall_within_types": ("recall\nwithin", "the same inside each type, minus chance"),
    "trustworthiness": ("trust-\nworthy", "are neighbours on the map neighbours in the data?"),
    "centroid_spearman": ("type\ndist.", "correlation of the distances between types with those in the data"),
}


def say(text: str, aside: bool = False) -> None:
    """Print sentences, in a terminal wrapped to its width. `aside`: on stderr, if stdout holds a table."""
    text = printable(text)
    if not sys.stdout.isatty():
        print(text, file=sys.stderr if aside else sys.stdout)
        return
    from rich.console import Console

    width = Console().width
    for line in text.split("\n"):
        remark = re.match(r".*\S {3,}(?=\S)", line)  # a column of remarks goes on below itself
        hang = " " * (remark.end() if remark and remark.end() < width // 2 else 0)
        print(textwrap.fill(line, width, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False))


def print_rows(rows: pd.DataFrame, shown: Sequence[Sequence[str]], heads: Sequence[str]) -> None:
    """Print a table: in a terminal the rows `shown` under short heads, elsewhere all rows as TSV."""
    if not sys.stdout.isatty():
        plain = harmless(rows.map(lambda text: " ".join(printable(text).split()) if isinstance(text, str) else text))
        print(plain.to_csv(sep="\t", index=False, na_rep="nan", lineterminator="\n"), end="")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, head in enumerate(heads):
        look: dict[str, Any] = {"justify": "right", "no_wrap": True} if i else {"overflow": "fold"}
        table.add_column(head, **look)
    for row in shown:
        table.add_row(*map(printable, row))
    Console(markup=False, emoji=False, highlight=False).print(table)


def _group_sentences(adata: AnnData | MuData, prefix: str, groups: str) -> list[str]:
    """Return the label and the label set of each group."""
    columns = [f"{prefix}_group_label", f"{prefix}_group_label_set"]
    named = adata.obs[adata.obs[columns[0]].notna()]
    found = [(name, len(cells), *cells.iloc[0]) for name, cells in named.groupby(groups, observed=True)[columns]]
    return [
        f"{groups} {name}, {n:,} cell{'s' * (n != 1)}: {label} ({credible or 'no type is credible'})"
        for name, n, label, credible in found
    ]


def mapping_sentences(adata: AnnData | MuData, prefix: str, groups: str) -> list[str]:
    """Return in words which values were predicted, how the genes were matched, and how many cells have no type."""
    record = adata.uns[f"{prefix}_mapping"]
    said = [f"Predicted {name}: obs column {prefix}_{name}." for name in record.get("ordered", ())]
    genes = record["matched"] + record["missing"]
    if "use_rep" in record:
        said.append(f"The {genes:,} dimensions of {record['use_rep']} were read.")
    else:
        weight = percent(record["weight"])
        said.append(f"{record['matched']:,} of the model's {genes:,} genes were found ({weight} of their weight).")
    if record["missing"]:
        said.append("Missing, heaviest first: " + ", ".join(record["missing_genes"][:5]) + ".")
    if "rejected" in record:
        unlikely = record.get("unlikely", 0)
        far = record["rejected"] - unlikely
        said.append(f"{far:,} of {adata.n_obs:,} cells lie too far from all known types and are unassigned.")
        if unlikely:
            said.append(f"{unlikely:,} more are unassigned because no name has a probability of one half.")
        said.append(
            f"{percent(record['agrees'], 1)} of the cells have their best type among their 15 nearest reference cells "
            "on the map."
        )
    if "fdr" in record:
        said.append(
            f"{record['novel']:,} of {adata.n_obs:,} cells are on the list of novel cells (false discovery rate "
            f"{record['fdr']:g}). With {record['calibration_cells']:,} calibration cells, fewer than "
            f"{record['shortest_list']:,} novel cells cannot be found."
        )
    if f"{prefix}_group_label" in adata.obs and groups in adata.obs:
        said += _group_sentences(adata, prefix, groups)
    return said


def types_of(adata: AnnData | MuData, prefix: str) -> pd.DataFrame:
    """Return how many cells have each predicted type, and the median of their confidence."""
    names = {"size": "cells", "median": "median_confidence"}
    grouped = adata.obs.groupby(f"{prefix}_label", observed=True)[f"{prefix}_confidence"]
    table = grouped.agg([*names]).rename(columns=names).sort_values("cells", ascending=False, kind="stable")
    table.insert(1, "share", table["cells"] / adata.n_obs)
    return table.rename_axis("predicted_type").reset_index().astype({"predicted_type": str})


def print_types(adata: AnnData | MuData, prefix: str) -> None:
    """Print a table of the predicted types."""
    table = types_of(adata, prefix)
    shown = [
        (name, f"{size:,.0f}", percent(share, 1), f"{confidence:.2f}")
        for name, size, share, confidence in table.itertuples(index=False)
    ]
    print_rows(table, shown, ("predicted type", "cells", "share", "median\nconfidence"))


def print_scores(table: pd.DataFrame, by: Sequence[str]) -> None:
    """Print the main scores, one line per space."""
    from tripletomics.evaluation import METRICS, named, overview

    by = [name for name in by if name == "space" or table[name].nunique() > 1]
    texts = overview(named(table), by)
    metrics = [str(name) for name in texts]
    heads = ["\n".join(by), *(HEADS[name][0] if name in HEADS else METRICS[name].title for name in metrics)]
    shown = []
    for key, row in texts.iterrows():
        names = key if isinstance(key, tuple) else (key,)
        shown.append(["\n".join(map(str, names)), *(re.sub(r" (?=[±(])", "\n", text) for text in row)])
    print_rows(main_scores(table, by, metrics), shown, heads)
    if sys.stdout.isatty():
        _print_legend(table, [name for name in metrics if name in HEADS])


def main_scores(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return the numbers of the table of scores: of held-out cells, their sd over seeds, and the permuted ones."""
    rows = table[(table["type"] == "") & (table["space"] != "") & table["metric"].isin(metrics)]
    cells = rows.set_index([*by, "metric", "split"])[["value", "sd"]]
    wide = cells.unstack(["metric", "split"])  # sort=False mixes values up
    wide = wide.reindex(rows.set_index([*by]).index.unique())
    parts = {"": ("value", "held-out"), "_sd": ("sd", "held-out"), "_permuted": ("value", "permuted")}
    keys = {f"{name}{end}": (column, name, split) for name in metrics for end, (column, split) in parts.items()}
    found = {name: key for name, key in keys.items() if key in wide and wide[key].notna().any()}
    return wide[[*found.values()]].set_axis([*found], axis=1).reset_index()


def _print_legend(table: pd.DataFrame, metrics: Sequence[str]) -> None:
    """Say what the numbers are, and what the heads mean."""
    several = ", ± sd over seeds" if table["n_seeds"].max() > 1 else ""
    say(f"Scores of held-out cells{several}; in brackets those of permuted labels or coordinates.")
    for name in metrics:
        head = HEADS[name][0].replace("-\n", "").replace("\n@", "@").replace("\n", " ")
        say(f"  {head:<13}   {HEADS[name][1]}")
    print()


def say_written(*paths: Path | None, aside: bool = False) -> None:
    """Say which files were written."""
    say("Wrote " + ", ".join(str(path) for path in paths if path is not None), aside)
