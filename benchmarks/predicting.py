"""Time and memory of tt.predict beside tt.transform of the same simulated cells, by a model with 20,000 landmarks.

    python benchmarks/predicting.py [1000000] [disk]

The model is fitted on other 30,000 cells. Prints a row in Markdown: cells, seconds of transform and of predict, their
ratio, that of processor time, and the most memory that was resident in the process before and after predict. With
"disk", the cells are in an .h5ad file, which both verbs write to; else they are in memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import simulate

import tripletomics as tt

FITTED = 30_000


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return how long some work takes, and how long the processor works on it, which others slow down less."""
    started, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - processor


def main(n: int, disk: bool) -> None:
    """Fit, transform, predict and print."""
    cells = simulate.cells(FITTED + n)
    model = tt.fit(cells[:FITTED].copy(), "cell_type", steps=200, progress=False)
    cells = cells[FITTED:].copy()
    for verb in (tt.transform, tt.predict):
        verb(cells[:5000].copy(), model)  # does not count
    with tempfile.TemporaryDirectory() as folder:
        query = cells
        if disk:
            query = Path(folder) / "cells.h5ad"
            cells.write_h5ad(query)
        placed, of_placed = seconds(lambda: tt.transform(query, model))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        named, of_named = seconds(lambda: tt.predict(query, model))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    heads = (
        "cells",
        "transform, s",
        "predict, s",
        "ratio",
        "of processor time",
        "memory before predict, MB",
        "after, MB",
    )
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    ratios = f"{named / placed:.2f} | {of_named / of_placed:.2f}"
    print(f"| {n:,} | {placed:.1f} | {named:.1f} | {ratios} | {before / 1e3:,.0f} | {peak / 1e3:,.0f} |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(next((word for word in sys.argv[1:] if word != "disk"), 1_000_000)), "disk" in sys.argv[1:])
