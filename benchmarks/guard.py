"""Digests of all that fits give, for changes of the code that must not change a bit of it.

    python benchmarks/guard.py before.npz                # fit and write; again after a change, to another file
    python benchmarks/guard.py after.npz --next-to before.npz    # and compare

Fits with labels, batches, few labels and self-training, none, two modalities and from disk, with one thread and with
two, are compared to the bit: map, metric space, components, splits, predictions, scores and the values of the model's
tensors, without names, seconds and versions. A fit by two processes is compared within .001 of the map's width.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
from safetensors.numpy import load_file

import tripletomics as tt

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
FITS = ("labels", "batches", "few labels", "no labels", "modalities", "disk")
STEPS = 40
WIDTH = 1e-3  # of the map: how far two processes may move a cell


def cells(n: int, seed: int, genes: int = 120) -> ad.AnnData:
    """Make counts of four types in three donors."""
    shape, random = np.random.default_rng(0), np.random.default_rng(seed)
    rates = np.exp(shape.normal(-0.3, 0.7, genes) + 0.8 * shape.normal(size=(4, genes)))
    types = np.arange(n) % 4
    x = random.poisson(rates[types] * random.uniform(0.5, 2, (n, 1)))
    adata = ad.AnnData(sp.csr_matrix(x.astype(np.float32)))
    adata.obs["kind"] = np.array(list("abcd"))[types]
    adata.obs["few"] = np.where(np.arange(n) % 9 < 4, adata.obs["kind"], "")
    adata.obs["donor"] = np.array(list("xyz"))[random.integers(3, size=n)]
    adata.obs_names = [f"cell {i} of {seed}" for i in range(n)]
    adata.var_names = [f"Gene{i}" for i in range(genes)]
    return adata


def protein(adata: ad.AnnData) -> ad.AnnData:
    """Make proteins of all but a tenth of the cells."""
    made = ad.AnnData(np.log1p(adata.X[:, :30].toarray()), obs=adata.obs[["kind"]].copy())
    made.var_names = [f"Protein{i}" for i in range(30)]
    return made[: len(made) * 9 // 10].copy()


def numbers_of(value: Any) -> list[float]:
    """List the numbers in nested scores, in the order of their size."""
    if isinstance(value, dict):
        return sorted(number for part in value.values() for number in numbers_of(part))
    return [float(value)]


def digest(*arrays: Any) -> str:
    """Return a hash of arrays."""
    content = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        content.update(array.astype(str).tobytes() if array.dtype.kind in "OUST" else array.tobytes())
    return content.hexdigest()[:16]


def found(model: tt.Model, table: ad.AnnData, query: Any, folder: Path) -> dict[str, str]:
    """Return the digests of a fit and of what its model says of new cells."""
    tt.transform(query, model)
    digests = {name: digest(table.obsm[name]) for name in ("X_tt", "X_tt_metric", "X_tt_pca")}
    digests["split"] = digest(table.obs["tt_split"].astype(str))
    one = query[0] if isinstance(query, tuple) else query
    digests["new cells"] = digest(one.obsm["X_tt"], one.obsm["X_tt_metric"])
    if model.classes:
        tt.predict(query, model)
        digests["predictions"] = digest(*(one.obs[name] for name in ("tt_label", "tt_confidence", "tt_novelty")))
    digests["scores"] = digest(numbers_of(model.scores), numbers_of(model.checks), numbers_of(model.p_value))
    model.save(folder / "model.tt", index=True)
    tensors = [digest(tensor) for tensor in load_file(folder / "model.tt").values()]
    digests["tensors"] = digest(sorted(tensors))
    return digests


def fit(name: str, folder: Path) -> dict[str, str]:
    """Fit one of `FITS`, and return its digests."""
    table, query = cells(400, 1), cells(60, 2)
    given: dict[str, Any] = {"steps": STEPS, "progress": False}
    if name == "modalities":
        pair = (table, protein(table))
        return found(tt.fit(pair, "kind", **given), table, (query, protein(query)), folder)
    if name == "disk":
        table.write_h5ad(folder / "table.h5ad")
        query.write_zarr(folder / "query.zarr")
        model = tt.fit(folder / "table.h5ad", "kind", **given)
        tt.transform(folder / "query.zarr", model)
        return found(model, ad.read_h5ad(folder / "table.h5ad"), ad.read_zarr(folder / "query.zarr"), folder)
    label = {"few labels": "few", "no labels": None}.get(name, "kind")
    if name == "few labels":
        given["self_training"] = True
    if name == "batches":
        given["batch"] = "donor"
    digests = found(tt.fit(table, label, **given), table, query, folder)
    if name == "labels":
        scores = tt.evaluate(table, "kind")
        digests["evaluate"] = digest(scores.select_dtypes("number").to_numpy(float))
    return digests


def children(folder: Path) -> dict[str, str]:
    """Fit with one thread and with two, and by two processes; return all digests and write the two processes' map."""
    digests, script = {}, [sys.executable, __file__]
    for threads in "12":
        answer = folder / f"{threads}.json"
        subprocess.run([*script, str(answer), "--child"], env=os.environ | dict.fromkeys(THREADS, threads), check=True)
        digests |= {f"{threads} threads, {name}": value for name, value in json.loads(answer.read_text()).items()}
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    given = os.environ | dict.fromkeys(THREADS, "1")
    given |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(
            [*script, str(folder / f"process {rank}.npy"), "--process"],
            env=given | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    statuses = [one.wait() for one in both]
    if any(statuses):
        raise SystemExit("the fit by two processes failed")
    return digests


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write, .npz")
    parser.add_argument("--next-to", type=Path, help="file of a run before")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.process:
        table = cells(400, 1)
        tt.fit(table, "kind", steps=STEPS, progress=False)
        np.save(given.out, table.obsm["X_tt"])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.child:
            digests = {f"{one}: {what}": value for one in FITS for what, value in fit(one, folder).items()}
            given.out.write_text(json.dumps(digests))
            return
        digests = children(folder)
        place = np.load(folder / "process 0.npy")
    np.savez(given.out, place=place, digests=json.dumps(digests))
    print(f"{len(digests)} digests, all together {digest(list(digests.values()))}")
    if given.next_to is None:
        return
    with np.load(given.next_to) as before:
        old, was = json.loads(str(before["digests"])), before["place"]
    differ = [what for what in {**old, **digests} if old.get(what) != digests.get(what)]
    moved = float(np.abs(place - was).max() / np.ptp(was))
    print(f"{len(differ)} differ{': ' if differ else ''}{'; '.join(differ)}")
    print(f"two processes move a cell by {moved:.1e} of the map's width at most")
    if differ or moved > WIDTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
