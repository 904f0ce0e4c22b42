"""Time and memory of tt.fit next to scanpy's UMAP, openTSNE and PaCMAP, and how both grow with the number of cells.

    python benchmarks/speed.py [3000 pbmc3k 10000 30000 100000 300000 1000000] [--runs 3] [--limit 1100] [--json file]
    python benchmarks/speed.py --from file
    python benchmarks/speed.py parts
    python benchmarks/speed.py predict [1000000] [disk]

A number is a table of simulated cells, a name is a dataset in the folder TRIPLETOMICS_DATA. Each method has a process
of its own, which is warmed up on 10,000 simulated cells, and on the table itself if it is no larger: so nothing is
compiled after the clock starts. The methods then run in turn: each once, each once more, and so on. 10 % of each table
are held out, and nothing is fitted on them. What takes longer than the limit (seconds) is stopped, and not run again.
Writes docs/tables/speed.csv, and draws speed.svg: medians of the runs and their range. --json adds each run to a file,
one a line; what is written and drawn is all of that file. --from runs nothing.

- fit: from the counts in memory to the coordinates of the training cells; of tt also those of the held-out cells,
  reference, calibration, null and scores. PCA, neighbours and UMAP have scanpy's defaults.
- of UMAP's time: median of the ratios to the run of UMAP in the same round.
- new cells: seconds to embed up to 5,000 held-out cells (`tripletomics.transform`; `scanpy.tl.ingest`).
- map F1: 15-NN macro-F1 of these on the map, among 100,000 training cells at most.
- memory: the most that was resident in the whole process in its first run, of which the imports are 400 MB (tt) to
  600 MB.

"parts" compares a training step of the encoder, and `tripletomics.transform`, with the bare matrix products that they
need, with one thread and with two.

"predict" compares tt.predict with tt.transform of the same new cells, by a model with 20,000 landmarks: seconds, those
of the processor, which other work slows down less, and the most memory of the process so far. With "disk", the cells
are in an .h5ad file, which both verbs write to.

openTSNE and PaCMAP take part if they are installed, up to 100,000 cells; they embed no new cells here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import simulate
from matplotlib.ticker import LogLocator

import tripletomics as tt
from tripletomics import metrics

TABLES = ("3000", "pbmc3k", "10000", "30000", "100000", "300000", "1000000")
WARM, ASKED, REFERENCES = 10_000, 5_000, 100_000
FITTED = 30_000  # cells of the model of "predict"
PEER = "UMAP (scanpy)"
RANGED = {"fit, s": "fit, s", "of_umap": "of UMAP's time", "new cells, s": "new cells, s"}  # shown with their range
OTHERS = ["map F1", "memory, MB", "matrix, MB"]


def held_out(n: int) -> np.ndarray:
    """Draw a tenth of the cells, boolean (cells,)."""
    return np.random.default_rng(0).random(n) < 0.1


def ours(adata: ad.AnnData, out: np.ndarray, query: ad.AnnData) -> dict[str, object]:
    """Time tt.fit and tt.transform."""
    adata.obs["out"] = out
    started = time.perf_counter()
    model = tt.fit(adata, "cell_type", hold_out="out", progress=False)
    fit = time.perf_counter() - started
    started = time.perf_counter()
    tt.transform(query, model)
    new = time.perf_counter() - started
    return {"fit": fit, "new": new, "map": adata.obsm["X_tt"], "query": query.obsm["X_tt"]}


def scanpy_umap(adata: ad.AnnData, out: np.ndarray, query: ad.AnnData) -> dict[str, object]:
    """Time normalisation, PCA, neighbours and UMAP of the training cells, and ingest of the others."""
    from common import add_pca, add_umap, log_normalise, place_by_umap

    reference = adata[~out].copy()
    started = time.perf_counter()
    for step in (log_normalise, add_pca, add_umap):
        step(reference)
    fit = time.perf_counter() - started
    started = time.perf_counter()
    log_normalise(query)
    place_by_umap(query, reference)
    new = time.perf_counter() - started
    m = np.zeros((adata.n_obs, 2), dtype=np.float32)
    m[~out] = reference.obsm["X_umap"]
    return {"fit": fit, "new": new, "map": m, "query": query.obsm["X_umap"]}


def components(adata: ad.AnnData, out: np.ndarray) -> np.ndarray:
    """Return scanpy's principal components of the training cells."""
    from common import add_pca, log_normalise

    reference = adata[~out].copy()
    log_normalise(reference)
    add_pca(reference)
    return np.asarray(reference.obsm["X_pca"])


