import numpy as np
import pytest
from scipy.stats import ortho_group

from tripletomics import metrics


def one_type(n_train, n_held, dim=2, seed=0, shrink=1.0, shift=0.0):
    """Training cells of a Gaussian, then held-out cells that are drawn inwards or moved along the first axis."""
    random = np.random.default_rng(seed)
    m = random.normal(size=(n_train + n_held, dim))
    m[n_train:] *= shrink
    m[n_train:, 0] += shift
    return m, np.zeros(len(m), dtype=int), np.arange(len(m)) >= n_train


def several_types(seed=0, dim=2):
    """Types of many sizes on whole numbers, with many ties, and unlabelled cells; rows in random order."""
    random = np.random.default_rng(seed)
    codes = np.repeat([-1, 0, 1, 2, 5], [30, 70, 90, 40, 80])
    held_out = np.arange(len(codes)) % 5 < 2  # of type 2, 16 and 24: too few
    m = (4 * random.normal(size=(len(codes), dim))).round() + 12 * codes[:, None]
    rows = random.permutation(len(codes))
    return m[rows], codes[rows], held_out[rows]


def use_by_loops(m):
    x, y = m[:, 0].tolist(), m[:, 1].tolist()
    side = 1.05 * max(max(x) - min(x), max(y) - min(y))
    left, bottom = (max(x) + min(x) - side) / 2, (max(y) + min(y) - side) / 2
    fields = {}
    for a, b in zip(x, y, strict=True):
        field = int((a - left) / (side / 100)), int((b - bottom) / (side / 100))
        fields[field] = fields.get(field, 0) + 1
    shares = []
    for share in (0.5, 0.9):
        held, used = 0, 0
        for count in sorted(fields.values(), reverse=True):
            if held < share * len(m) - 1e-9:
                held, used = held + count, used + 1
        shares.append(used / 10_000)
    far = [np.hypot(a - np.median(x), b - np.median(y)) for a, b in zip(x, y, strict=True)]
    border = 0.99 * max(far)
    return [*shares, sum(d > border for d in far) / len(m)]


@pytest.mark.parametrize("n", [2, 10, 70, 3000])
def test_use_against_plain_loops(n):
    random = np.random.default_rng(n)
    m = random.normal(size=(n, 2)) * [3, 1] + 4 * random.integers(3, size=(n, 1))
    found = metrics.page_use(m)
    assert list(found) == ["a50", "a90", "edge_share"]
    assert list(found.values()) == pytest.approx(use_by_loops(m))
    assert all(isinstance(value, float) for value in found.values())


def test_fields_of_a_worked_example():
    """Of ten cells five share a field, four another, and one has its own: a page of three fields."""
    m = np.repeat([[0.0, 0], [1, 0], [0, 1]], [5, 4, 1], axis=0)
    assert metrics.page_use(m) == {"a50": 1e-4, "a90": 2e-4, "edge_share": 0.5}  # half lie at the median itself


def test_an_even_page_and_one_that_an_outlier_owns():
    ticks = np.linspace(0, 1, 400)
    even = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    assert metrics.page_use(even)["a50"] == pytest.approx(0.5 / 1.05**2, abs=0.05)
    assert metrics.page_use(even)["a90"] == pytest.approx(0.9 / 1.05**2, abs=0.05)
    owned = metrics.page_use(np.append(even, [[100, 0]], axis=0))
    assert owned["a50"] <= 4e-4
    assert owned["edge_share"] == pytest.approx(1 / 160_001)


def test_cells_on_a_ring_are_at_the_edge():
    turn = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    m = np.concatenate([ring, 0.98 * ring, 0.5 * ring[:50], np.zeros((50, 2))])
    assert metrics.page_use(m)["edge_share"] == pytest.approx(100 / 300)


