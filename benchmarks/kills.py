"""Runs of the command line that are killed, meet a full disk, or are repeated: what is lost, and what is left.

    python benchmarks/kills.py --kills 20               # kill -9 at so many random moments of each situation
    python benchmarks/kills.py --renames                # and before each rename that a reader would see
    python benchmarks/kills.py --full-disk              # with 0 to 110 % of the room that a run needs
    python benchmarks/kills.py --soak 200               # fits in one process: memory, threads and handles
    python benchmarks/kills.py --matrix                 # seconds that the checks of a large matrix take

After each kill the input has to be as it was, and an output absent, the one before or the new one, and readable. Then
the same command is given again: it has to end well, with the result of a run that was never stopped, equal to the bit
but for seconds, and to leave no draft. With `--checkpoint` this shows that what is resumed is the same fit.
A full disk is a small tmpfs, or a limit of the size of files where none may be mounted; "says" counts messages that
name how much is needed or there. Each prints a table in Markdown, and the status is 1 if anything was bad.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import inspect
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import forks
import fuzz
import h5py
import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp
import zarr
from mutants import copy
from safetensors import safe_open

import tripletomics as tt
from tripletomics import cli, pp

STEPS = ("--steps", "10", "--no-progress")
UNEQUAL = {
    "seconds",
    "sha256",
}  # fields of a model file that differ between equal fits: the digest is also of the seconds
FIT = ("fit", "in.h5ad", "--label", "kind", *STEPS, "--model", "out.tt")
STORE = ("fit", "in.zarr", "--label", "kind", *STEPS, "--model", "out.tt")
PAIR = (
    "fit",
    "in.h5ad",
    "--protein",
    "protein.h5ad",
    "--label",
    "kind",
    *STEPS,
    "--out",
    "out.h5mu",
    "--model",
    "out.tt",
)
OUT, HERE, CHECKPOINT = ("--out", "out.h5ad"), ("--out", "in.h5ad"), ("--checkpoint", "fit.checkpoint")
PLACE = ("transform", "in.h5ad", "--model", "model.tt")
SHARD = ("transform", "in.zarr", "--model", "model.tt", "--shard", "1/1")
SITUATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # command, and what is there beside the input
    "fit": (FIT + OUT, ()),
    "fit over an old output": (FIT + OUT, ("old.h5ad", "old.tt")),
    "fit, output = input": (FIT + HERE, ()),
    "fit, two modalities": (PAIR, ("protein.h5ad",)),
    "fit into .zarr": (STORE, ("in.zarr",)),
    "refit into .zarr": (STORE, ("fitted.zarr",)),
    "transform": (PLACE + OUT, ("model.tt",)),
    "transform, output = input": (PLACE + HERE, ("model.tt",)),
    "transform --shard": (SHARD, ("long.zarr", "model.tt")),
    "predict": (("predict", *PLACE[1:], *OUT), ("model.tt",)),
    "convert": (("convert", "in.h5ad", "out.zarr"), ()),
    "fit --checkpoint": (FIT + OUT + CHECKPOINT, ()),
    "fit --checkpoint, two modalities": (PAIR + CHECKPOINT, ("protein.h5ad",)),
    "fit --checkpoint into .zarr": (STORE + CHECKPOINT, ("in.zarr",)),
}  # fmt: skip
NAMED = {"old.h5ad": "out.h5ad", "old.tt": "out.tt", "fitted.zarr": "in.zarr", "long.zarr": "in.zarr"}
RENAMED = ("fit over an old output", "fit into .zarr", "refit into .zarr", "transform --shard", "convert")
FILLED = ("fit", "fit into .zarr", "transform", "predict", "convert", "transform --shard")
SHARES = (0.0, 0.2, 0.5, 0.8, 0.95, 1.1)  # of the room that a run needs
SIZE = re.compile(r"\d[\d,.]* ?(bytes|[kMGT]?B)\b")
BASE = ("in.h5ad", "protein.h5ad", "in.zarr", "fitted.zarr", "long.zarr", "model.tt", "old.h5ad", "old.tt")


def prepare(base: Path) -> None:
    """Write what the situations start from."""
    os.chdir(base)
    adata = fuzz.cells(200, 1)
    adata.write_h5ad("in.h5ad")
    adata.write_zarr("in.zarr")
    ad.AnnData(adata.X[:, :20].toarray(), obs=adata.obs, var=adata.var[:20]).write_h5ad("protein.h5ad")
    fuzz.cells(20_000, 2).write_zarr("long.zarr")
    copy(Path("in.zarr"), Path("fitted.zarr"))
    for arguments in (
        ("fit", "in.h5ad", "--label", "kind", *STEPS, "--out", "old.h5ad", "--model", "old.tt", "--seed", "1"),
        ("fit", "fitted.zarr", "--label", "kind", *STEPS, "--model", "x.tt", "--seed", "1"),
        (*FIT[:-1], "model.tt", "--out", "x.h5ad"),
        ("predict", "in.h5ad", "--model", "model.tt", "--out", "x.h5ad"),
        ("convert", "in.h5ad", "x.zarr"),
        (*PAIR[:-3], "x.h5mu", "--model", "x.tt"),
    ):  # fmt: skip
        cli.main(arguments)


def lay(base: Path, folder: Path, situation: str) -> None:
    """Put into a folder what a situation starts from."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)  # it may be a link to a small disk
    there = SITUATIONS[situation][1]
    for name in there if any(NAMED.get(name, name) == "in.zarr" for name in there) else ("in.h5ad", *there):
        copy(base / name, folder / NAMED.get(name, name))


