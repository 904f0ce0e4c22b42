"""What the commands print: predicted types, groups, scores, and the files that were written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tripletomics.names import percent, printable

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def print_groups(adata: AnnData | MuData, prefix: str, groups: str) -> None:
    """Print the label and the label set of each group."""
    columns = [f"{prefix}_group_label", f"{prefix}_group_label_set"]
    named = adata.obs[adata.obs[columns[0]].notna()]
    for name, cells in named.groupby(groups, observed=True)[columns]:
        label, credible = cells.iloc[0]
        print(printable(f"{groups} {name}, {len(cells):,} cells: {label} ({credible or 'no type is credible'})"))


def print_mapping(adata: AnnData | MuData, prefix: str, groups: str) -> None:
    """Print the predicted types and values, and how the genes were matched."""
    record = adata.uns[f"{prefix}_mapping"]
    if "rejected" in record:
        _print_types(adata, prefix)
    for name in record.get("ordered", ()):
        print(printable(f"Predicted {name}: obs column {prefix}_{name}."))
    genes = record["matched"] + record["missing"]
    if "use_rep" in record:
        print(printable(f"The {genes:,} dimensions of {record['use_rep']} were read."))
    else:
        print(
            f"{record['matched']:,} of the model's {genes:,} genes were found ({percent(record['weight'])} of "
            "their weight)."
        )
    if record["missing"]:
        print(printable("Missing, heaviest first: " + ", ".join(record["missing_genes"][:5]) + "."))
    if "rejected" in record:
        unlikely = record.get("unlikely", 0)
        far = record["rejected"] - unlikely
        print(f"{far:,} of {adata.n_obs:,} cells lie too far from all known types and are unassigned.")
        if unlikely:
            print(f"{unlikely:,} more are unassigned because no name has a probability of one half.")
        print(
            f"{percent(record['agrees'], 1)} of the cells have their best type among their 15 nearest reference cells "
            "on the map."
        )
    if "fdr" in record:
        print(
            f"{record['novel']:,} of {adata.n_obs:,} cells are on the list of novel cells (false discovery rate "
            f"{record['fdr']:g}). With {record['calibration_cells']:,} calibration cells, fewer than "
            f"{record['shortest_list']:,} novel cells cannot be found."
        )
    if f"{prefix}_group_label" in adata.obs and groups in adata.obs:
        print_groups(adata, prefix, groups)
    if record.get("seen"):
        print(f"{record['seen']:,} of {adata.n_obs:,} cells were part of the fit and say nothing about new cells.")


def _print_types(adata: AnnData | MuData, prefix: str) -> None:
    """Print a table of the predicted types."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = adata.obs.groupby(f"{prefix}_label", observed=True)[f"{prefix}_confidence"].agg(["size", "median"])
    shown = Table("predicted type", box=box.SIMPLE_HEAD)
    for header in ("cells", "share", "median\nconfidence"):
        shown.add_column(header, justify="right")
    for name, (size, confidence) in cells.sort_values("size", ascending=False, kind="stable").iterrows():
        shown.add_row(printable(name), f"{size:,.0f}", percent(size / adata.n_obs, 1), f"{confidence:.2f}")
    Console(markup=False, emoji=False, highlight=False).print(shown)


def print_table(table: pd.DataFrame, by: list[str]) -> None:
    """Print the main scores, one line per space."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from tripletomics.evaluation import METRICS, named, overview

    rows = overview(named(table), by)
    shown = Table(*by, box=box.SIMPLE_HEAD)
    for metric in rows.columns:
        shown.add_column(METRICS[metric].title, justify="right")
    for key, row in rows.iterrows():
        words = map(printable, key if isinstance(key, tuple) else (key,))
        shown.add_row(*words, *(score.replace(" (", "\n(") for score in row))
    Console(markup=False, emoji=False, highlight=False).print(shown)
    print("Scores of held-out cells, mean ± sd over seeds; in brackets those of permuted labels or coordinates.")


def report_written(*paths: Path | None) -> None:
    """Print which files were written."""
    print("Wrote " + ", ".join(str(path) for path in paths if path is not None))