def test_use_changes_not_with_place_scale_quarter_turns_and_order():
    random = np.random.default_rng(1)
    m = random.normal(size=(700, 2)) * [2, 1]
    expected = metrics.page_use(m)
    for other in (8 * m + [64.0, -1024], m[:, ::-1], -m, random.permutation(m)):
        assert metrics.page_use(other) == pytest.approx(expected, abs=2e-4)
    assert metrics.page_use(m.astype(np.float32)) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("m", [np.full((50, 2), 1e6), np.array([[3.0, -2]]), np.zeros((4, 2), dtype=int)])
def test_cells_at_one_place_fill_one_field(m):
    assert metrics.page_use(m) == {"a50": 1e-4, "a90": 1e-4, "edge_share": 0}


def test_no_page():
    assert all(np.isnan(value) for value in metrics.page_use(np.zeros((0, 2))).values())
    for wrong in (np.zeros((5, 3)), np.zeros((5, 1)), np.zeros(5)):
        with pytest.raises(ValueError, match=r"m has shape \(5.*\): the use of the page needs a 2-D map"):
            metrics.page_use(wrong)
    with pytest.raises(ValueError, match="NaN or infinite values in 2 of 3 rows"):
        metrics.page_use(np.array([[0, np.nan], [np.inf, 0], [1, 1]]))


def shares_by_loops(m, held, asked, without):
    """The share of held-out cells among the 10 nearest, the mean over all orders of cells that are equally far."""
    others = [i for i in range(len(m)) if i not in (asked, without)]
    d = {i: float(((m[asked] - m[i]) ** 2).sum()) for i in others}
    tenth = sorted(d.values())[9]
    sure, level = [i for i in others if d[i] < tenth], [i for i in others if d[i] == tenth]
    return (sum(held[i] for i in sure) + (10 - len(sure)) * np.mean([held[i] for i in level])) / 10


def auroc_by_loops(m, held):
    wins = []
    for h in np.flatnonzero(held):
        for t in np.flatnonzero(~held):
            a, b = shares_by_loops(m, held, h, t), shares_by_loops(m, held, t, h)
            wins.append(0.5 if abs(a - b) < 1e-9 else float(a > b))
    return np.mean(wins)


@pytest.mark.parametrize(("dim", "steps"), [(2, 2**20), (2, 4), (5, 2**20), (5, 2), (1, 1)])
def test_auroc_against_plain_loops(dim, steps):
    m, codes, held = one_type(26, 26, dim, seed=2, shrink=0.7)
    m = (m * steps).round() / steps  # few steps make ties
    found = metrics.exchangeability(m, codes, held)
    assert found["held_out_auroc"] == pytest.approx(auroc_by_loops(m, held))


def test_types_are_weighted_and_those_of_few_cells_left_out():
    m, codes, held = several_types()
    found = metrics.exchangeability(m, codes, held, seed=0)
    sizes, aurocs, ratios = [], [], []
    random = np.random.default_rng(0)
    for code in (0, 1, 5):
        train, asked = np.flatnonzero((codes == code) & ~held), np.flatnonzero((codes == code) & held)
        n = min(len(train), len(asked))
        drawn = np.concatenate([random.permutation(asked)[:n], random.permutation(train)[:n]])
        aurocs.append(auroc_by_loops(m[drawn], held[drawn]))
        middle = [np.median(m[train, axis]) for axis in (0, 1)]
        ratios.append(np.median([np.hypot(*(m[i] - middle)) for i in asked]) /
                      np.median([np.hypot(*(m[i] - middle)) for i in train]))  # fmt: skip
        sizes.append((codes == code).sum())
    assert found["held_out_auroc"] == pytest.approx(np.dot(aurocs, sizes) / sum(sizes))
    assert found["spread_ratio"] == pytest.approx(sorted(ratios)[1])


@pytest.mark.parametrize(("n", "dim", "seeds"), [(25, 2, 1000), (25, 32, 500), (120, 2, 120), (120, 50, 80)])
def test_one_distribution_gives_one_half(n, dim, seeds):
    """The standard error of each mean is below .004."""
    found = [metrics.exchangeability(*one_type(n, n, dim, seed), seed)["held_out_auroc"] for seed in range(seeds)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.01)


