import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from umap import UMAP

from tripletomics import baselines, features, labels
from tripletomics.baselines import linear, neural
from tripletomics.baselines.inputs import quiet

EXTRAS = {"scanvi": "scvi", "parametric_umap": "tensorflow"}
METHODS = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"no {package}"))
    if (package := EXTRAS.get(name))
    else name
    for name in baselines.METHODS
]
CORE = [name for name in baselines.METHODS if name not in EXTRAS]
SPACES = {
    "map": {
        "pca2",
        "lda",
        "nca",
        "umap",
        "umap_crossfit",
        "umap_supervised",
        "tsne",
        "tsne_crossfit",
        "pacmap",
        "parametric_umap",
    },
    "metric": {"pca50", "lda", "mlp", "scanvi"},
}


def draw(train, query, genes=80, types=3):
    """Counts of cells of types that differ in all genes: training and query cells and their codes."""
    random = np.random.default_rng(0)
    y = np.arange(train + query) % types
    x = sp.csr_matrix(random.poisson(random.gamma(1, 1, size=(types, genes))[y]).astype(np.float32))
    return x[:train], x[train:], y[:train], y[train:]


def prepare(train, query, y, counts=True):
    contract = features.fit(train, [f"g{i}" for i in range(train.shape[1])], counts, seed=0)
    return baselines.prepare(contract, train, query, y)


def place(name, cells, seed=0):
    return baselines.METHODS[name].embed(cells, seed)


@pytest.fixture(scope="module")
def cells():
    """120 training and 30 query cells of three types, of which some are unlabelled and no cell has code 1."""
    train, query, y, _ = draw(120, 30)
    codes = np.array([0, 2, 3])[y]
    codes[:10] = -1
    return prepare(train, query, codes)


