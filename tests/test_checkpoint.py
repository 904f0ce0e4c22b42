"""A fit that is stopped at any moment and given again ends as one that was not stopped."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from samples import make_cells

import tripletomics as tt
from tripletomics import checkpoint
from tripletomics.checkpoint import Checkpoint

TINY = {"steps": 2, "progress": False, "device": "cpu", "seed": 3}
CASES = {  # and seconds between what is written within a training
    "labels": ({"label": "kind"}, 0),
    "donors": ({"label": "kind", "batch": "donor", "augment": "thin + mask"}, 60),
    "memory": ({"loss": "moco"}, 0),
    "survey": ({"label": "kind", "loss": "hierarchical_triplet + triplet:mining=offline + 0.1*adacos"}, 0),
    "taught": ({"label": "some", "self_training": True, "steps": 20}, 60),
    "pair": ({"label": "kind"}, 60),
    "zarr": ({"label": "kind"}, 60),
}


class Stop(BaseException):
    """As a kill, which no `except Exception` sees."""


@pytest.fixture(scope="module")
def table():
    adata = make_cells(60, 1, "abc", 40)
    adata.obs["donor"] = [f"d{i % 3}" for i in range(60)]
    adata.obs["some"] = adata.obs["kind"].mask(np.arange(60) % 2 == 0)
    return adata


@pytest.fixture
def fit(table, tmp_path, monkeypatch):
    """Fit a case, stopped once its checkpoint was written `stop` times; return what came of it and how often it was."""
    write, count = Checkpoint.write, 0

    def counted(self):
        nonlocal count
        write(self)
        count += 1
        if count == left:
            raise Stop

    monkeypatch.setattr(Checkpoint, "write", counted)

    def fit(case, stop=None, **given):
        nonlocal count, left
        count, left = 0, stop
        monkeypatch.setattr(checkpoint, "EVERY", CASES[case][1])
        given = TINY | CASES[case][0] | given
        adata = table.copy()
        if case == "pair":
            other = table[:, :20].copy()
            other.X = other.X.toarray() + 1
            model = tt.fit((adata, other), **given)
        elif case == "zarr":
            shutil.rmtree(tmp_path / "cells.zarr", ignore_errors=True)
            adata.write_zarr(tmp_path / "cells.zarr")
            model = tt.fit(tmp_path / "cells.zarr", **given)
            adata = ad.read_zarr(tmp_path / "cells.zarr")
        else:
            model = tt.fit(adata, **given)
        return adata, model, count

    left = None
    return fit


def assert_equal(one, other):
    (a, model, _), (b, again, _) = one, other
    assert model.id == again.id
    for key in a.obsm:
        np.testing.assert_array_equal(a.obsm[key], b.obsm[key])
    assert repr((model.scores, model.checks, model.settings)) == repr((again.scores, again.checks, again.settings))
    for stage, columns in model.history.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, again.history[stage][name])
    for name in () if model.calibration is None else ("weights", "novelties", "oddities", "pair"):
        np.testing.assert_array_equal(getattr(model.calibration, name), getattr(again.calibration, name))
    for name, values in model.findings.items():
        np.testing.assert_array_equal(values, again.findings[name])


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_fit_ends_as_one_that_was_not(fit, tmp_path, case):
    path = tmp_path / "fit.ckpt"
    whole = fit(case, checkpoint=path)
    assert not path.exists()
    stop = int(np.random.default_rng([*case.encode()]).integers(1, whole[2]))
    with pytest.raises(Stop):
        fit(case, stop, checkpoint=path)
    assert path.exists()
    resumed = fit(case, checkpoint=path)
    assert resumed[2] == whole[2] - stop
    assert_equal(whole, resumed)
    assert not path.exists()


def test_when_it_is_written(fit, tmp_path):
    """After encoder, map, both of the null, and an encoder of the others for each donor; it changes nothing."""
    written = fit("donors", checkpoint=tmp_path / "fit.ckpt")
    assert written[2] == 7
    assert_equal(fit("donors"), written)
    assert not list(tmp_path.iterdir())


DIFFER = [
    ({"lr": 0.002}, r"another lr \(0\.001, now 0\.002\)"),
    ({"loss": "triplet"}, r"another loss \(None, now triplet\)"),
    ({"label": "donor"}, r"another label \(kind, now donor\)"),
    ({"hold_out": "donor"}, r"another hold_out \(0\.1, now donor\)"),
]


def test_another_setting_table_or_version_is_refused(fit, table, tmp_path, monkeypatch):
    path = tmp_path / "fit.ckpt"
    with pytest.raises(Stop):
        fit("labels", 1, checkpoint=path)
    before = path.read_bytes()
    for given, message in DIFFER:
        with pytest.raises(ValueError, match=rf"fit\.ckpt' was started with {message}: continue .*, or delete the"):
            fit("labels", checkpoint=path, **given)
    changed = {"x": "table of cells", "kind": "column of labels", "genes": "table of cells", "order": "table of cells"}
    for what, name in changed.items():
        other = table[np.roll(np.arange(60), 1)].copy() if what == "order" else table.copy()
        if what == "x":
            other.X[5, 5] += 1
        elif what == "genes":
            other.var_names = [f"other {i}" for i in range(40)]
        elif what == "kind":
            other.obs.iloc[0, 0] = "b" if other.obs.iloc[0, 0] == "a" else "a"
        with pytest.raises(ValueError, match=f"started with another {name}"):
            tt.fit(other, "kind", checkpoint=path, **TINY)
        assert not other.obsm
    monkeypatch.setattr("tripletomics.pp.preparing.versions", lambda: {"torch": "0.0"})
    with pytest.raises(ValueError, match=r"another version of torch \(.*, now 0\.0\)"):
        fit("labels", checkpoint=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["fit.ckpt"]


def test_every_damaged_byte_is_found(fit, tmp_path):
    path = tmp_path / "fit.ckpt"
    with pytest.raises(Stop):
        fit("labels", 1, checkpoint=path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    length = int.from_bytes(whole[:8], "little")
    for place in (*range(8), *random.integers(8, 8 + length, 30), *random.integers(8 + length, len(whole), 30)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(random.integers(8))]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"fit\.ckpt' is .*(damaged|version).* delete it to start again"):
            Checkpoint(path)
    for content in (b"", whole[:-1], whole + b" ", b"cells,genes\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="delete it to start again"):
            Checkpoint(path)
        assert path.read_bytes() == content


def test_places_that_cannot_be_used(fit, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is a folder"):
        fit("labels", checkpoint=tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist: create it first"):
        fit("labels", checkpoint=tmp_path / "no" / "fit.ckpt")
    monkeypatch.setattr("tripletomics.processes.place", lambda: tt.processes.Place(0, 2))
    with pytest.raises(ValueError, match="works in one process only"):
        Checkpoint(tmp_path / "fit.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_written_costs_no_fit(fit, tmp_path, monkeypatch):
    whole = fit("labels")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("tripletomics.files._reserve", full)
    with pytest.warns(
        UserWarning, match="The checkpoint could not be written, and the fit continues: '.*fit.ckpt' could not"
    ):
        assert_equal(whole, fit("labels", checkpoint=tmp_path / "fit.ckpt"))


@pytest.mark.parametrize("other", ["cells.h5ad", "out.h5ad", "m.tt"])
def test_another_file_of_the_command_is_no_checkpoint(run, table, tmp_path, other):
    table.write_h5ad(tmp_path / "cells.h5ad")
    words = ["fit", tmp_path / "cells.h5ad", "--label", "kind", "--out", tmp_path / "out.h5ad"]
    status, _, error = run(*words, "--model", tmp_path / "m.tt", "--checkpoint", tmp_path / other)
    assert (status, error.count("\n")) == (1, 1)
    assert "is also another file of this fit" in error
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_the_command_goes_on(run, table, tmp_path, monkeypatch, request):
    """Ctrl-C says what can be resumed, and the checkpoint is there until all is written."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
    table.write_h5ad(tmp_path / "cells.h5ad")
    common = ["fit", tmp_path / "cells.h5ad", "--label", "kind", "--steps", 2, "--no-progress"]
    given = [*common, "--out", tmp_path / "out.h5ad", "--checkpoint", tmp_path / "fit.ckpt"]
    assert run(*common, "--out", tmp_path / "whole.h5ad")[0] == 0
    write = Checkpoint.write

    def interrupted(self):
        write(self)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Checkpoint, "write", interrupted)
    status, _, error = run(*given)
    assert status == 130
    assert re.fullmatch(r"error: interrupted: run the same command again to continue from '.*fit\.ckpt'\.\n", error)
    monkeypatch.setattr(Checkpoint, "write", write)
    refuse = "tripletomics.cli.fitting.write"
    monkeypatch.setattr(refuse, lambda *_: (_ for _ in ()).throw(OSError("no room")))
    assert run(*given)[::2] == (1, "error: no room\n")
    assert (tmp_path / "fit.ckpt").exists()
    monkeypatch.undo()
    assert run(*given)[0] == 0
    a, b = (ad.read_h5ad(tmp_path / name) for name in ("whole.h5ad", "out.h5ad"))
    for key in a.obsm:
        np.testing.assert_array_equal(a.obsm[key], b.obsm[key])
    assert sorted(os.listdir(tmp_path)) == ["cells.h5ad", "out.h5ad", "whole.h5ad"]


