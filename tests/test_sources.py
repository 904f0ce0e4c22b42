import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tripletomics import features, sources
from tripletomics.features import Pair
from tripletomics.sources import Memory, OnDevice, fits, pack, send_csr


class Shift:
    """A contract of plain arithmetic."""

    def normalise(self, x, present=None):
        return x + 100

    def standardise(self, rows, present=None, columns=slice(None)):
        return rows * 10


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_rows_are_those_of_the_matrix(kind):
    x = np.random.default_rng(0).poisson(0.5, size=(20, 6)).astype(np.float32)
    i = np.array([3, 3, 19, 0])
    rows = Memory(kind(x)).rows(i)
    assert rows.dtype == torch.float32
    np.testing.assert_array_equal(rows.numpy(), x[i])


def test_subsets_nest_and_prepare():
    x = np.arange(20, dtype=np.float32)[:, None]
    source = Memory(x, Shift()).subset(np.arange(10, 20)).subset(np.array([9, 0]))
    assert len(source) == 2
    assert source.rows(slice(None)).ravel().tolist() == [1190, 1100]
    assert source.normalised(slice(None)).ravel().tolist() == [119, 110]


CPU = torch.device("cpu")


def counts(n=90, genes=40, seed=0):
    """Counts of which few are not 0, with two empty rows."""
    random = np.random.default_rng(seed)
    x = ((random.random((n, genes)) < 0.2) * random.poisson(3, (n, genes))).astype(np.float32)
    x[[0, 17]] = 0
    return x


def contract_of(x):
    return features.fit(x, [f"g{i}" for i in range(x.shape[1])], counts=True, seed=0)


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "sent"])
@pytest.mark.parametrize("present", [None, np.arange(40) % 3 > 0], ids=["all", "some"])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_rows_on_a_device_are_those_of_memory(kind, present, resident, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 32)  # the table is packed in several blocks
    x = counts()
    source = contract_of(x).source(kind(x), present)
    there = OnDevice(source, CPU, pack(source, CPU) if resident else None)
    some = np.array([5, 0, 17, 5, 89])
    for i in (slice(None), slice(10, 30), some, np.zeros(0, dtype=int), np.array([0, 17])):
        torch.testing.assert_close(there.rows(i), source.rows(i), rtol=0, atol=1e-6)
    part, wanted = there.subset(some).subset(np.array([4, 1])), source.subset(some).subset(np.array([4, 1]))
    assert part.table is there.table
    assert len(part) == 2
    torch.testing.assert_close(part.rows(slice(None)), wanted.rows(slice(None)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("source", ["stored", "logged", "dense", "device"])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_columns_take_turns(kind, source, monkeypatch):
    x, i = counts(), np.array([5, 0, 17, 5, 89])
    stored = contract_of(x).source(kind(x), np.arange(40) % 3 > 0)
    monkeypatch.setattr(sources, "KEPT", 5000 if source == "logged" else 1e6)
    which = {"stored": stored, "device": OnDevice(stored, CPU, pack(stored, CPU))}.get(source, stored.prepared(91))
    columns = torch.tensor([[3, 0, 39], [7, 9, 8]])
    wanted = stored.rows(i).gather(1, columns[torch.arange(5) % 2])
    torch.testing.assert_close(which.rows(i, columns), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_prepared_rows_are_the_same(kind, monkeypatch):
    x = counts()
    source = contract_of(x).source(kind(x)).subset(np.random.default_rng(1).permutation(90)[:80])
    assert source.prepared(80) is source  # each row is taken once
    dense = source.prepared(81)
    assert dense.scaler is None
    monkeypatch.setattr(sources, "BLOCK", 32)
    monkeypatch.setattr(sources, "KEPT", 10_000)  # bytes: the dense rows have 12,800
    stored = source.prepared(81)
    assert stored.logged == (kind is sp.csr_matrix)
    for prepared in (dense, stored):
        assert torch.equal(prepared.rows(np.array([3, 1])), source.rows(np.array([3, 1])))


def test_plain_rows_and_pairs_on_a_device():
    x = counts()
    plain = Memory(x)
    torch.testing.assert_close(OnDevice(plain, CPU, pack(plain, CPU)).rows(slice(3, 9)), plain.rows(slice(3, 9)))
    pair = Memory(Pair((x, sp.csr_matrix(x)), np.ones((90, 2), dtype=bool)))
    torch.testing.assert_close(OnDevice(pair, CPU).rows(slice(3, 9)), pair.rows(slice(3, 9)))


def test_values_that_are_stored_twice_are_added_up():
    x = sp.csr_matrix((np.array([1, 2, 4], dtype=np.float32), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 3))
    assert send_csr(x, CPU).dense(np.arange(2)).tolist() == [[0, 3, 0], [4, 0, 0]]
    assert x.nnz == 3


def test_numbers_take_32_bits_and_the_bytes_are_foreseen():
    x = counts()
    source = contract_of(x).source(sp.csr_matrix(x))
    table = pack(source, CPU)
    assert table.columns.dtype == table.starts.dtype == torch.int32
    assert sum(part.nbytes for part in (table.values, table.columns, table.starts)) <= source.packed_bytes
    assert pack(Memory(x), CPU).values.nbytes == Memory(x).packed_bytes


def test_what_does_not_fit_is_sent_as_it_is_asked_for(monkeypatch):
    assert fits(50, 100)
    assert not fits(51, 100)
    x, meta = sp.csr_matrix(counts()), torch.device("meta")
    for free, resident in ((0, False), (10**9, True)):
        monkeypatch.setattr(sources, "free_bytes", lambda device, free=free: free)
        source = Memory(x)
        there = source.on(meta)
        assert (there.table is not None) == resident
        assert source.subset(np.arange(3)).on(meta, once=True).table is there.table  # sent once, or not at all
        assert there.subset(np.arange(7)).rows(slice(5)).shape == (5, 40)
        assert Memory(x).on(meta, once=True).table is None
    assert source.on(CPU) is source
    assert there.on(meta) is there


def test_a_resident_batch_asks_the_device_for_nothing():
    """A tensor on `meta` has no values: whatever had to read one on the way would fail."""
    x = counts()
    source = contract_of(x).source(sp.csr_matrix(x), np.arange(40) > 3)
    meta = torch.device("meta")
    rows = OnDevice(source, meta, pack(source, meta)).rows(np.array([3, 0, 17]))
    assert rows.shape == (3, 40)
    assert rows.device == meta