def command(folder: Path, situation: str, kill_before: int = 0, largest: int = 0) -> int:
    """Start the command in a child, which may be killed before a rename or not write large files; return its id."""

    def work() -> None:
        os.chdir(folder)
        if kill_before:
            _count_renames(kill_before, folder)
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        cli.main(SITUATIONS[situation][0])

    return forks.start(work, folder.with_suffix(".json"))


def _count_renames(kill_before: int, folder: Path) -> None:
    """Make this process kill itself before a rename, not counting those in hidden folders, which no reader sees."""
    seen = 0
    for name in ("rename", "replace"):
        whole = getattr(os, name)

        def counting(source: Any, target: Any, whole: Callable[..., None] = whole, **options: Any) -> None:
            nonlocal seen
            parents = Path(os.path.relpath(os.path.abspath(target), folder)).parts[:-1]
            seen += not any(part.startswith(".") for part in parents)
            if seen == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            whole(source, target, **options)

        setattr(os, name, counting)


def ended(child: int, folder: Path) -> tuple[int, str]:
    """Wait for a child; return its exit status, or minus the signal, and what it printed."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), folder.with_suffix(".log").read_text(errors="replace")


# what is there


def content(path: Path) -> dict[str, str]:
    """Return a text for each array of a file or store, without what differs from run to run; raise if unreadable."""
    if path.suffix == ".tt":
        tt.load(path)
        with safe_open(path, framework="np") as file:
            header = json.loads(file.metadata()["tripletomics"])
            found = {name: fuzz.digest_of(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        return found | {name: json.dumps(value) for name, value in header.items() if name not in UNEQUAL}
    if path.suffix == ".zarr":
        ad.read_zarr(path)
        root = zarr.open_group(path, mode="r", use_consolidated=False)
        arrays = {name: node[...] for name, node in root.members(max_depth=None) if hasattr(node, "shape")}
    else:
        if path.suffix == ".h5ad":
            ad.read_h5ad(path)
        arrays = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, node: arrays.update({name: node[()]} if hasattr(node, "shape") else {}))
    return {name: fuzz.digest_of(np.asarray(array)) for name, array in arrays.items() if "seconds" not in name}


def states(folder: Path) -> dict[str, dict[str, str]]:
    """Return the content of all that has a name in a folder."""
    return {
        path.name: content(path)
        for path in sorted(folder.iterdir())
        if path.name[0] != "." and path.suffix != ".checkpoint"
    }


def partly(path: Path, found: dict[str, str], old: dict[str, str], whole: Path) -> bool:
    """Tell whether a store is as before but for places of a shard, each of which is right or NaN."""
    there, complete = (zarr.open_group(store, mode="r", use_consolidated=False) for store in (path, whole))
    for name in ("obsm/X_tt_metric", "obsm/X_tt"):
        if name in there:
            places = np.asarray(there[name])
            if not np.array_equal(
                places, np.where(np.isnan(places), np.nan, np.asarray(complete[name])), equal_nan=True
            ):
                return False
    return all(found.get(name) == value for name, value in old.items())


def judge(folder: Path, situation: str, old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> list[str]:
    """Return what is wrong after a run that was stopped."""
    bad = []
    for name in {*old, *new}:
        kind = "input" if name.startswith(("in.", "protein", "model")) else "output"
        path = folder / name
        if not path.exists():
            bad += [f"{kind} {name} is gone"] if name in old else []
            continue
        try:
            found = content(path)
        except Exception as error:
            bad.append(f"{kind} {name} cannot be read: {error}")
            continue
        if found in (old.get(name), new.get(name)) or (
            "shard" in situation and partly(path, found, old[name], folder.with_name("whole"))
        ):
            continue
        bad.append(f"{kind} {name} is neither the old nor the new one")
    return bad


# kills


class Runs:
    """Situations and what came of their runs."""

    def __init__(self, base: Path) -> None:
        self.base, self.folder = base, base / "run"
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.bad = 0

    def whole(self, situation: str) -> tuple[float, dict[str, dict[str, str]], dict[str, dict[str, str]], int]:
        """Run a command to its end; return seconds, what was there before and is after it, and the bytes it took."""
        lay(self.base, self.folder, situation)
        old, started, free = states(self.folder), time.monotonic(), _size(self.folder)
        status, said = ended(command(self.folder, situation), self.folder)
        if status:
            raise SystemExit(f"{situation}: {said}")
        seconds, shard = time.monotonic() - started, self.folder / "in.zarr"
        if shard.exists():
            shutil.rmtree(self.base / "whole", ignore_errors=True)
            copy(shard, self.base / "whole")
        return seconds, old, states(self.folder), _size(self.folder) - free

    def kill(self, situation: str, times: int, random: np.random.Generator) -> None:
        """Kill at random moments: of the run, of its last fifth, and after the first draft has bytes in it."""
        seconds, old, new, _ = self.whole(situation)
        for i in range(times):
            lay(self.base, self.folder, situation)
            child = command(self.folder, situation)
            if i % 3 == 2:
                _wait_for_draft(self.folder, child)
                time.sleep(random.exponential(0.01))
            else:
                time.sleep(seconds * random.uniform(0.8 * (i % 3), 1))
            os.kill(child, signal.SIGKILL)
            self.after(situation, ended(child, self.folder)[0], old, new)

    def kill_before_renames(self, situation: str) -> None:
        """Kill before each rename in turn, until a run has no more of them."""
        _, old, new, _ = self.whole(situation)
        for k in range(1, 1000):
            lay(self.base, self.folder, situation)
            status, _ = ended(command(self.folder, situation, k), self.folder)
            if status == 0:
                return
            self.after(f"{situation}, before a rename", status, old, new)

    def after(self, title: str, status: int, old: Any, new: Any) -> None:
        """Count what is wrong after a kill, and after the same command once more."""
        situation, counts = title.removesuffix(", before a rename"), self.counts[title]
        counts["kills"] += 1
        counts["had ended"] += status == 0
        bad = judge(self.folder, situation, old, new)
        counts["inputs damaged"] += any(why.startswith("input") for why in bad)
        counts["half outputs"] += any(why.startswith("output") for why in bad)
        counts["drafts"] += bool(fuzz.drafts(self.folder))
        counts["with checkpoint"] += (self.folder / "fit.checkpoint").exists()
        if SITUATIONS[situation][0][0] == "convert" and (self.folder / "out.zarr").exists():
            shutil.rmtree(self.folder / "out.zarr")  # it is whole, and convert writes over nothing
        again, said = ended(command(self.folder, situation), self.folder)
        counts["next run fails"] += again != 0
        counts["next run differs"] += 0  # so that the column is there
        if again:
            bad.append(f"the next run ends with {again}: {said[-300:]}")
        elif "output = input" not in situation:  # there the next run may have another input
            found = states(self.folder)
            equal = {name: found.get(name) == new[name] for name in new}
            if not all(equal.values()):
                counts["next run differs"] += 1
                bad.append(f"after the next run {[name for name in equal if not equal[name]]} is another")
        left = fuzz.drafts(self.folder)
        counts["drafts after it"] += bool(left)
        if left:
            bad.append(f"left after the next run: {left[:3]}")
        self.report(title, bad)

    def report(self, title: str, bad: Sequence[str]) -> None:
        """Print what was bad."""
        self.bad += bool(bad)
        for why in bad:
            print(f"{title}: {why}", flush=True)

    def fill(self, situation: str, place: Path | None) -> None:
        """Run with a share of the room that is needed."""
        _, old, new, needed = self.whole(situation)
        for share in SHARES:
            with _small(self.folder, place):
                lay(self.base, self.folder, situation)
                if place is not None:
                    _leave(self.folder, int(needed * share))
                largest = 0 if place is not None else max(1, int(share * _largest(self.base, new)))
                status, said = ended(command(self.folder, situation, largest=largest), self.folder)
                (self.folder / "filler").unlink(missing_ok=True)
                lines = [line for line in said.splitlines() if line.startswith("error: ")]
                counts = self.counts[situation]
                bad = judge(self.folder, situation, old, new)
                counts["runs"] += 1
                counts["ended well"] += status == 0
                counts["crashes"] += status < 0
                counts["tracebacks"] += status > 0 and ("Traceback" in said or len(lines) != 1)
                counts["inputs damaged"] += any(why.startswith("input") for why in bad)
                counts["half outputs"] += any(why.startswith("output") for why in bad)
                counts["drafts"] += bool(fuzz.drafts(self.folder))
                counts["says"] += len(lines) == 1 and bool(SIZE.search(lines[0]))
                if status < 0 or (status > 0 and ("Traceback" in said or len(lines) != 1)):
                    bad.append(f"status {status} with {share:.0%} of {needed:,} bytes: {said[-300:]!r}")
                self.report(situation, bad + [f"left: {left}" for left in fuzz.drafts(self.folder)[:1]])

    def table(self) -> pd.DataFrame:
        """Return the counts of each situation, and of all."""
        found = pd.DataFrame(self.counts).T.fillna(0).astype(int)
        found.loc["all"] = found.sum()
        return found.reset_index(names="situation")


def _wait_for_draft(folder: Path, child: int) -> None:
    """Return when a hidden file, or one in a hidden folder, has bytes in it, or the child has ended."""
    while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        hidden = [
            path for path in (*folder.glob(".*"), *folder.glob("in.zarr/.*")) if path.name not in fuzz.mutants.META
        ]
        for path in hidden:
            with contextlib.suppress(OSError):  # it may be gone by now
                if any(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file()):
                    return
        time.sleep(0.001)


def _size(folder: Path) -> int:
    """Return the bytes of a folder on a disk of pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def _largest(base: Path, names: dict[str, Any]) -> int:
    return max(
        path.stat().st_size for name in names for path in [base / "run" / name, base / "old.h5ad"] if path.is_file()
    )


