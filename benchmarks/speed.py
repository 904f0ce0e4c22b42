"""Time and memory of tt.fit beside scanpy's UMAP, openTSNE and PaCMAP on simulated cells, and how both grow with n.

    python benchmarks/speed.py [3000 30000 100000 300000 1000000]
    python benchmarks/speed.py parts

Each method runs in a process of its own on the same file, and is warmed up on 10,000 cells (smaller tables take another
path) before its clock starts: UMAP and its neighbours are compiled then. 10 % of each type are held out, and nothing is
fitted on them. What takes more than 1,100 s from there is stopped. Prints a table, and draws speed.svg.

- fit: from the counts in memory to the places of the training cells; of tt also those of the held-out cells, reference,
  calibration and scores, without the null. PCA, neighbours and UMAP have scanpy's defaults.
- new cells: seconds to place 5,000 held-out cells (`tripletomics.transform`; `scanpy.tl.ingest`).
- map F1: 15-NN macro-F1 of these on the map, among 100,000 training cells at most.
- memory: the most that was resident in the whole process, of which the imports are 400 MB (tt) to 600 MB.

"parts" compares a training step of the encoder, and `tripletomics.transform`, with the bare matrix products that they
need.

openTSNE and PaCMAP take part if they are installed, up to 100,000 cells; they place no new cells here.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import simulate

import tripletomics as tt
from tripletomics import metrics

SIZES = (3_000, 30_000, 100_000, 300_000, 1_000_000)
WARM, ASKED, REFERENCES = 10_000, 5_000, 100_000
LIMIT = 1_100  # seconds from the start of a method's clock


def held_out(n: int) -> np.ndarray:
    """Draw a tenth of the cells, boolean (cells,)."""
    return np.random.default_rng(0).random(n) < 0.1


def ours(adata: ad.AnnData, out: np.ndarray, query: ad.AnnData) -> dict[str, object]:
    """Time tt.fit, whose null is taken off, and tt.transform."""
    adata.obs["out"] = out
    started = time.perf_counter()
    model = tt.fit(adata, "cell_type", hold_out="out", progress=False)
    fit = time.perf_counter() - started - model.seconds["null"]
    started = time.perf_counter()
    tt.transform(query, model)
    new = time.perf_counter() - started
    return {"fit": fit, "new": new, "places": adata.obsm["X_tt"], "query": query.obsm["X_tt"]}


def scanpy_umap(adata: ad.AnnData, out: np.ndarray, query: ad.AnnData) -> dict[str, object]:
    """Time normalisation, PCA, neighbours and UMAP of the training cells, and ingest of the others."""
    from common import add_pca, add_umap, log_normalise, place_by_umap

    reference = adata[~out].copy()
    started = time.perf_counter()
    log_normalise(reference)
    steps = [time.perf_counter()]
    for step in (add_pca, add_umap):
        step(reference)
        steps.append(time.perf_counter())
    print(f"PCA, neighbours and UMAP: {np.diff(steps).round(1)}", file=sys.stderr)
    fit = time.perf_counter() - started
    started = time.perf_counter()
    log_normalise(query)
    place_by_umap(query, reference)
    new = time.perf_counter() - started
    places = np.zeros((adata.n_obs, 2), dtype=np.float32)
    places[~out] = reference.obsm["X_umap"]
    return {"fit": fit, "new": new, "places": places, "query": query.obsm["X_umap"]}


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


METHODS = {"tt.fit": ours, "UMAP (scanpy)": scanpy_umap, "openTSNE": opentsne, "PaCMAP": pacmap}


def measure(method: str, path: str) -> dict[str, object]:
    """Run one method in this process."""
    warm = simulate.cells(WARM)
    METHODS[method](warm, held_out(WARM), warm[:100].copy())
    del warm
    adata = ad.read_h5ad(path)
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    out = held_out(adata.n_obs)
    asked, known = np.flatnonzero(out)[:ASKED], np.flatnonzero(~out)[:REFERENCES]
    size = adata.X.data.nbytes + adata.X.indices.nbytes + adata.X.indptr.nbytes
    signal.alarm(LIMIT)  # which ends the process
    found = METHODS[method](adata, out, adata[asked].copy())
    signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {"method": method, "cells": adata.n_obs, "fit, s": found["fit"]}
    if "query" in found:
        f1 = metrics.knn_macro_f1(found["places"][known], codes[known], found["query"], codes[asked])
        row |= {"new cells, s": found["new"], "map F1": f1}
    return row | {"memory, MB": peak / 1e6, "matrix, MB": size / 1e6}


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Return the median of some runs, after one that does not count."""
    work()
    spans = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        spans.append(time.perf_counter() - started)
    return 1e3 * float(np.median(spans))


