import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tripletomics.samplers import Balanced, BatchGuide, Neighbourhoods, Views, allocate


def take(sampler, n):
    return list(itertools.islice(iter(sampler), n))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 200))
def test_allocations_are_fair_and_use_everything(sizes, total):
    given_ = allocate(sizes, total)
    assert sum(given_) == min(total, sum(sizes))
    assert all(0 <= got <= size for got, size in zip(given_, sizes, strict=True))
    wanting = [got for got, size in zip(given_, sizes, strict=True) if got < size]
    if wanting:  # whoever could take more has as much as anybody, but for rounding
        assert min(wanting) >= max(given_) - 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(4, 64), st.integers(0, 99))
def test_no_copies_and_no_unlabelled_cells(sizes, batch_size, seed):
    y = np.random.default_rng(seed).permutation(
        np.concatenate([np.full(5, -1), np.repeat(np.arange(len(sizes)), sizes)])
    )
    for (rows,) in take(Balanced(y, batch_size, seed), 12):
        assert len(set(rows.tolist())) == len(rows) <= batch_size
        assert (y[rows] >= 0).all()


def test_every_cell_of_a_type_comes_before_one_comes_again():
    y = np.repeat([0, 1], [10, 300])
    drawn = np.concatenate([rows for (rows,) in take(Balanced(y, 20, 0), 30)])
    times = np.bincount(drawn, minlength=310)
    assert times[:10].tolist() == [30] * 10  # a type smaller than its share is in every batch
    assert times[10:].tolist() == [1] * 300


def test_many_types_take_turns():
    y = np.repeat(np.arange(100), 3)
    batches = take(Balanced(y, 40, 0), 200)
    assert all(len(np.unique(y[rows])) == 10 for (rows,) in batches)
    assert len(np.unique(np.concatenate([y[rows] for (rows,) in batches]))) == 100


def test_donors_take_turns_within_a_type():
    y = np.repeat([0, 1], 100)
    donor = np.where(np.arange(200) % 10 == 0, 1, 0)  # one cell in ten
    (rows,) = take(Balanced(y, 20, 0, donor), 1)[0]
    assert [(donor[rows] == 1)[y[rows] == code].sum() for code in (0, 1)] == [5, 5]


def test_mined_rows_are_further_views():
    y = np.repeat([0, 1], 30)
    sampler = Balanced(y, 24, 0)
    batches = iter(sampler)
    assert [view.shape for view in next(batches)] == [(24,)]
    sampler.batch_guide = BatchGuide(mined_rows=np.stack([np.arange(60) + 100, np.arange(60) + 200], axis=1))
    cells, first, second = next(batches)  # from the next batch on
    assert len(cells) == 8  # 24 cells in all
    np.testing.assert_array_equal(first, cells + 100)
    np.testing.assert_array_equal(second, cells + 200)


def test_near_types_come_together():
    kinds = np.array([0, 1, 2, 4, 5, 6, 7, 9])  # 3 and 8 have no cells here
    y = np.repeat(kinds, 10)
    position = np.arange(10.0)
    sampler = Balanced(y, 40, 0)
    sampler.batch_guide = BatchGuide(class_distances=np.abs(position[:, None] - position))
    drawn = [tuple(np.unique(y[rows])) for (rows,) in take(sampler, 50)]
    assert {len(types) for types in drawn} == {4}
    assert {(0, 1, 2, 4), (5, 6, 7, 9), (4, 5, 6, 7)} <= set(drawn)
    assert all(np.ptp(types) <= 5 for types in drawn)
    assert {kind for types in drawn for kind in types} == set(kinds)


