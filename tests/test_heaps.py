import anndata as ad
import numpy as np
import pytest

import tripletomics as tt
from tripletomics import heaps
from tripletomics.cli import reading


@pytest.fixture
def file(counts, tmp_path):
    path = tmp_path / "cells.h5ad"
    counts[:40].copy().write_h5ad(path)
    return path


def zeroed(raw, at):
    return raw[:at] + bytes(4096) + raw[at + 4096 :]


def test_a_heap_without_an_end_is_refused_before_it_is_read(file):
    raw = file.read_bytes()
    heap = raw.index(heaps.MARK)
    for at in range(heap + 32, heap + 400, 8):
        file.write_bytes(zeroed(raw, at))
        if heaps.has_endless(file):
            with pytest.raises(ValueError, match="cannot be read: the texts in it have no end"):
                reading.read(file)
            with pytest.raises(ValueError, match="cannot be read: the texts in it have no end"):
                tt.fit(file, "kind", steps=2, progress=False)
            return
    raise AssertionError("no page of zeros made a heap endless")


def test_whole_files_have_none(file, counts, monkeypatch):
    assert not heaps.has_endless(file)
    monkeypatch.setattr(heaps, "LOOKED", 4096)
    assert not heaps.has_endless(file)
    counts = counts[:40].copy()
    junk = np.frombuffer((heaps.MARK + bytes(8)) * 150, dtype=np.float32)  # in a matrix, with no length: no heap
    counts.X = np.resize(junk, counts.shape)
    counts.write_h5ad(file)
    assert not heaps.has_endless(file)
    assert ad.read_h5ad(file).n_obs == 40