def test_one_distribution_gives_one_half_where_one_side_is_larger():
    found = [list(metrics.exchangeability(*one_type(1400, 600, 2, seed), seed).values()) for seed in range(12)]
    assert np.mean(found, axis=0) == pytest.approx([0.5, 1.0], abs=0.02)


def test_random_halves_of_many_types_spread_alike():
    random = np.random.default_rng(4)
    codes = np.repeat(np.arange(12), 600)
    m = random.normal(size=(7200, 2)) * 0.3 + random.normal(size=(12, 2))[codes] * 5
    found = metrics.exchangeability(m, codes, random.random(7200) < 0.3)
    assert found["held_out_auroc"] == pytest.approx(0.5, abs=0.03)
    assert found["spread_ratio"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("dim", "moved"), [(2, {"shrink": 0.64}), (3, {"shift": 1.5}), (32, {"shrink": 0.8})])
def test_held_out_cells_that_lie_elsewhere_are_found(dim, moved):
    found = metrics.exchangeability(*one_type(400, 400, dim, **moved))
    assert found["held_out_auroc"] > 0.63
    assert found["spread_ratio"] == pytest.approx(moved.get("shrink", found["spread_ratio"]), abs=0.06)
    apart = metrics.exchangeability(*one_type(40, 60, dim, shift=100))
    assert apart["held_out_auroc"] == 1
    assert apart["spread_ratio"] > 10


def test_held_out_cells_that_keep_to_training_cells_score_less_than_half():
    m, codes, held = one_type(100, 100)
    m[held] = m[~held] + 1e-3  # as a map does that puts a new cell on its nearest training cell
    assert metrics.exchangeability(m, codes, held)["held_out_auroc"] < 0.5


def test_turning_moving_and_stretching_all_cells_changes_nothing():
    m, codes, held = one_type(60, 90, dim=5, shrink=0.7)
    expected = metrics.exchangeability(m, codes, held, seed=7)
    turned = 12 * m @ ortho_group.rvs(5, random_state=0) + 100
    assert metrics.exchangeability(turned, codes, held, seed=7)["held_out_auroc"] == expected["held_out_auroc"]
    wider = metrics.exchangeability(12 * m + 100, codes, held, seed=7)
    assert wider == pytest.approx(expected)  # the median of each axis turns only roughly with the cells


def test_names_and_order_of_types_and_cells_at_one_place():
    m, codes, held = several_types()
    expected = metrics.exchangeability(m, codes, held, seed=3)
    assert metrics.exchangeability(m, codes, held, seed=3) == expected
    assert metrics.exchangeability(m, 2 * codes, held, seed=3) == expected
    assert metrics.exchangeability(m, codes, held.astype(int), seed=3) == expected
    assert metrics.exchangeability(m, codes, held, seed=4) != expected
    nowhere = metrics.exchangeability(np.zeros_like(m), codes, held)
    assert nowhere["held_out_auroc"] == 0.5
    assert np.isnan(nowhere["spread_ratio"])
    m[~held] = 0
    assert metrics.exchangeability(m, codes, held)["spread_ratio"] == np.inf


@pytest.mark.parametrize(("n_train", "n_held"), [(24, 200), (200, 24), (300, 0), (0, 300), (0, 0)])
def test_too_few_cells_prove_nothing(n_train, n_held):
    found = metrics.exchangeability(*one_type(n_train, n_held))
    assert np.isnan(list(found.values())).all()
    assert np.isfinite(list(metrics.exchangeability(*one_type(25, 25)).values())).all()


def test_parts_of_different_length():
    m, codes, held = one_type(30, 30)
    with pytest.raises(ValueError, match=r"m has 60 cells, codes 60 and held_out 59\. Pass the same cells"):
        metrics.exchangeability(m, codes, held[1:])
