import numpy as np
import pytest
from sklearn.metrics import f1_score

from tripletomics.metrics import NEIGHBOURS, knn_macro_f1


def plain_knn(z, y, query, exclude_self):
    """Majority of the 15 nearest by a plain loop; ties go to the smaller code."""
    predicted = []
    for i, cell in enumerate(query):
        distance = np.sqrt(((z - cell) ** 2).sum(axis=1))
        if exclude_self:
            distance[i] = np.inf
        predicted.append(np.bincount(y[np.argsort(distance)[:NEIGHBOURS]]).argmax())
    return np.array(predicted)


@pytest.fixture
def cells():
    random = np.random.default_rng(0)
    y = random.integers(4, size=240)
    return random.normal(size=(240, 3)) + 0.8 * y[:, None], y


def test_against_a_plain_loop(cells):
    z, y = cells
    expected = f1_score(y[200:], plain_knn(z[:200], y[:200], z[200:], False), average="macro")
    assert knn_macro_f1(z[:200], y[:200], z[200:], y[200:]) == pytest.approx(expected)
    expected = f1_score(y, plain_knn(z, y, z, True), average="macro")
    assert knn_macro_f1(z, y) == pytest.approx(expected)


def test_unlabelled_cells_change_nothing(cells):
    z, y = cells
    holes = y.copy()
    holes[[3, 50, 210, 230]] = -1
    known = holes >= 0
    expected = knn_macro_f1(z[:200][known[:200]], y[:200][known[:200]], z[200:][known[200:]], y[200:][known[200:]])
    assert knn_macro_f1(z[:200], holes[:200], z[200:], holes[200:]) == expected


def test_noise_scores_chance():
    random = np.random.default_rng(1)
    z, y = random.normal(size=(3000, 2)), random.integers(5, size=3000)
    assert knn_macro_f1(z[:2000], y[:2000], z[2000:], y[2000:]) == pytest.approx(0.2, abs=0.03)


def test_nothing_to_score_is_nan(cells):
    z, y = cells
    assert np.isnan(knn_macro_f1(z, y, z[:0], y[:0]))
    assert np.isnan(knn_macro_f1(z[:1], y[:1]))