def test_same_seed_same_batches():
    y = np.arange(50) % 4
    for a, b in zip(take(Balanced(y, 16, 5), 9), take(Balanced(y, 16, 5), 9), strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_a_small_table_gives_random_cells():
    graph = (np.arange(60)[:, None] + 1 + np.arange(4)) % 60
    drawn = [rows for (rows,) in take(Neighbourhoods(graph, 40, 0), 50)]
    assert all(len(set(rows)) == 40 for rows in drawn)
    assert np.bincount(np.concatenate(drawn)).min() > 20
    assert len(next(iter(Neighbourhoods(graph, 500, 0)))[0]) == 60


def test_in_a_large_table_cells_bring_neighbours():
    n = 5000
    graph = (np.arange(n)[:, None] + 1 + np.arange(4)) % n
    graph[7] = -1
    for (rows,) in take(Neighbourhoods(graph, 100, 0), 50):
        assert len(set(rows)) == len(rows) <= 100
        assert rows.min() >= 0
        edges = np.isin(graph[rows], rows).sum()
        assert edges > 40  # of 75 drawn; of random cells there would be 8


def firsts(sampler, n):
    return [rows for rows, _ in take(sampler, n)]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(0, 60),
    st.integers(2, 64),
    st.integers(0, 99),
)
def test_views_have_no_cell_twice(sizes, unlabelled, batch_size, seed):
    y = np.concatenate([np.full(unlabelled + 2, -1), np.repeat(np.arange(len(sizes)), sizes)])
    y = np.random.default_rng(seed).permutation(y)
    for first, second in take(Views(y, batch_size, seed), 12):
        assert len(set(first.tolist())) == len(first) <= batch_size
        assert len(first) >= min(batch_size, len(y)) / 2
        assert set(first.tolist()) <= set(range(len(y)))
        np.testing.assert_array_equal(first, second)


def test_half_of_the_views_are_labelled_cells_of_all_types_alike():
    y = np.full(4000, -1)
    y[:230] = np.repeat([0, 1, 2], [10, 20, 200])
    drawn = firsts(Views(y, 60, 0), 40)
    assert all(len(rows) >= 60 - 10 for rows in drawn)
    known = [np.bincount(y[rows][y[rows] >= 0], minlength=3) for rows in drawn]
    assert all((sizes >= 10).all() and sizes.sum() <= 30 + 12 for sizes in known)
    np.testing.assert_allclose(np.mean(known, axis=0), 10, atol=2.5)  # chance adds a few
    assert np.mean([sizes.sum() / len(rows) for sizes, rows in zip(known, drawn, strict=True)]) > 0.48


def test_few_labelled_cells_leave_their_room_to_others():
    y = np.full(1000, -1)
    y[:8] = [0, 0, 0, 0, 1, 1, 1, 1]
    for rows in firsts(Views(y, 100, 0), 20):
        assert set(range(8)) <= set(rows.tolist())
        assert len(rows) >= 92


def test_views_of_donors_take_turns_within_a_type():
    y = np.where(np.arange(1000) < 100, 0, -1)
    donor = np.where(np.arange(1000) % 10 == 0, 1, 0)  # one cell in ten
    (rows, _) = take(Views(y, 20, 0, donor), 1)[0]
    known = rows[:10]
    assert (y[known] == 0).all()
    assert (donor[known] == 1).sum() == 5


@pytest.mark.parametrize("y", [np.full(300, -1), np.arange(300) % 4, np.where(np.arange(300) < 250, -1, 0)])
def test_every_cell_is_viewed(y):
    times = np.bincount(np.concatenate(firsts(Views(y, 64, 0), 60)), minlength=300)
    assert times.min() > 2


def test_without_labels_every_cell_comes_before_one_comes_again():
    times = np.bincount(np.concatenate(firsts(Views(np.full(300, -1), 50, 0), 30)), minlength=300)
    assert (times == 5).all()


def test_without_a_graph_both_views_are_of_one_cell():
    for first, second in take(Views(np.arange(50) % 3, 16, 0), 10):
        np.testing.assert_array_equal(first, second)


