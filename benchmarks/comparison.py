"""All methods of tt.compare on the same splits of real cells: held-out scores, nulls and wall time.

    TRIPLETOMICS_DATA=folder python benchmarks/comparison.py [dataset ...] [--seeds N]

Every method is fitted on 70 % of the cells, drawn within types, and places the other 30 %. What compiles is compiled
before the clock starts. Below each table is the wall time of the whole comparison, nulls and scores included.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np

import tripletomics as tt
from tripletomics.evaluation import METRICS, overview
from tripletomics.report.paper import markdown
from tripletomics.tl.comparing import METHODS

SETS = ("pbmc3k", "cite_cbmc_rna", "flow_flowcap_sample")


def main(names: list[str], seeds: int) -> None:
    if "TRIPLETOMICS_DATA" not in os.environ:
        sys.exit("TRIPLETOMICS_DATA is not set: name the folder of the datasets.")
    folder = Path(os.environ["TRIPLETOMICS_DATA"])
    warnings.simplefilter("ignore")
    warm = ad.AnnData(np.random.default_rng(0).normal(size=(600, 60)).astype(np.float32))
    warm.obs["kind"] = np.arange(600) % 3
    tt.compare(warm, "kind", [m if m != "tt" else "tt:steps=5" for m in METHODS], seeds=1, cache=None, progress=False)
    for name in names:
        adata = ad.read_h5ad(folder / f"{name}.h5ad")
        started = time.perf_counter()
        result = tt.compare(adata, "cell_type", seeds=seeds, cache=None, progress=False)
        seconds = time.perf_counter() - started
        table = result.table
        shown = overview(table, ["method", "space"]).reset_index()
        cost = table[table["metric"] == "seconds"].set_index("method")["value"]
        shown["seconds"] = shown["method"].map(cost).map("{:.1f}".format)
        shown = shown.rename(columns={key: metric.title for key, metric in METRICS.items()})
        print(f"\n{name}, {adata.n_obs:,} cells, {len(result.confusions['tt'])} types, {seeds} seeds\n")
        print(markdown(shown))
        print(f"In all {seconds:.0f} s.", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("datasets", nargs="*", default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    main(given.datasets, given.seeds)
