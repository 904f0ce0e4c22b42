import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from tripletomics import features, pp


def obs(**columns):
    n = len(next(iter(columns.values())))
    return ad.AnnData(np.zeros((n, 1), dtype=np.float32), obs=pd.DataFrame(columns, index=map(str, range(n))))


def test_fraction_is_drawn_within_types():
    codes = np.repeat([0, 1, 2, 3, -1], [200, 40, 5, 1, 50])
    held = pp.split(obs(a=codes), 0.1, codes, 0)
    assert [int(held[codes == c].sum()) for c in (0, 1, 2, 3, -1)] == [20, 4, 1, 0, 5]
    assert not np.array_equal(held, pp.split(obs(a=codes), 0.1, codes, 1))
    np.testing.assert_array_equal(held, pp.split(obs(a=codes), 0.1, codes, 0))
    assert not pp.split(obs(a=codes), 0, codes, 0).any()


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_held_out_whole_and_near_a_tenth(seed):
    donor = np.repeat([f"d{i:02}" for i in range(20)], np.arange(20, 40))
    held = pp.split(obs(donor=donor), "donor", np.zeros(len(donor), dtype=int), seed)
    assert all(held[donor == d].all() or not held[donor == d].any() for d in np.unique(donor))
    assert 0.03 < held.mean() <= 0.1


def test_few_large_groups_give_one():
    donor = np.repeat(["a", "b", "c"], [900, 100, 120])
    chosen = {tuple(np.unique(donor[pp.split(obs(donor=donor), "donor", np.zeros(1120, int), s)])) for s in range(20)}
    assert chosen == {("b",), ("c",)}


@pytest.mark.parametrize(
    ("hold_out", "expected"),
    [
        ("g=x", [1, 0, 0, 0]),
        ("g=x,y", [1, 1, 0, 0]),
        ("flag", [0, 0, 1, 1]),
        ("a=b", [0, 1, 1, 1]),
        ("text", [0, 0, 1, 1]),
        ("split", [0, 1, 1, 0]),
        ("split=test", [0, 1, 0, 0]),
        ("number=1", [1, 1, 0, 0]),
        (np.array([True, False, False, False]), [1, 0, 0, 0]),
        (pd.Series([True, False, False, False]), [1, 0, 0, 0]),
        (pd.Series([True, False, False, False], list("3210")), [0, 0, 0, 1]),
        (pd.Series([True, False, False, False], dtype="boolean"), [1, 0, 0, 0]),
    ],
)
def test_named_groups_and_boolean_columns(hold_out, expected):
    adata = obs(
        g=["x", "y", "z", None], flag=[False, False, True, True],
        text=pd.Categorical(["FALSE", "FALSE", "TRUE", "TRUE"]),
        split=["train", "test", "val", "train"], number=[1, 1, 0, 0], **{"a=b": [False, True, True, True]},
    )  # fmt: skip
    assert pp.split(adata, hold_out, np.zeros(4, int), 0).astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("hold_out", "words"),
    [
        ("number", "0 and 1, which may be two groups.*hold_out='number=1', or another of number=0, number=1"),
        ("odd", "'train', as a split does, and other names, such as 'ood'. Say which: hold_out='odd="),
        ("gaps", "says nothing about 1 of 4 cells: mark each as 'train' or 'held-out'"),
        (np.array([1, 0, 0, 0]), "hold_out is int64 of shape .4,.: pass True or False for each of 4 cells"),
        (np.array([True]), "hold_out is bool of shape .1,."),
    ],
)
def test_what_may_be_a_split_is_not_guessed(hold_out, words):
    adata = obs(number=[1, 1, 0, 0], odd=["train", "test", "ood", "ood"], gaps=["train", "test", None, "train"])
    with pytest.raises(ValueError, match=words):
        pp.split(adata, hold_out, np.zeros(4, int), 0)


def test_numbers_of_numpy_are_fractions():
    codes = np.repeat([0, 1], 50)
    split = pp.split(obs(a=codes), np.float32(0.25), codes, 0)
    np.testing.assert_array_equal(split, pp.split(obs(a=codes), 0.25, codes, 0))


