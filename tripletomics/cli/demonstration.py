"""`tripletomics demo`: the main job on cells that are already installed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tripletomics import datasets, files, tl
from tripletomics.cli.answers import Answer, written
from tripletomics.cli.options import grouped
from tripletomics.cli.printing import say, say_written
from tripletomics.cli.reading import write
from tripletomics.names import percent

if TYPE_CHECKING:
    from anndata import AnnData

HOLD_OUT = 0.3  # 210 cells, at least 2 of the rarest of the 10 types


@grouped
def run_demo(*, out: Path = Path("tripletomics-demo"), progress: bool = True) -> Answer:
    """Map 700 blood cells that come with scanpy, next to UMAP and PCA, and score every map on held-out cells.

    Takes about a minute and downloads nothing.

    Parameters
    ----------
    out
        Folder to write `pbmc.h5ad`, `pbmc.png` and `pbmc.tt` to. It is created.
    progress
        Show a progress bar in a terminal.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{str(out)!r} is a file: name a folder.")
    out.mkdir(parents=True, exist_ok=True)
    table, figure, model = (files.check_writable(out / f"pbmc{end}", end) for end in (".h5ad", ".png", ".tt"))
    os.environ.setdefault("MPLBACKEND", "agg")  # the figure goes to a file

    with _timed("reading", progress):
        adata = datasets.pbmc()
        print(f"{adata.n_obs} blood cells, {adata.n_vars} genes, {adata.obs['cell_type'].nunique()} types")
    with _timed("tripletomics", spinner=False):  # fit has its own bar
        fitted = tl.fit(adata, "cell_type", hold_out=HOLD_OUT, progress=progress)
    held, train, null = (fitted.scores[group] for group in ("held-out", "train", "permuted"))
    with _timed("UMAP", progress):
        umap = _add_baseline(adata, "umap", "X_umap")
    with _timed("PCA", progress):
        pca = _add_baseline(adata, "pca2", "X_pca")
    notes = {"X_tt": held["map"], "X_umap": umap[0], "X_pca": pca[0]}
    with _timed("figure", progress):
        from tripletomics import pl

        scores = {basis: f"held-out F1 {f1:.2f}" for basis, f1 in notes.items()}
        pl.save(pl.compare(adata, "cell_type", scores=scores, show=False), figure)
    with _timed("writing", progress):
        write(adata, table)
        fitted.save(model)

    rows: dict[str, tuple[float | None, ...]] = {
        "tripletomics, map": (held["map"], null["map"], train["map"]),
        "tripletomics, metric space": (held["metric"], null["metric"], train["metric"]),
        "UMAP": (umap[0], None, umap[1]),
        "PCA, 2 components": (pca[0], None, pca[1]),
    }

    def show() -> None:
        _print_scores(rows)
        say(
            f"All were fitted on {percent(1 - HOLD_OUT)} of the cells. Only the held-out cells are evidence: "
            "tripletomics has learned the labels of the training cells.\n"
        )
        say_written(table, figure, model)

    splits = ("held-out", "permuted", "train")
    found = {title: dict(zip(splits, row, strict=True)) for title, row in rows.items()}
    return Answer({"scores": found, "written": written(table, figure, model)}, show)


def _add_baseline(adata: AnnData, method: str, basis: str) -> tuple[float, float]:
    """Write a map that was fitted on the training cells to `obsm`; return its score on held-out and training cells."""
    import numpy as np

    from tripletomics import baselines, features, metrics

    held_out = (adata.obs["tt_split"] == "held-out").to_numpy()
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    y, query_y = codes[~held_out], codes[held_out]
    x, others = adata.X[~held_out], adata.X[held_out]
    genes = features.fit(x, list(adata.var_names), counts=False, seed=0)
    train, query = baselines.METHODS[method].embed(baselines.prepare(genes, x, others, y), 0)["map"]
    adata.obsm[basis] = np.empty((adata.n_obs, 2), dtype=np.float32)
    adata.obsm[basis][~held_out], adata.obsm[basis][held_out] = train, query
    return metrics.knn_macro_f1(train, y, query, query_y), metrics.knn_macro_f1(train, y)


@contextmanager
def _timed(part: str, spinner: bool = True) -> Iterator[None]:
    """Print how long a part took and, on a terminal, that it is running."""
    from rich.console import Console

    started = time.perf_counter()
    with Console(stderr=True).status(part) if spinner else nullcontext():
        yield
    print(f"{part:<14}{time.perf_counter() - started:>6.1f} s")


def _print_scores(rows: dict[str, tuple[float | None, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("15-NN macro-F1", box=box.SIMPLE_HEAD)
    for header in ("held-out\ncells", "held-out cells,\nlabels permuted", "training\ncells"):
        table.add_column(header, justify="right")
    for title, scores in rows.items():
        table.add_row(title, *("" if score is None else f"{score:.3f}" for score in scores))
    Console().print(table)