def parts() -> None:
    """Print what the parts of a fit and of a transform take."""
    import torch

    from tripletomics import augment, devices, features, losses, networks, samplers, training

    adata = simulate.cells(30_000)
    codes = adata.obs["cell_type"].cat.codes.to_numpy().astype(int)
    contract = features.fit(adata.X[:9000], adata.var_names.tolist(), True, 0)
    source, fabric = contract.source(adata.X), devices.start("cpu", "auto")
    encoder = networks.Encoder(networks.MLP(), source.width, 32)
    loss, y = losses.make("softmax"), torch.from_numpy(codes)
    loss.build(32, simulate.TYPES)
    rows = np.random.default_rng(0).permutation(len(codes))[:512]
    x, z = source.rows(rows), torch.randn(512, 32, requires_grad=True)

    def bare() -> None:
        a = x
        for layer in (m for m in encoder.modules() if isinstance(m, torch.nn.Linear)):
            w = layer.weight.detach()
            b = a @ w.T
            _ = b.T @ a  # the gradient of the weights
            if a is not x:
                _ = b @ w  # and of what goes in
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
    print(
        f"step {step:.1f} ms; bare products {products:.1f}, loss {kernel:.1f}: {step / (products + kernel):.2f} times"
    )
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

    bare_ms = milliseconds(products_of_all, 3)
    print(
        f"transform of 30,000 cells {whole:.0f} ms; bare products {bare_ms:.0f}: {bare_ms / whole:.0%} of their speed"
    )


def compare(sizes: list[int]) -> None:
    """Run every method at every size, and print a table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = Path(folder) / f"{n}.h5ad"
            subprocess.run([sys.executable, simulate.__file__, path, str(n)], check=True)
            for method in METHODS:
                package = {"openTSNE": "openTSNE", "PaCMAP": "pacmap"}.get(method, "scanpy")
                if importlib.util.find_spec(package) is None or (package != "scanpy" and n > 100_000):
                    continue
                command = [sys.executable, "-W", "ignore", __file__, "measure", method, path]
                ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if stopped := ran.returncode == -signal.SIGALRM:
                    rows.append({"method": method, "cells": n, "fit, s": float(LIMIT), "stopped": stopped})
                else:
                    ran.check_returncode()
                    rows.append(json.loads(ran.stdout.splitlines()[-1]) | {"stopped": stopped})
                print(rows[-1], file=sys.stderr, flush=True)
            path.unlink()
    table = pd.DataFrame(rows)
    draw(table)
    show(table)


def show(table: pd.DataFrame) -> None:
    """Print Markdown, and beside each time its share of UMAP's."""
    peer = table[table["method"] == "UMAP (scanpy)"].set_index("cells")["fit, s"]
    table.insert(3, "of UMAP's time", table["fit, s"] / table["cells"].map(peer))
    shown = table.drop(columns="stopped").map(_cell)
    shown.loc[table["stopped"], "fit, s"] = "more than " + shown["fit, s"]
    unsure = table["cells"].isin(table["cells"][table["stopped"] & table["method"].str.startswith("UMAP")])
    shown.loc[unsure & ~table["stopped"], "of UMAP's time"] = "below " + shown["of UMAP's time"]
    print("| " + " | ".join(shown) + " |\n|" + "---|" * shown.shape[1])
    for row in shown.itertuples(index=False):
        print("| " + " | ".join(row) + " |")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def draw(table: pd.DataFrame) -> None:
    """Draw how time and memory grow with the number of cells; a hollow mark is where a method was stopped."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
    for method, color in zip(METHODS, ("#d1495b", "#30638e", "#8d96a3", "#c8a951"), strict=True):
        mine = table[table["method"] == method]
        stopped = mine["stopped"]
        for ax, column in zip(axes, ("fit, s", "memory, MB"), strict=True):
            ax.plot(mine["cells"], mine[column], color=color, marker="o", markersize=4, label=method)
            ax.plot(mine["cells"][stopped], mine[column][stopped], "o", color="white", markersize=2.5, zorder=3)
    for ax, title in zip(axes, ("Seconds of a fit with its map", "Most memory of the process, MB"), strict=True):
        ax.set(xscale="log", yscale="log")
        ax.set_xlabel("cells", fontsize=8)
        ax.set_title(title, loc="left", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    axes[1].set_yticks([500, 1000, 2000, 4000])
    axes[1].yaxis.set_major_formatter("{x:,.0f}")
    axes[1].yaxis.set_minor_formatter("")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig("speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
    elif sys.argv[1:] == ["parts"]:
        parts()
    else:
        compare([int(n) for n in sys.argv[1:]] or list(SIZES))