def test_with_a_graph_the_second_view_is_of_a_neighbour():
    graph = (np.arange(90)[:, None] + np.array([1, 2, 5])) % 90
    steps = []
    for first, second in take(Views(np.full(90, -1), 30, 0, graph=graph), 100):
        assert first.shape == second.shape
        assert (graph[first] == second[:, None]).any(axis=1).all()
        steps.append((second - first) % 90)
    found, times = np.unique(np.concatenate(steps), return_counts=True)
    assert found.tolist() == [1, 2, 5]
    assert (times > 0.3 * times.sum()).all()


def test_a_graph_leaves_the_first_views_as_they_are():
    y, graph = np.arange(90) % 3 - 1, np.arange(90)[:, None]
    for a, b in zip(take(Views(y, 30, 0), 1), take(Views(y, 30, 0, graph=graph), 1), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(b[0], b[1])


def test_same_seed_same_views():
    y, graph = np.arange(50) % 4 - 1, np.arange(100).reshape(50, 2) % 50
    sampler = Views(y, 16, 5, graph=graph)
    for a, b in zip(take(sampler, 9), take(Views(y, 16, 5, graph=graph), 9), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(take(sampler, 1), take(sampler, 1))  # each round starts afresh
    other = take(Views(y, 16, 6, graph=graph), 1)
    assert not np.array_equal(np.sort(other[0][0]), np.sort(take(sampler, 1)[0][0]))


@pytest.mark.parametrize("labelled", [0, 1, 2, 7])
def test_fewer_cells_than_the_batch_come_all_at_once(labelled):
    y = np.where(np.arange(7) < labelled, 0, -1)
    for rows in firsts(Views(y, 512, 0), 10):
        assert len(set(rows.tolist())) == len(rows) <= 7
        assert len(rows) >= 4
    assert set(np.concatenate(firsts(Views(y, 512, 0), 10))) == set(range(7))


def test_one_labelled_cell_is_in_every_batch():
    y = np.full(200, -1)
    y[17] = 3
    sampler = Views(y, 20, 0)
    assert sampler.kinds.tolist() == [3]
    for rows in firsts(sampler, 30):
        assert 17 in rows
        assert len(rows) >= 19


def test_all_types_with_few_labels_are_in_every_batch_of_views():
    y = np.full(1000, -1)
    y[:6] = [0, 0, 0, 1, 1, 1]
    for first, _ in take(Views(y, 100, 0), 20):
        assert set(y[first]) == {-1, 0, 1}


def test_a_neighbour_of_another_known_type_is_no_view():
    y = np.arange(90) % 3 - 1
    graph = (np.arange(90)[:, None] + np.array([1, 3])) % 90
    drawn = np.concatenate([np.stack(views) for views in take(Views(y, 30, 0, graph=graph), 100)], axis=1)
    one, two = y[drawn]
    assert ((one == two) | (one < 0) | (two < 0)).all()
    assert ((drawn[1] == drawn[0]) == ((one == 0) & (drawn[1] == drawn[0]))).all()  # 0 -> 1 is replaced by itself
    assert (drawn[1] == drawn[0]).any()


def test_cells_of_one_modality_are_a_quarter_of_the_others():
    """Labelled ones come as they come; of the rest three in four have both, and each group is gone through in turn."""
    single, y = np.arange(400) % 2 == 0, np.full(400, -1)
    batches = list(itertools.islice(Views(y, 80, 0, single_modality=single), 40))
    for cells, other in batches:
        assert single[cells].sum() == 20
        assert len(np.unique(cells)) == 80
        assert (cells == other).all()
    drawn = np.bincount(np.concatenate([cells for cells, _ in batches]), minlength=400)
    assert drawn[single].min() >= 3
    assert drawn[single].max() <= 5
    y[:100] = np.arange(100) % 4
    cells, _ = next(iter(Views(y, 80, 0, single_modality=single)))
    assert single[cells[40:]].sum() <= 10


@pytest.mark.parametrize("single", [np.zeros(50, dtype=bool), np.ones(50, dtype=bool)])
def test_cells_of_one_kind_alone_fill_batches(single):
    cells, _ = next(iter(Views(np.full(50, -1), 40, 0, single_modality=single)))
    assert len(np.unique(cells)) == 40
