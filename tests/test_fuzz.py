"""A small part of `benchmarks/fuzz.py`, in this process: what is damaged or hostile is used rightly or refused."""

import sys
from itertools import count, islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import fuzz
import mutants

TAKEN = {"model, bytes": 20, "model, saved by a stranger": 10, "model, format before": 12, ".h5mu": 2}
FEW = 4  # inputs of every other kind
SLOW = ("fit", "figure", "evaluate")  # whole files for these are tried as `benchmarks/fuzz.py` begins, not here


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fuzz.write_whole(folder)
    return folder


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_every_input_is_used_rightly_or_refused(base, tmp_path, kind):
    for number in islice((n for n in count() if fuzz.kind_of(n) == kind), TAKEN.get(kind, FEW)):
        (folder := tmp_path / str(number)).mkdir()
        trial = fuzz.Trial(base, folder, 0, number)
        outcome = trial.run()
        assert outcome in fuzz.GOOD, f"{outcome}, --replay 0:{number}: {trial.said}"


@pytest.mark.parametrize(("verb", "name"), [whole for whole in fuzz.WHOLE if whole[0] not in SLOW])
def test_whole_files_are_right(base, tmp_path, verb, name):
    trial = fuzz.Trial(base, tmp_path, 0, 0)
    assert trial.use_whole(verb, name) == "right", trial.said


@pytest.mark.parametrize("kind", [".h5ad, bytes", ".zarr"])
def test_a_seed_and_a_number_are_one_input(base, tmp_path, monkeypatch, kind):
    number = next(n for n in count(30) if fuzz.kind_of(n) == kind)
    monkeypatch.setattr(fuzz.Trial, "use_table", lambda self, verb, path: (verb, self.said, fuzz.digest(path)))
    made = []
    for again in range(2):
        (folder := tmp_path / str(again)).mkdir()
        made.append(fuzz.Trial(base, folder, 3, number).run())
    assert made[0] == made[1]


def flaw(name, value, place=5):
    def change(root):
        array = root[name]
        array[place] = value(array) if callable(value) else value

    return change


FLAWS = {
    "index": (flaw("X/indices", 60), "index is out of range"),
    "negative index": (flaw("X/indices", -1), "index is out of range"),
    "indptr falls": (flaw("X/indptr", 0), "does not run from 0"),
    "indptr ends late": (flaw("X/indptr", lambda array: array[-1] + 1, -1), "indptr ends at"),
    "not finite": (flaw("X/data", np.nan), "not finite"),
    "shape": (lambda root: root["X"].attrs.update(shape=[119, 60]), "120 cells"),
    "label": (flaw("obs/kind/codes", 3), "codes of the label"),
    "gone": (lambda root: root["X"].__delitem__("data"), "unreadable"),
}


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("name", ["csr.h5ad", "csr2.zarr"])
def test_what_contradicts_itself_is_known_to_be_wrong(base, tmp_path, name, flaw):
    path = tmp_path / name
    mutants.copy(base / name, path)
    assert mutants.fault(path, True, "kind") == ""
    change, said = FLAWS[flaw]
    if path.is_dir():
        change(zarr.open_group(path, mode="r+", use_consolidated=False))
    else:
        with h5py.File(path, "r+") as file:
            change(file)
    assert said in mutants.fault(path, True, "kind")


def test_hostile_tables_are_many_and_follow_from_the_seed():
    made, again = (
        [mutants.hostile(fuzz.cells(20, 1), np.random.default_rng(seed))[1] for seed in range(40)] for _ in range(2)
    )
    assert made == again
    assert len(set(made)) > 30