def test_a_column_that_is_there_twice_is_named():
    adata = obs(a=["x", "y"])
    adata.obs = pd.concat([adata.obs, adata.obs], axis=1)
    with pytest.raises(ValueError, match=r"label='a': adata.obs has 2 columns of this name, as after a join"):
        pp.column(adata, "a", "label")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (str, ["False", "True"]), ("category", ["FALSE", "TRUE"]), (int, [0, 1]), (float, [0.0, 1.0]),
        ("boolean", [False, True]), (object, [b"no", b"yes"]),
    ],
)  # fmt: skip
def test_marked_genes_as_tables_from_elsewhere_have_them(kind, words):
    marks = np.arange(30) % 3 == 0
    adata = ad.AnnData(np.ones((4, 30), dtype=np.float32))
    adata.var["highly_variable"] = pd.Series([words[i] for i in marks.astype(int)], adata.var_names).astype(kind)
    choice = pp.choose_genes(adata, adata.X, np.ones(4, bool), False)
    np.testing.assert_array_equal(choice.columns, np.flatnonzero(marks))
    adata.var["highly_variable"] = "variable"
    with pytest.raises(ValueError, match=r"var\['highly_variable'\] holds 'variable' .*, not True and False"):
        pp.choose_genes(adata, adata.X, np.ones(4, bool), False)


def test_genes_marked_by_the_user(pbmc):
    pbmc.var["highly_variable"] = np.arange(pbmc.n_vars) % 3 == 0
    choice = pp.choose_genes(pbmc, pbmc.X, np.ones(700, bool), False)
    assert choice.columns.tolist() == list(range(0, pbmc.n_vars, 3))
    assert choice.n_seen == choice.dispersed.sum() == len(choice.columns)
    pbmc.var["highly_variable"] = False
    assert len(pp.choose_genes(pbmc, pbmc.X, np.ones(700, bool), False).columns) == pbmc.n_vars


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_most_variable_genes_of_the_training_cells(kind):
    random = np.random.default_rng(0)
    spread = random.permutation(np.linspace(0.1, 3, 2500))
    x = random.normal(size=(400, 2500)) * spread
    x[300:] *= 100 * random.random(2500)  # held-out cells vary elsewhere
    adata, train = ad.AnnData(x.astype(np.float32)), np.arange(400) < 300
    expected = np.sort(np.argsort(-x[:300].astype(np.float32).var(axis=0))[:2000])
    choice = pp.choose_genes(adata, kind(x.astype(np.float32)), train, False)
    np.testing.assert_array_equal(choice.columns, expected)
    assert choice.n_seen == choice.dispersed.sum() == 2000


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_of_counts_the_dispersed_genes_are_scanpys(kind):
    random = np.random.default_rng(0)
    x = random.negative_binomial(1, 0.5, size=(300, 3000)) * (random.random((300, 3000)) < random.random(3000))
    train = np.arange(300) < 200
    choice = pp.choose_genes(ad.AnnData(x), kind(x), train, True)
    usual = ad.AnnData(sp.csr_matrix(x[train].astype(np.float32)))
    sc.pp.normalize_total(usual, target_sum=1e4)
    sc.pp.log1p(usual)
    expected = sc.pp.highly_variable_genes(usual, n_top_genes=2000, inplace=False)["highly_variable"].to_numpy()
    assert set(choice.columns[choice.dispersed]) == set(np.flatnonzero(expected))
    seen = choice.columns[: choice.n_seen]
    assert choice.n_seen == 2000
    assert set(seen) == set(np.argsort(-usual.X.toarray().var(axis=0))[:2000])
    share = x[train][:, choice.columns].sum(axis=1) / x[train].sum(axis=1)
    assert choice.share == pytest.approx(np.median(share))


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_take_reorders_and_fills(kind):
    x = np.arange(12.0).reshape(3, 4)
    found = pp.take(kind(x), np.array([3, -1, 0]))
    found = found.toarray() if sp.issparse(found) else found
    np.testing.assert_array_equal(found, np.stack([x[:, 3], np.zeros(3), x[:, 0]], axis=1))


def test_counts_are_decided_by_the_values(counts):
    assert pp.decide_counts(counts.X, "auto")
    assert not pp.decide_counts(features.normalise(counts.X, 1e4), "auto")
    with pytest.raises(ValueError, match=r"counts=True, but the matrix holds log1p of 10,000 a cell"):
        pp.decide_counts(features.normalise(counts.X, 1e4), True)
    assert not pp.decide_counts(counts.X, False)