KILLED = """
import os, random, signal, sys, time
import anndata as ad, numpy as np, torch
import tripletomics as tt
from tripletomics import checkpoint
torch.set_num_threads(1)
checkpoint.EVERY = 0.02
folder, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)
cases = [{"label": "kind"}, {"label": "kind", "batch": "donor"}, {}, {"label": "kind", "loss": "moco + softmax"}]
def fit(given, where, path):
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        cells = ad.read_h5ad(folder + "/cells.h5ad")
        model = tt.fit(cells, steps=3, progress=False, device="cpu", checkpoint=path, **given)
        np.savez(where, id=model.id, scores=repr(model.scores), **cells.obsm)
        os._exit(0)
    return pid
def same(a, b):
    a, b = np.load(a), np.load(b)
    return all(np.array_equal(a[name], b[name]) for name in a)
for i in range(rounds):
    given, path = cases[i % len(cases)], f"{folder}/fit.ckpt"
    started = time.time()
    assert os.waitpid(fit(given, f"{folder}/whole.npz", None), 0)[1] == 0
    took, kills = time.time() - started, 0
    for delay in (draw.uniform(0.1, 0.9) * took, draw.uniform(0.1, 0.9) * took, None):
        pid = fit(given, f"{folder}/again.npz", path)
        if delay:
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)[1]
        kills += ended == signal.SIGKILL
    assert ended == 0, ended
    print(kills, same(f"{folder}/whole.npz", f"{folder}/again.npz"), sorted(os.listdir(folder)))
    os.unlink(f"{folder}/again.npz")
"""


def test_killed_at_random(table, tmp_path):
    table.write_h5ad(tmp_path / "cells.h5ad")
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, tmp_path, "1", "5"], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=Path(tt.__file__).parents[1],
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert len(lines) == 1
    for line in lines:
        assert "True" in line
        assert line.endswith("['again.npz', 'cells.h5ad', 'whole.npz']")
