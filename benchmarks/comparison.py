"""All methods of tt.compare on the same splits of real cells: held-out scores, nulls and wall time.

    TRIPLETOMICS_DATA=folder python benchmarks/comparison.py [dataset ...] [--seeds N]

Every method is fitted on 70 % of the cells, drawn within types, and places the other 30 %. What compiles is compiled
before the clock starts. Below each table is the wall time of the whole comparison, nulls and scores included.
"""

from __future__ import annotations

import time

import anndata as ad
import numpy as np
from common import MAIN, options, read, start

import tripletomics as tt
from tripletomics.evaluation import METRICS, overview
from tripletomics.names import as_markdown
from tripletomics.tl.comparing import METHODS


def main(names: list[str], seeds: int) -> None:
    start()
    warm = ad.AnnData(np.random.default_rng(0).normal(size=(600, 60)).astype(np.float32))
    warm.obs["kind"] = np.arange(600) % 3
    tt.compare(warm, "kind", [m if m != "tt" else "tt:steps=5" for m in METHODS], seeds=1, cache=None, progress=False)
    for name in names:
        adata = read(name)
        started = time.perf_counter()
        result = tt.compare(adata, "cell_type", seeds=seeds, cache=None, progress=False)
        seconds = time.perf_counter() - started
        table = result.table
        shown = overview(table, ["method", "space"]).reset_index()
        cost = table[table["metric"] == "seconds"].set_index("method")["value"]
        shown["seconds"] = shown["method"].map(cost).map("{:.1f}".format)
        shown = shown.rename(columns={key: metric.title for key, metric in METRICS.items()})
        print(f"\n{name}, {adata.n_obs:,} cells, {len(result.confusions['tt'])} types, {seeds} seeds\n")
        print(as_markdown(shown))
        print(f"In all {seconds:.0f} s.", flush=True)


if __name__ == "__main__":
    given = options(MAIN).parse_args()
    main(given.datasets, given.seeds)
