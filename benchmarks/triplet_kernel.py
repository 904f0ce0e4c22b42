"""Time and memory of the exact triplet loss beside pytorch-metric-learning, which lists every triplet.

    python benchmarks/triplet_kernel.py            # n = 512, 1024, 2048 and 4096
    python benchmarks/triplet_kernel.py 256 512    # other sizes

Both compute the same number: the mean over the nonzero terms [d_ap - d_an + 0.2]+ of all triplets of a batch of n cells
(32 columns of float32 noise, 12 classes of equal size, Euclidean), and its gradient. Each runs in a fresh process per
size; docs/tables/triplet_kernel.csv has the results. MB is how far the first step of that size lifts the process's peak
memory above what it holds after a step of 64 cells; seconds are those of the processor in the best step, forward and
backward, of up to 5 more (up to 2 in all for pytorch-metric-learning, "pml"). That library gets 12 GiB of address space
and 900 s. The last column is the largest difference between the two gradients, relative to the largest entry: in
float32, rounding decides a few triplets at the hinge (in float64 the two agree to 1e-14). Linux only, since it resets
the peak."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

SIZES = (512, 1024, 2048, 4096)
CLASSES, DIM, MARGIN = 12, 32, 0.2
LIMIT_GIB, LIMIT_SECONDS = 12, 900
MB = 2**20
OUT_OF_MEMORY = 3  # exit status of a measuring process


def count_triplets(n: int) -> int:
    size = np.bincount(np.arange(n) % CLASSES)
    return int((size * (size - 1) * (n - size)).sum())


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(which: str, n: int, file: str) -> None:
    """Measure one loss at one size in this process; print seconds and bytes and write the gradient."""
    import torch

    if which == "ours":
        from tripletomics import losses

        loss, repeats = losses.make(f"triplet:margin={MARGIN}"), 6
    else:
        from pytorch_metric_learning import distances, losses, reducers

        distance = distances.LpDistance(normalize_embeddings=False)
        loss, repeats = losses.TripletMarginLoss(MARGIN, distance=distance, reducer=reducers.AvgNonZeroReducer()), 2
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GIB * 2**30, LIMIT_GIB * 2**30))

    def step(n: int) -> tuple[float, np.ndarray]:
        z = torch.randn(n, DIM, generator=torch.Generator().manual_seed(0), requires_grad=True)
        y = torch.arange(n) % CLASSES
        started = time.process_time()
        loss(z, y).backward()
        return time.process_time() - started, z.grad.numpy()

    step(64)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = peak_bytes()
    try:
        first, gradient = step(n)
        extra = peak_bytes() - before
        np.save(file, gradient)
        limit = LIMIT_SECONDS / 4  # a slow step is not repeated
        seconds = [first] + [step(n)[0] for _ in range(repeats - 1) if first < limit]
    except (MemoryError, RuntimeError) as error:
        if "allocate memory" in str(error) or isinstance(error, MemoryError):
            sys.exit(OUT_OF_MEMORY)
        raise
    print(min(seconds), extra)


def launch(which: str, n: int, file: Path) -> tuple[float, float] | str:
    """Return seconds and bytes of a fresh process, or why there are none."""
    command = [sys.executable, __file__, "--measure", which, str(n), str(file)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"over {LIMIT_SECONDS} s"
    if done.returncode in (OUT_OF_MEMORY, -9):  # -9: the system's own limit
        return "out of memory"
    done.check_returncode()
    seconds, extra = done.stdout.split()
    return float(seconds), float(extra)


def row(n: int, folder: Path) -> dict[str, object]:
    files = folder / "ours.npy", folder / "pml.npy"
    ours, pml = launch("ours", n, files[0]), launch("pml", n, files[1])
    if isinstance(ours, str):
        raise RuntimeError(f"n={n}: ours is {ours}.")
    found = {"n": n, "triplets": f"{count_triplets(n):,}", "s": ours[0], "MB": f"{ours[1] / MB:,.0f}"}
    others = ["s, pml", "MB, pml", "times faster", "times smaller", "gradients differ by"]
    if isinstance(pml, str):
        return found | dict(zip(others, [pml, *["–"] * 4], strict=True))
    a, b = (np.load(file).astype(np.float64) for file in files)
    difference = np.abs(a - b).max() / np.abs(b).max()
    cells = [f"{pml[0]:.2f}", f"{pml[1] / MB:,.0f}", f"{pml[0] / ours[0]:.0f}", f"{pml[1] / ours[1]:.0f}"]
    return found | dict(zip(others, [*cells, f"{difference:.0e}"], strict=True))


def main(sizes: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame([row(n, Path(folder)) for n in sizes])
    from common import write_table  # not before: a child begins with the peak of its parent

    write_table(table, "triplet_kernel")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main(tuple(map(int, sys.argv[1:])) or SIZES)