@contextlib.contextmanager
def _small(folder: Path, place: Path | None) -> Any:
    """Let the runs' folder lie on a small disk."""
    if place is None:
        yield
        return
    shutil.rmtree(folder, ignore_errors=True)
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    try:
        folder.symlink_to(place / "run")
        (place / "run").mkdir()
        yield
    finally:
        folder.unlink()
        subprocess.run(["umount", place], check=True)


def _leave(folder: Path, room: int) -> None:
    """Fill a disk but for some bytes."""
    with (folder / "filler").open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(folder).free - room)))


# the rest


def soak(times: int) -> bool:
    """Fit, save, load, transform and predict over and over; return whether memory, threads or handles grow after 20."""
    warnings.simplefilter("ignore")  # that these cells were part of the fit
    me, seen = psutil.Process(), {}
    print("| after | memory, MB | threads | handles |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for i in range(1, times + 1):
            adata = fuzz.cells(300, i)
            tt.fit(adata, "kind", steps=5, progress=False).save(f"{name}/model.tt")
            model = tt.load(f"{name}/model.tt")
            tt.transform(adata, model)
            tt.predict(adata, model)
            if i in (5, 20, 50, 100, times):
                gc.collect()
                seen[i] = (me.memory_info().rss / 1e6, me.num_threads(), me.num_fds())
                print("| {} | {:,.0f} | {} | {} |".format(i, *seen[i]), flush=True)
    first, last = seen[min(20, times)], seen[times]
    return last[0] > 1.02 * first[0] or last[1:] != first[1:]


def matrix() -> bool:
    """Time the checks of a million cells x 2,000 genes, 5 % not zero; return whether they take more than 2 s."""
    n, genes, each = 1_000_000, 2_000, 100
    random = np.random.default_rng(0)
    indices = np.arange(0, genes, genes // each, dtype=np.int32) + random.integers(
        genes // each, size=(n, each), dtype=np.int32
    )
    x = sp.csr_matrix(
        (np.ones(n * each, dtype=np.float32), indices.reshape(-1), np.arange(n + 1, dtype=np.int32) * each), (n, genes)
    )
    adata = ad.AnnData(x)
    spans = []
    for _ in range(5):
        started = time.perf_counter()
        pp.matrix(adata, None)
        spans.append(time.perf_counter() - started)
    print(f"Checks of {n:,} x {genes:,}, {x.nnz / n / genes:.0%} not zero: {statistics.median(spans):.2f} s")
    return statistics.median(spans) > 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="random moments of each situation")
    parser.add_argument("--renames", action="store_true")
    parser.add_argument("--full-disk", action="store_true")
    parser.add_argument("--soak", type=int, default=0, metavar="N")
    parser.add_argument("--matrix", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of the situations to take")
    given = parser.parse_args()
    bad = (bool(given.soak) and soak(given.soak)) | (given.matrix and matrix())
    if not (given.kills or given.renames or given.full_disk):
        return int(bad)
    can_resume = "checkpoint" in inspect.signature(tt.fit).parameters
    chosen = [
        name for name in SITUATIONS if name.startswith(tuple(given.only)) and (can_resume or "checkpoint" not in name)
    ]
    random = np.random.default_rng(given.seed)
    from common import write_table

    warnings.simplefilter("ignore")  # zarr's, of drafts
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        base = Path(name)
        forks.prepare(lambda: prepare(base), base)
        runs = Runs(base)
        for situation in chosen:
            if given.kills:
                runs.kill(situation, given.kills, random)
            if given.renames and situation in RENAMED:
                runs.kill_before_renames(situation)
        if given.kills or given.renames:
            write_table(runs.table(), "kills")
        if given.full_disk:
            disk = Runs(base)
            for situation in [situation for situation in chosen if situation in FILLED]:
                disk.fill(situation, base / "disk" if os.geteuid() == 0 else None)
            write_table(disk.table(), "full_disk")
            runs.bad += disk.bad
    return int(bad or runs.bad > 0)


if __name__ == "__main__":
    forks.with_one_thread()
    sys.exit(main())
