"""Two real processes beside one: they train the same network, one writes and prints, none waits for the dead."""

import os
import re
import socket
import subprocess
import sys
import time

import anndata as ad
import joint
import numpy as np
import pytest
import torch
from samples import make_cells
from threadpoolctl import threadpool_limits

from tripletomics import devices, processes


def environment(**changes):
    names = (*processes.TORCHRUN, *processes.SRUN)
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {name: value for name, value in os.environ.items() if name not in names} | one_thread | changes


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    make_cells(210, 0, types="abc", genes=60).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def pair(table, tmp_path_factory):
    """The folder in which two processes, started as srun does, left what they found; and how they ended."""
    folder, port = tmp_path_factory.mktemp("pair"), free_port()
    both = []
    for rank in range(2):
        srun = dict(zip(processes.SRUN, (str(rank), "2", str(rank)), strict=True))
        srun |= {"SLURM_STEP_NODELIST": "127.0.0.1", "MASTER_PORT": port}
        with (folder / f"stderr {rank}").open("w") as err:
            both.append(
                subprocess.Popen([sys.executable, joint.__file__, folder, table], env=environment(**srun), stderr=err)
            )
    try:
        killed = both[1].wait(timeout=200)
        since = time.monotonic()
        status = both[0].wait(timeout=60)
    finally:
        for one in both:
            one.kill()
    return folder, killed, status, time.monotonic() - since


@pytest.fixture(scope="module")
def said(pair):
    return [dict(np.load(pair[0] / f"said {rank}.npz").items()) for rank in range(2)]


def test_two_processes_train_as_one_does(pair):
    expected = joint.results()
    for rank in range(2):
        found = np.load(pair[0] / f"{rank}.npz")
        assert set(found.files) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_their_weights_are_the_same_to_the_bit(pair):
    one, other = (np.load(pair[0] / f"{rank}.npz") for rank in range(2))
    for name in one.files:
        if not name.startswith("batch"):
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_process_that_is_killed_is_named(pair):
    folder, killed, status, seconds = pair
    assert killed == -9
    assert status == 1
    assert seconds < 10
    last = (folder / "stderr 0").read_text().splitlines()[-1]
    assert re.match(rf"error: Process 1 \({re.escape(socket.gethostname())}\) of 2 has ended, and process 0", last)
    assert not (folder / "never.h5ad").exists()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("same", "ValueError: Process 1 of 2 has other cells or settings than process 0"),
        ("gpus", "ValueError: Each process needs a GPU of its own, and there is none for process 1: start"),
        ("batch", "ValueError: A batch of 1 cells is too few for 2 processes: start fewer"),
    ],
)
def test_all_refuse_alike(said, what, message):
    assert str(said[0][what]).startswith(message)
    assert str(said[1][what]) == str(said[0][what])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("evaluate", "error: `tripletomics evaluate` works in one process, and only `fit` in many"),
        ("column", "error: --label kinds is not a column"),
        ("device", "error: --device cuda is not on this machine."),
    ],
)
def test_what_all_find_wrong_is_printed_once(said, what, message):
    if what == "device" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    statuses, outs, errs = zip(*(str(one[what]).split("|") for one in said), strict=True)
    assert statuses == ("1", "1")
    assert outs == ("", "")
    assert sorted(map(len, errs))[0] == 0
    assert max(errs).startswith(message)


def test_what_one_finds_wrong_is_printed_by_that_one(said):
    for rank, one in enumerate(said):
        assert f"error: --label 'label {rank}' is not a column" in str(one["own"])


def test_srun_may_start_verbs_that_train_nothing(said):
    for one in said:
        status, out, _ = str(one["losses"]).split("|", 2)
        assert status == "0"
        assert "clip" in out


def test_a_fit_by_two_is_that_of_one(table, pair, said, run, tmp_path):
    """Of a few steps: in more, the map makes much of a last bit, in one process as well."""
    with threadpool_limits(1):  # as the two have: the last bit of a sum follows the threads
        status, printed, _ = run("fit", table, *joint.FIT, "--out", tmp_path / "one.h5ad")
    assert status == 0
    (first, out, err), silent = (str(one["fit"]).split("|") for one in said)
    assert (first, err) == ("0", "")
    assert silent == ["0", "", ""]
    assert out.splitlines() == [*printed.splitlines()[:-1], f"Wrote {pair[0] / 'out.h5ad'}"]
    assert str(said[0]["fitted"]) == "out.h5ad"  # and no draft
    one, two = ad.read_h5ad(tmp_path / "one.h5ad"), ad.read_h5ad(pair[0] / "out.h5ad")
    assert list(one.obsm) == list(two.obsm)
    for key in one.obsm:
        np.testing.assert_allclose(two.obsm[key], one.obsm[key], rtol=1e-4, atol=1e-4, err_msg=key)
    assert (one.obs["tt_split"] == two.obs["tt_split"]).all()


def test_torchrun_comes_before_slurm_that_started_it(monkeypatch):
    for names, values in ((processes.TORCHRUN, "261"), (processes.SRUN, "130")):
        for name, value in zip(names, values, strict=True):
            monkeypatch.setenv(name, value)
    assert processes.place() == (2, 6, 1)


def test_alone_a_process_meets_nobody(monkeypatch):
    for name in (*processes.TORCHRUN, *processes.SRUN):
        monkeypatch.delenv(name, raising=False)
    assert processes.place() == (0, 1, 0)
    monkeypatch.setenv("SLURM_NTASKS", "4")  # sbatch, without srun
    assert processes.join() == (0, 1, 0)
    assert processes.count() == 1
    z = torch.ones(6, 2)
    assert processes.gather(devices.start("cpu", "auto"), z, 2, 3) is z
    values = np.ones(3)
    assert processes.of_first(values) is values
    assert not torch.distributed.is_initialized()


def test_who_is_not_met_is_said(monkeypatch):
    for name, value in zip(processes.TORCHRUN, ("1", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", free_port())
    monkeypatch.setattr(processes, "TIMEOUT", processes.timedelta(seconds=1))
    with pytest.raises(ConnectionError, match="Process 1 of 2 did not meet the others at"):
        devices.start("cpu", "auto")


def test_a_plain_fit_inside_a_job_of_slurm_is_one_process(monkeypatch):
    for name in (*processes.TORCHRUN, *processes.SRUN):
        monkeypatch.delenv(name, raising=False)
    job = {"JOB_ID": "1", "JOB_NAME": "analysis.sh", "NTASKS": "4", "NNODES": "1", "PROCID": "0", "LOCALID": "0",
           "NODELIST": "node1"}  # fmt: skip
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    fabric = devices.start("cpu", "auto")
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_a_fit_that_calls_numba_keeps_the_threads_of_torch():
    """In a process of its own, where numba has not started yet; and the fit after it is that before it."""
    code = """
import numpy as np, torch, scipy.sparse as sp, tripletomics as tt
from samples import make_cells
from threadpoolctl import threadpool_info
torch.set_num_threads(1)
wide, small = make_cells(60, 0, types="ab", genes=2100), make_cells(60, 0, types="ab", genes=40)
def fitted():
    tt.fit(small, "kind", steps=2, hold_out=0, progress=False, device="cpu")
    return small.obsm["X_tt"]
blas = lambda: {pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
before, pools = fitted(), blas()
tt.fit(wide, "kind", steps=2, hold_out=0, progress=False, device="cpu")
print(torch.get_num_threads(), np.array_equal(before, fitted()), pools.items() <= blas().items())
"""
    numba = {"NUMBA_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment(**numba), capture_output=True, text=True
    )
    assert run.stdout.split() == ["1", "True", "True"], run.stderr
