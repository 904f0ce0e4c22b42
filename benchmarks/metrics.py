"""Time and memory of all metrics on 100,000 cells of a map.

    python benchmarks/metrics.py             # 70,000 reference cells, 30,000 scored
    python benchmarks/metrics.py 7000 3000   # other numbers

A 2-D map and a 50-D reference space of 20 types of unequal size (Gaussian, the map follows two of the 50 dimensions),
with two batches. Each group of metrics runs in a fresh process. Seconds are of its functions alone, and CPU seconds
tell how far other work on the machine disturbed them; MB is how far they
lift the peak memory of the process above what it was with the cells made and everything imported. Linux only (KB of
ru_maxrss). `batches` needs the extra "batch" and is left out without it; its seconds include compilation.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

CELLS, SCORED, TYPES, FEATURES = 70_000, 30_000, 20, 50
GROUPS = ("neighbours", "retrieval", "verification", "clusters", "structure", "arrangement", "page", "prediction",
          "batches")  # fmt: skip


def cells(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make a map, a reference space, types, batches and a pseudotime."""
    random = np.random.default_rng(0)
    share = np.linspace(1, 5, TYPES)
    y = random.choice(TYPES, size=n, p=share / share.sum())
    r = random.normal(size=(n, FEATURES)) + 2 * random.normal(size=(TYPES, FEATURES))[y]
    z = (r[:, :2] + 0.3 * random.normal(size=(n, 2))).astype(np.float32)
    return z, r.astype(np.float32), y, random.integers(2, size=n), r[:, 0]


def run(group: str, n: int, scored: int) -> tuple[float, float, float]:
    """Run a group of metrics; return seconds, CPU seconds and MB."""
    from tripletomics import metrics

    z, r, y, batch, t = cells(n + scored)
    a, b = slice(n), slice(n, None)
    ours = z[a], y[a], z[b], y[b]
    both = z[a], r[a], z[b], r[b]
    if group == "batches":
        import scib_metrics.nearest_neighbors  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, worked = time.perf_counter(), time.process_time()
    if group in ("neighbours", "prediction"):
        votes = metrics.knn_votes(*ours[:3], classes=TYPES)
        predicted = votes.argmax(axis=1)
    if group == "neighbours":
        metrics.macro_f1(y[b], predicted)
        metrics.balanced_accuracy(y[b], predicted)
        metrics.recall_per_type(y[b], predicted, TYPES)
        metrics.permutation_p(y[b], predicted, 0)
        metrics.knn_macro_f1(z[a], y[a])  # the training cells
    elif group == "retrieval":
        metrics.retrieval(*ours)
    elif group == "verification":
        metrics.verification(*ours)
    elif group == "clusters":
        metrics.nmi(z[b], y[b], 0)
        metrics.silhouette(z[b], y[b], 0)
    elif group == "structure":
        metrics.neighbourhoods(*both)
        metrics.knn_recall_within_types(z[a], r[a], y[a], z[b], r[b], y[b])
        metrics.triplet_accuracy(*both)
    elif group == "arrangement":
        metrics.centroid_spearman(z[b], r[b], y[b])
        metrics.scgraph(z[b], r[b], y[b], batch[b])
        metrics.within_between(z[b], y[b])
        metrics.pseudotime_spearman(z[a], t[a], z[b], t[b])
    elif group == "page":
        metrics.page_use(np.concatenate([z[a], z[b]]))
        metrics.exchangeability(z, y, np.arange(len(z)) >= n)
    elif group == "prediction":
        confidence, correct = votes.max(axis=1), predicted == y[b]
        metrics.ece(confidence, correct)
        metrics.brier(votes, y[b])
        metrics.aurc(confidence, correct)
        novelty, strange = metrics.novelty(z[a], z[b]), y[b] == 0
        metrics.auroc(novelty, strange)
        metrics.fpr_at_95(novelty, strange)
    else:
        metrics.batch_scores(z, y, batch)
    seconds, busy = time.perf_counter() - started, time.process_time() - worked
    return seconds, busy, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main(n: int, scored: int) -> None:
    groups = [group for group in GROUPS if group != "batches" or find_spec("scib_metrics")]
    print("| metrics | seconds | CPU seconds | peak MB |\n|---|---|---|---|")
    results = []
    for group in groups:
        command = [sys.executable, __file__, "--run", group, str(n), str(scored)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        results.append([float(word) for word in lines[-3:]])
        print(f"| {group} | {results[-1][0]:.1f} | {results[-1][1]:.1f} | {results[-1][2]:.0f} |", flush=True)
    seconds, busy, megabytes = zip(*results, strict=True)
    print(f"| all | {sum(seconds):.1f} | {sum(busy):.1f} | {max(megabytes):.0f} |")
    names = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "scikit-learn"))
    print(
        f"\n{n:,} reference and {scored:,} scored cells, {datetime.date.today()}, Python {platform.python_version()}, "
    )
    print(
        f"{names}, {len(os.sched_getaffinity(0))} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(*run(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        main(*(int(word) for word in sys.argv[1:3] or (CELLS, SCORED)))