def opentsne(adata: ad.AnnData, out: np.ndarray, query: ad.AnnData) -> dict[str, object]:
    """Time PCA and openTSNE of the training cells."""
    import openTSNE

    started = time.perf_counter()
    openTSNE.TSNE(n_jobs=-1).fit(components(adata, out))
    return {"fit": time.perf_counter() - started}


def pacmap(adata: ad.AnnData, out: np.ndarray, query: ad.AnnData) -> dict[str, object]:
    """Time PCA and PaCMAP of the training cells."""
    import pacmap

    started = time.perf_counter()
    pacmap.PaCMAP().fit_transform(components(adata, out))
    return {"fit": time.perf_counter() - started}


METHODS = {"tt.fit": ours, PEER: scanpy_umap, "openTSNE": opentsne, "PaCMAP": pacmap}
PACKAGES = {"openTSNE": "openTSNE", "PaCMAP": "pacmap"}


def measure(method: str, path: str, limit: int = 0) -> dict[str, object]:
    """Run one method in this process, which ends at the limit."""
    adata = ad.read_h5ad(path)
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    out = held_out(adata.n_obs)
    asked, known = np.flatnonzero(out)[:ASKED], np.flatnonzero(~out)[:REFERENCES]
    size = adata.X.data.nbytes + adata.X.indices.nbytes + adata.X.indptr.nbytes
    query = adata[asked].copy()
    signal.alarm(limit)
    found = METHODS[method](adata, out, query)
    signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {"cells": adata.n_obs, "fit, s": found["fit"], "memory, MB": peak / 1e6, "matrix, MB": size / 1e6}
    if "query" in found:
        f1 = metrics.knn_macro_f1(found["map"][known], codes[known], found["query"], codes[asked])
        row |= {"new cells, s": found["new"], "map F1": f1}
    return row


def work(method: str, path: str, limit: str) -> None:
    """Warm up, and run a method each time that a line arrives."""
    warm = simulate.cells(WARM)
    METHODS[method](warm, held_out(WARM), warm[:100].copy())
    del warm
    if len(ad.read_h5ad(path, backed="r")) <= WARM:
        measure(method, path)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure(method, path, int(limit))), flush=True)


def answer(worker: subprocess.Popen[str], start: str) -> str | None:
    """Return the next line of a process that starts like this, or None if it was stopped."""
    found = next((line for line in worker.stdout if line.startswith(start)), None)
    if found is None and worker.wait() != -signal.SIGALRM:
        raise SystemExit(f"{worker.args} ended with {worker.returncode}")
    return found