@pytest.fixture(scope="module")
def placed(cells):
    """Places of every method, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = place(name, cells)
        return made[name]

    return get


def assert_same(found, expected, rows=slice(None)):
    assert found.keys() == expected.keys()
    for space in expected:
        for a, b in zip(found[space], expected[space], strict=True):
            np.testing.assert_array_equal(a[rows], b[rows])


@pytest.mark.parametrize("name", METHODS)
def test_places(name, placed):
    places = placed(name)
    assert set(places) == {space for space, names in SPACES.items() if name in names}
    for space, (train, query) in places.items():
        assert train.dtype == query.dtype == np.float32
        assert (len(train), len(query)) == (120, 30)
        assert train.shape[1] == query.shape[1]
        assert space == "metric" or train.shape[1] == 2
        assert np.isfinite(train).all()
        assert np.isfinite(query).all()
        assert train.std(axis=0).max() > 0


@pytest.mark.parametrize("name", METHODS)
def test_query_cells_lie_among_their_type(name, placed):
    truth = np.arange(150) % 3
    for train, query in placed(name).values():
        assert KNeighborsClassifier(5).fit(train, truth[:120]).score(query, truth[120:]) > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_places_and_no_global_generator_moves(name, cells, placed):
    def state():
        kind, key, *rest = np.random.get_state()  # noqa: NPY002
        return kind, key.tobytes(), *rest, torch.get_rng_state().numpy().tobytes()

    placed(name)
    before = state()
    assert_same(place(name, cells), placed(name))
    assert state() == before


@pytest.mark.parametrize("name", METHODS)
def test_query_cells_change_nothing(name, cells, placed):
    other = replace(cells, query_pca=-cells.query_pca[:4], query_counts=cells.query_counts[:4] * 2)
    for space, (train, query) in place(name, other).items():
        np.testing.assert_array_equal(train, placed(name)[space][0])
        assert len(query) == 4


@pytest.mark.parametrize("name", METHODS)
def test_labels_change_only_what_uses_them(name, cells, placed):
    found = place(name, replace(cells, y=labels.permute(cells.y, np.random.default_rng(0))))
    for space, (train, _) in found.items():
        assert np.array_equal(train, placed(name)[space][0]) is not baselines.METHODS[name].uses_labels


@pytest.mark.parametrize("name", ["mlp", "umap", "umap_supervised", "tsne", "pacmap"])
def test_seed_arrives(name, cells, placed):
    assert all(not np.array_equal(a[0], placed(name)[space][0]) for space, a in place(name, cells, seed=5).items())


@pytest.mark.parametrize("name", CORE)
def test_training_cells_are_placed_near_where_they_are(name, cells, placed):
    truth = np.arange(120) % 3
    for train, query in place(name, replace(cells, query_pca=cells.train_pca)).values():
        assert KNeighborsClassifier(5).fit(train, truth).score(query, truth) > 0.9


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize(("train", "genes", "types"), [(12, 80, 2), (12, 3, 3), (60, 2, 2)])
def test_few_cells_genes_and_types(name, train, genes, types, capfd, recwarn):
    x, query, y, _ = draw(train, 5, genes, types)
    for places in place(name, prepare(x, query, y)).values():
        assert [len(part) for part in places] == [train, 5]
        assert all(np.isfinite(part).all() for part in places)
    assert capfd.readouterr() == ("", "")
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


@pytest.mark.parametrize("name", CORE)
def test_one_query_cell_and_one_of_a_type(name):
    x, query, y, _ = draw(40, 1)
    y[y == 2] = -1
    y[2] = 2
    for train, one in place(name, prepare(x, query, y)).values():
        assert np.isfinite(train).all()
        assert np.isfinite(one).all()
        assert len(one) == 1


def test_prepare_treats_sparse_and_dense_alike():
    for genes in (80, 120):  # scaled by gene, and by one scale
        train, query, y, _ = draw(60, 20, genes)
        sparse, dense = prepare(train, query, y), prepare(train.toarray(), query.toarray(), y)
        for pca in ("train_pca", "query_pca"):
            found, expected = getattr(sparse, pca), getattr(dense, pca)
            assert found.dtype == expected.dtype == np.float32
            signs = np.sign((found * expected).sum(axis=0))
            np.testing.assert_allclose(found, expected * signs, atol=1e-3)
        assert sp.issparse(sparse.train_counts)
        assert prepare(train, query, y, counts=False).train_counts is None


def test_prepared_components_are_those_of_the_contract():
    train, query, y, _ = draw(200, 20, 120)
    contract = features.fit(train, [f"g{i}" for i in range(120)], True, 0)
    found = baselines.prepare(contract, train, query, y)
    for places, x in ((found.train_pca, train), (found.query_pca, query)):
        np.testing.assert_array_equal(places, contract.pcs(x))
    np.testing.assert_array_equal(place("pca2", found)["map"][1], found.query_pca[:, :2])
    np.testing.assert_array_equal(place("pca50", found)["metric"][0], found.train_pca)


def test_a_component_without_variance_is_left_out():
    train, query, y, _ = draw(12, 5)
    assert prepare(train, query, y).train_pca.shape == (12, 11)


def test_one_gene_makes_no_map():
    train, query, y, _ = draw(12, 5, genes=1)
    with pytest.raises(
        ValueError, match="needs two principal components, and 12 training cells with 1 features have 1"
    ):
        prepare(train, query, y)


def test_lda_is_that_of_scikit_learn(cells, placed):
    known = cells.y >= 0
    oracle = LinearDiscriminantAnalysis().fit(cells.train_pca[known], cells.y[known])
    for found, pca in zip(placed("lda")["metric"], (cells.train_pca, cells.query_pca), strict=True):
        np.testing.assert_allclose(found, oracle.transform(pca), atol=1e-4)


def test_the_second_axis_of_two_types_is_the_first_component():
    cells = prepare(*draw(60, 10, types=2)[:3])
    places = place("lda", cells)
    for on_map, z, pca in zip(places["map"], places["metric"], (cells.train_pca, cells.query_pca), strict=True):
        assert z.shape[1] == 1
        np.testing.assert_array_equal(on_map[:, :1], z)
        np.testing.assert_allclose(on_map[:, 1], pca[:, 0] / cells.train_pca[:, 0].std(), rtol=1e-5)


def test_nca_draws_every_type():
    y = np.repeat([0, 1, 2, -1], [1000, 500, 1, 300])
    drawn = linear._sample(y, 301, seed=0)
    np.testing.assert_array_equal(np.bincount(y[drawn]), [200, 100, 1])
    assert len(np.unique(drawn)) == 301
    assert len(linear._sample(y, 9999, seed=0)) == 1501
    assert set(drawn) != set(linear._sample(y, 301, seed=1))


@pytest.mark.parametrize("name", ["umap", "umap_supervised"])
def test_umap_is_that_of_umap_learn(name, cells, placed):
    y = cells.y if name == "umap_supervised" else None
    oracle = UMAP(n_neighbors=15, min_dist=0.5, spread=1.0, random_state=0, n_jobs=1).fit(cells.train_pca, y)
    train, query = placed(name)["map"]
    np.testing.assert_allclose(train, oracle.embedding_, atol=1e-4)
    np.testing.assert_allclose(query, oracle.transform(cells.query_pca), atol=1e-4)


def test_the_last_layer_of_the_mlp_on_its_places_gives_its_probabilities(cells, placed):
    known = cells.y >= 0
    epochs = {"max_iter": neural.EPOCHS, "n_iter_no_change": neural.EPOCHS}
    with quiet():
        model = MLPClassifier(neural.HIDDEN, alpha=neural.WEIGHT_DECAY, random_state=0, **epochs)
        model.fit(cells.train_pca[known], cells.y[known])
    for z, pca in zip(placed("mlp")["metric"], (cells.train_pca, cells.query_pca), strict=True):
        odds = np.exp(z @ model.coefs_[-1] + model.intercepts_[-1])
        np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), model.predict_proba(pca), atol=1e-5)


def test_pacmap_leaves_its_library_as_it_was(cells):
    faiss = pytest.importorskip("faiss")
    place("pacmap", cells)  # imports it
    library = sys.modules["pacmap.pacmap"]
    threads = faiss.omp_get_max_threads()
    library._RANDOM_STATE = 7
    place("pacmap", cells)
    assert (library._RANDOM_STATE, faiss.omp_get_max_threads()) == (7, threads)
    library._RANDOM_STATE = None


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("scanvi", "scvi", "scanvi"),
        ("parametric_umap", "tensorflow", "parametric-umap"),
        ("tsne", "openTSNE", "compare"),
        ("pacmap", "pacmap", "compare"),
    ],
)
def test_a_missing_extra_names_itself(name, module, extra, cells, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "tripletomics\[{extra}\]"'):
        place(name, cells)


def test_scanvi_wants_counts(cells):
    pytest.importorskip("scvi")
    with pytest.raises(ValueError, match="scanvi models counts, and these cells are not counts"):
        place("scanvi", replace(cells, train_counts=None, query_counts=None))


def test_methods_are_described():
    for method in baselines.METHODS.values():
        assert method.title
        assert method.package
        assert any(char.isdigit() for char in method.citation)
        assert not method.sentence.endswith(".")
