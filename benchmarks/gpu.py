"""Fits of 100,000 to 3,000,000 simulated cells on a GPU, and the same on the processor.

    python benchmarks/gpu.py [--device cuda] [--sizes 100000 1000000 3000000] [--minutes 7.5] [--out folder]

Cells are those of `simulate.py`, drawn on the device; 10 % are held out. Fits come in this order: the GPU at all sizes,
the processor, and the GPU with "bf16-mixed". One for which too little time is left, judged by those before it, is left
out, and one that runs out of time or memory says so. Rows are printed as they finish, and kept in folder/gpu.json.

- fit: seconds of the whole tt.fit, of which null: the permuted fit; encoder and map: seconds of these trainings.
- steps/s: of the encoder, in the fit. share: what its matrix products make of the rate that one large product of this
  device reaches here, with bf16 on a GPU (also where the fit has float32) and with float32 on a processor.
- F1: 15-NN macro-F1 of held-out cells, in the map, in the metric space, and in the map of permuted labels.
- MB: the most that tensors took on the device, and the most that was resident in the process during this fit. Where the
  system does not forget an older peak, the latter is the most so far.

`--device cpu --sizes 5000 10000` tests the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
import simulate
import torch
from torch import nn

import tripletomics as tt
from tripletomics import training

WARM = 5_000  # cells of the fit that does not count
GROWTH = 1.0  # a fit of n times the cells takes n times as long at most
PRODUCT = {"cuda": (8192, torch.bfloat16), "cpu": (2048, torch.float32)}  # rows and columns
ROW = ("cells", "device", "precision", "fit, s", "null, s", "encoder, s", "map, s", "steps/s", "share", "map F1",
       "metric F1", "permuted F1", "device MB", "host MB")  # fmt: skip


def wait(device: str) -> float:
    """Return the time when the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def cells(n: int, device: str) -> ad.AnnData:
    """Draw cells as `simulate.cells` does, with numbers of the device."""
    log, programs, share = (torch.from_numpy(part).float().to(device) for part in simulate.types())
    generator = torch.Generator(device).manual_seed(0)
    codes, matrices = [], []
    for start in range(0, n, simulate.BLOCK):
        size = min(simulate.BLOCK, n - start)
        codes.append(torch.multinomial(share, size, replacement=True, generator=generator))
        states, depth = (torch.randn(size, k, generator=generator, device=device) for k in (simulate.PROGRAMS, 1))
        rate = torch.exp(log[codes[-1]] + states @ programs)
        rate *= simulate.DEPTH * torch.exp(0.4 * depth) / rate.sum(dim=1, keepdim=True)
        csr = torch.poisson(rate, generator=generator).to_sparse_csr()
        parts = (csr.values(), csr.col_indices().int(), csr.crow_indices())
        matrices.append(sp.csr_matrix(tuple(part.cpu().numpy() for part in parts), shape=rate.shape))
    return simulate.table(sp.vstack(matrices, format="csr"), torch.cat(codes).cpu().numpy())


def matrix_rate(device: str) -> float:
    """Return the floating-point operations a second of a large product."""
    n, dtype = PRODUCT[device]
    a, times = torch.randn(n, n, device=device).to(dtype), 20
    for _ in range(3):
        a @ a
    started = wait(device)
    for _ in range(times):
        a @ a
    return 2 * n**3 * times / (wait(device) - started)


def step_products(network: nn.Module, rows: int) -> int:
    """Return the operations of a step's products: each layer's output, and the gradients of weights and of inputs."""
    weights = [p.numel() for p in network.parameters() if p.ndim == 2]
    return 2 * rows * (3 * sum(weights) - weights[0])


def peak_memory() -> float:
    """Return the most that was resident in this process since it was last forgotten, in MB, and forget it."""
    status = Path("/proc/self/status").read_text()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def fit(adata: ad.AnnData, device: str, precision: str, rate: float) -> dict[str, Any]:
    """Fit, and return what a row shows."""
    trainings, train = [], training.train

    def timed(fabric: Any, network: nn.Module, loss: Any, source: Any, sampler: Any, *rest: Any, **more: Any) -> Any:
        started = wait(device)
        found = train(fabric, network, loss, source, sampler, *rest, **more)
        trainings.append((wait(device) - started, more["steps"], step_products(network, sampler.batch_size)))
        return found

    peak_memory()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    training.train = timed
    try:
        started = wait(device)
        model = tt.fit(adata, "cell_type", device=device, precision=precision, progress=False)
        seconds = wait(device) - started
    finally:
        training.train = train
    (encoder, steps, products), (head, _, _) = trainings[:2]
    scores = model.scores
    return {
        "fit, s": seconds, "null, s": model.seconds["null"], "encoder, s": encoder, "map, s": head,
        "steps/s": steps / encoder, "share": products * steps / encoder / rate,
        "map F1": scores["held-out"]["map"], "metric F1": scores["held-out"]["metric"],
        "permuted F1": scores["permuted"]["map"],
        "device MB": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0, "host MB": peak_memory(),
    }  # fmt: skip


def stop(*_: object) -> None:
    """End a fit whose time is up."""
    raise TimeoutError("out of time")


def shown(value: Any) -> str:
    """Return the text of a value in a row."""
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}" if value == value else ""


def measure(device: str, sizes: list[int], end: float, out: Path) -> None:
    """Fit all sizes on all devices, as long as time is left, and print and keep the rows."""
    rates = {name: matrix_rate(name) for name in dict.fromkeys((device, "cpu"))}
    card = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    about = {"card": card, "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
             "threads": torch.get_num_threads(), "torch": torch.__version__, "tripletomics": tt.__version__,
             "matrix rate, TFLOP/s": {name: rate / 1e12 for name, rate in rates.items()}}  # fmt: skip
    print(json.dumps(about), flush=True)
    plan = [(device, "auto"), *([("cpu", "auto"), ("cuda", "bf16-mixed")] if device == "cuda" else [])]
    tables: dict[int, ad.AnnData] = {}
    rows: list[dict[str, Any]] = []
    print(f"| {' | '.join(ROW)} |\n|{'---|' * len(ROW)}", flush=True)
    signal.signal(signal.SIGALRM, stop)
    for name, precision in plan:
        fit(cells(WARM, device), name, precision, rates[name])
        before = None  # cells and seconds of the last fit
        for n in sizes:
            row: dict[str, Any] = {"cells": n, "device": name, "precision": precision}
            left = end - time.perf_counter()
            if before is not None and before[1] * (n / before[0]) ** GROWTH > left:
                row["error"] = f"left out: {left:.0f} s were left"
            else:
                signal.alarm(max(int(left), 1))
                try:
                    if n not in tables:
                        tables[n] = cells(n, device)
                    row |= fit(tables[n], name, precision, rates[name])
                    before = n, row["fit, s"]
                except (TimeoutError, RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                    row["error"] = f"{type(error).__name__}: {error}"
                signal.alarm(0)
            rows.append(row)
            values = [str(row.get(key, "")) if key in ROW[:3] else shown(row.get(key, np.nan)) for key in ROW]
            print(f"| {' | '.join(values)} | {row.get('error', '')}", flush=True)
            (out / "gpu.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1))


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 3_000_000])
    parser.add_argument("--minutes", type=float, default=7.5, help="after which no fit goes on")
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No CUDA device is here: --device cpu --sizes 5000 10000 tests this script without one.")
    warnings.simplefilter("ignore")
    given.out.mkdir(parents=True, exist_ok=True)
    measure(given.device, given.sizes, time.perf_counter() + 60 * given.minutes, given.out)


if __name__ == "__main__":
    main()