def run(name: str, runs: int, limit: int, folder: str) -> Iterator[dict[str, object]]:
    """Yield the runs of all methods on a table, in turn."""
    path = Path(os.environ.get("TRIPLETOMICS_DATA", "")) / f"{name}.h5ad"
    if name.isdigit():
        path = Path(folder) / f"{name}.h5ad"
        subprocess.run([sys.executable, simulate.__file__, path, name], check=True)
    workers = {}
    for method in METHODS:
        package = PACKAGES.get(method, "scanpy")
        if importlib.util.find_spec(package) is None or (package != "scanpy" and int(name.isdigit() and name) > 1e5):
            continue
        command = [sys.executable, "-W", "ignore", __file__, "work", method, str(path), str(limit)]
        workers[method] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer(workers[method], "ready")
    for _ in range(runs):
        at = time.time()
        for method, worker in list(workers.items()):
            print("run", file=worker.stdin, flush=True)
            line = answer(worker, "{")
            found = json.loads(line) if line else {"cells": len(ad.read_h5ad(path, backed="r")), "fit, s": float(limit)}
            yield {"table": name, "round": at, "method": method, "stopped": line is None} | found
            if line is None:
                del workers[method]
    for worker in workers.values():
        worker.communicate()
    if name.isdigit():
        path.unlink()


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each table and method: medians, and the least and most of times and ratios."""
    peer = runs[runs["method"] == PEER].set_index("round")["fit, s"]
    stopped = runs[runs["stopped"]].groupby("table")["fit, s"].max()  # UMAP is stopped first
    of_umap = runs["fit, s"] / runs["round"].map(peer).fillna(runs["table"].map(stopped))
    groups = runs.assign(of_umap=of_umap).groupby(["table", "method"])
    found = groups[[*RANGED, *OTHERS]].median().assign(cells=groups["cells"].first(), stopped=groups["stopped"].any())
    found["memory, MB"] = groups["memory, MB"].first()
    for name in RANGED:
        found[f"least {name}"], found[f"most {name}"] = groups[name].min(), groups[name].max()
    found = found.reset_index()
    order = found["method"].map({method: i for i, method in enumerate(METHODS)})
    return found.iloc[np.lexsort((order, found["cells"]))].reset_index(drop=True)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as readers see it."""
    named = np.where(table["table"].str.isdigit(), table["cells"].map("{:,}".format), table["table"])
    words = pd.DataFrame({"method": table["method"], "cells": named})
    for name, title in RANGED.items():
        both = zip(table[name], table[f"least {name}"], table[f"most {name}"], strict=True)
        words[title] = [_number(m) + (f" ({_number(a)}–{_number(b)})" if a < b else "") for m, a, b in both]
    for name in OTHERS:
        words[name] = table[name].map(_number)
    words.loc[table["stopped"], "fit, s"] = "more than " + words["fit, s"]
    unsure = table["table"].isin(table["table"][table["stopped"] & (table["method"] == PEER)])
    words.loc[unsure & ~table["stopped"], "of UMAP's time"] = "below " + words["of UMAP's time"]
    return words


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def draw(table: pd.DataFrame) -> None:
    """Draw how time and memory grow with the number of simulated cells; a hollow mark is where a method was stopped."""
    table = table[table["table"].str.isdigit()]
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
    for method, color in zip(METHODS, ("#d1495b", "#30638e", "#8d96a3", "#c8a951"), strict=True):
        mine = table[table["method"] == method]
        if mine.empty:
            continue
        stopped = mine["stopped"]
        axes[0].vlines(mine["cells"], mine["least fit, s"], mine["most fit, s"], color=color, linewidth=3, alpha=0.5)
        for ax, column in zip(axes, ("fit, s", "memory, MB"), strict=True):
            ax.plot(mine["cells"], mine[column], color=color, marker="o", markersize=4, label=method)
            ax.plot(mine["cells"][stopped], mine[column][stopped], "o", color="white", markersize=2.5, zorder=3)
    for ax, title in zip(axes, ("Seconds of a fit with its map", "Most memory of the process, MB"), strict=True):
        ax.set(xscale="log", yscale="log")
        ax.set_xlabel("cells", fontsize=8)
        ax.set_title(title, loc="left", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].set_yticks([500, 1000, 2000, 4000])
    for ax in axes:
        ax.yaxis.set_major_formatter("{x:,.0f}")
        ax.yaxis.set_minor_formatter("")
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig("speed.svg", metadata={"Date": None})


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Return the median of some runs, after one that does not count."""
    work()
    spans = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        spans.append(time.perf_counter() - started)
    return 1e3 * float(np.median(spans))


def parts(threads: int) -> None:
    """Print what the parts of a fit and of a transform take with some threads."""
    import torch
    from threadpoolctl import threadpool_limits

    from tripletomics import augment, devices, features, losses, networks, samplers, training

    threadpool_limits(threads)
    torch.set_num_threads(threads)
    adata = simulate.cells(30_000)
    codes = adata.obs["cell_type"].cat.codes.to_numpy().astype(int)
    contract = features.fit(adata.X[:9000], adata.var_names.tolist(), True, 0)
    source, fabric = contract.source(adata.X), devices.start("cpu", "auto")
    encoder = networks.Encoder(networks.MLP(), source.width, 32)
    loss, y = losses.make("softmax"), torch.from_numpy(codes)
    loss.build(32, simulate.TYPES)
    rows = np.random.default_rng(0).permutation(len(codes))[:512]
    source = source.prepared(len(codes) + 1)  # as in a fit
    columns = augment.Mask().columns(source.width, torch.Generator().manual_seed(0))
    x, z = source.rows(rows, columns), torch.randn(512, 32, requires_grad=True)
    first, *others = (m.weight.detach() for m in encoder.modules() if isinstance(m, torch.nn.Linear))
    shown = [(x[i :: len(columns)].contiguous(), first[:, some].contiguous()) for i, some in enumerate(columns)]

    def bare() -> None:
        products = [cells @ w.T for cells, w in shown]
        for (cells, _), b in zip(shown, products, strict=True):
            _ = b.T @ cells  # the gradient of the weights
        a = torch.cat(products)
        for w in others:
            b = a @ w.T
            _ = b.T @ a, b @ w  # and of what goes in
            a = b

    def train(steps: int) -> float:
        started = time.perf_counter()
        training.train(
            fabric, encoder, loss, source, samplers.Balanced(codes, 512, 0), y,
            steps=steps, lr=1e-3, augment=augment.Mask(), seed=0, watch=lambda *_: None,
        )  # fmt: skip
        return 1e3 * (time.perf_counter() - started) / steps

    train(5)
    step, products = train(60), milliseconds(bare, 30)
    kernel = milliseconds(lambda: loss(z, y[rows]).backward(), 30)
    bare_step = products + kernel
    print(f"{threads} threads: step {step:.1f} ms; bare products {products:.1f}, loss {kernel:.1f}: ", end="")
    print(f"{step / bare_step:.2f} times", flush=True)
    model = tt.fit(adata[:9000].copy(), "cell_type", steps=30, progress=False)
    query = adata.copy()
    whole = milliseconds(lambda: tt.transform(query, model), 3)
    head = model.networks.map_head
    dense = [m.weight.detach() for m in model.networks.encoder.modules() if isinstance(m, torch.nn.Linear)]
    mapped = [m.weight.detach() for m in head.mlp.modules() if isinstance(m, torch.nn.Linear)]
    first, components = np.ascontiguousarray(dense[0].T.numpy()), np.ascontiguousarray(model.features.axes.T)

    def products_of_all() -> None:
        for start in range(0, adata.n_obs, 4096):
            some = adata.X[start : start + 4096]
            near = torch.from_numpy(some @ components)
            z = torch.from_numpy(some @ first)
            for w in dense[1:]:
                z = z @ w.T
            m = torch.cat([near, z], dim=1)
            for w in mapped:
                m = m @ w.T

    every = milliseconds(products_of_all, 3)
    print(f"{threads} threads: transform of 30,000 cells {whole:.0f} ms; bare products {every:.0f}: ", end="")
    print(f"{every / whole:.0%} of their speed", flush=True)


def predicting(n: int, disk: bool) -> None:
    """Print what tt.transform and tt.predict take for the same new cells."""
    cells = simulate.cells(FITTED + n)
    model = tt.fit(cells[:FITTED].copy(), "cell_type", steps=200, progress=False)
    cells = cells[FITTED:].copy()
    print("| cells | verb | seconds | of the processor | memory, MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        if disk:
            cells.write_h5ad(path)
        for verb in (tt.transform, tt.predict):
            verb(cells[:5000].copy(), model)  # does not count
            started, processor = time.perf_counter(), time.process_time()
            verb(path if disk else cells, model)
            seconds, processor = time.perf_counter() - started, time.process_time() - processor
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(f"| {n:,} | {verb.__name__} | {seconds:.1f} | {processor:.1f} | {peak / 1e6:,.0f} |", flush=True)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=TABLES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=1_100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", type=Path, dest="only")
    given = parser.parse_args()
    if given.tables == ["parts"]:
        for threads in (1, 2):
            parts(threads)
        return
    if given.tables[0] == "predict":
        predicting(int(next(filter(str.isdigit, given.tables), 1_000_000)), "disk" in given.tables)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = given.only or given.json or Path(folder) / "runs.json"
        for name in [] if given.only else given.tables:
            for found in run(name, given.runs, given.limit, folder):
                with file.open("a") as lines:
                    print(json.dumps(found), file=lines)
                print(found, file=sys.stderr, flush=True)
        from common import write_table

        table = summary(pd.read_json(file, lines=True, dtype={"table": str}, convert_dates=False))
    draw(table)
    write_table(shown(table), "speed")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    else:
        main()
