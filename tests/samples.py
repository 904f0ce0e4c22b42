"""Small tables that the tests share, and what `predict` and `fit` write to them."""

import html
import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import tripletomics as tt

OBS = ["tt_label", "tt_confidence", "tt_novelty", "tt_label_set", "tt_agrees"]
KEYS = ["X_tt", "X_tt_metric", "X_tt_pca"]
KNOWN, NEW = "abcdefg", "h"
MODALITIES = ("rna", "protein")
FAST = {"steps": 30, "progress": False}
BRIEF = {"steps": 5, "progress": False}  # where two fits are compared, however good


def rows_of(page):
    """The texts of each row of the tables of an HTML page."""
    rows = re.findall(r"<tr.*?>(.*?)</tr>", page, re.DOTALL)
    return [[html.unescape(text) for text in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def make_cells(n, seed, types=KNOWN, genes=150):
    """Poisson counts of types that differ in all genes, each cell with a depth of its own."""
    shape, random = np.random.default_rng(0), np.random.default_rng(seed)
    rates = np.exp(shape.normal(-0.3, 0.7, genes) + 0.8 * shape.normal(size=(8, genes)))
    kinds = random.permutation(np.arange(n) % len(types))
    rate = rates[["abcdefgh".index(name) for name in types]][kinds] * random.uniform(0.5, 2, size=(n, 1))
    adata = ad.AnnData(sp.csr_matrix(random.poisson(rate).astype(np.float32)))
    adata.obs["kind"] = np.array(list(types))[kinds]
    adata.obs_names = [f"cell {i} of {seed}" for i in range(n)]
    adata.var_names = [f"Gene{i}" for i in range(genes)]
    return adata


def make_course(n=260, seed=1, genes=80, days=5):
    """Poisson counts of two types along a day: genes rise or fall with it, in both types; an hour turns others."""
    shape, random = np.random.default_rng(3), np.random.default_rng([seed, 4])
    day, kind, hour = random.integers(days, size=n), random.integers(2, size=n), random.uniform(0, 24, n)
    log = shape.normal(0.5, 0.5, genes) + np.outer(day / days, shape.normal(0, 1.5, genes))
    log[:, :20] += np.outer(kind, shape.normal(0, 1, 20))
    angle = np.pi * hour / 12
    log[:, 40:] += np.outer(np.cos(angle), shape.normal(size=40)) + np.outer(np.sin(angle), shape.normal(size=40))
    adata = ad.AnnData(sp.csr_matrix(random.poisson(np.exp(log)).astype(np.float32)))
    adata.obs["kind"], adata.obs["day"], adata.obs["hour"] = np.array(["a", "b"])[kind], day * 1.0, hour
    adata.obs["stage"] = pd.Categorical(np.array(list("vwxyz"))[day], list("vwxyz"), ordered=True)
    adata.obs_names = [f"cell {i} of {seed}" for i in range(n)]
    adata.var_names = [f"Gene{i}" for i in range(genes)]
    return adata


def make_pair(n=210, seed=1, types=KNOWN):
    """RNA of known types, and twelve proteins of the same cells; three states within every type show in both."""
    shape, random = np.random.default_rng(5), np.random.default_rng([seed, 1])
    rna, means, way = make_cells(n, seed, types), 2 * shape.normal(size=(8, 12)), shape.normal(size=(3, 12))
    states = random.normal(size=(n, 3))
    x = rna.X.toarray()
    x[:, :60] += random.poisson(np.exp(np.repeat(states, 20, axis=1)))
    rna.X = sp.csr_matrix(x)
    kinds = ["abcdefgh".index(kind) for kind in rna.obs["kind"]]
    values = means[kinds] + states @ way + 0.4 * random.normal(size=(n, 12))
    protein = ad.AnnData(values.astype(np.float32), obs=pd.DataFrame(index=rna.obs_names))
    protein.var_names = [f"P{i + 1}" for i in range(12)]
    return rna, protein


def make_overlap(seed=1):
    """The first two thirds of the cells have RNA, and the last two thirds proteins."""
    rna, protein = make_pair(210, seed)
    return rna[:140].copy(), protein[70:].copy()


def mudata_of(**tables):
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData({name: table.copy() for name, table in tables.items()})


def plain(adata):
    """Only what was measured."""
    return ad.AnnData(adata.X.copy(), obs=adata.obs[[]].copy(), var=adata.var.copy())


def copies(*tables):
    return tuple(table.copy() for table in tables)


def shuffled(adata, seed=3):
    return adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()


def scramble(adata, rows):
    """Give these cells other values."""
    x = adata.X.toarray() if sp.issparse(adata.X) else adata.X.copy()
    x[rows] = np.random.default_rng(0).permuted(x[rows], axis=1) * 2
    adata.X = sp.csr_matrix(x) if sp.issparse(adata.X) else x


def predicted(adata, model, **given):
    adata = adata.copy()
    tt.predict(adata, model, **given)
    return adata


def held_out(adata):
    return (adata.obs["tt_split"] == "held-out").to_numpy()


def values(adata, prefix="tt"):
    return [adata.obs[name.replace("tt", prefix, 1)].to_numpy() for name in OBS]


def state(adata):
    return [str(adata.obs.dtypes.to_dict()), sorted(adata.obsm), sorted(adata.uns), adata.X.sum()]


def refusal(call, *given, **settings):
    """Return the class and the message with which a call is refused."""
    with pytest.raises((KeyError, TypeError, ValueError)) as caught:
        call(*given, **settings)
    return f"{caught.type.__name__}: {caught.value.args[0]}"


def assert_same(one, other):
    """The same predictions and coordinates, but for rounding."""
    for found, expected in zip(values(one), values(other), strict=True):
        if found.dtype == float:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        else:
            assert found.tolist() == expected.tolist()
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_allclose(one.obsm[key], other.obsm[key], atol=1e-4)


def assert_same_coordinates(one, other, keys=KEYS, atol=0.0):
    """The cells that both tables have lie at the same coordinates."""
    names = one.obs_names[one.obs_names.isin(other.obs_names)]
    assert len(names)
    for key in keys:
        a, b = (adata.obsm[key][adata.obs_names.get_indexer(names)] for adata in (one, other))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=key)


def assert_same_split(one, other):
    names = one.obs_names[one.obs_names.isin(other.obs_names)]
    assert one.obs.loc[names, "tt_split"].tolist() == other.obs.loc[names, "tt_split"].tolist()


# of every option of `fit` its text and its value
EVERY_OPTION = {
    "label": (("class", "cell_type"), ["class", "cell_type"]),
    "parents": ("parents.csv", "parents.csv"),
    "order": ("day", "day"),
    "loss": ("triplet:margin=0.3", "triplet:margin=0.3"),
    "structure": ("0.25", 0.25),
    "spread": ("0.75", 0.75),
    "map": ("X_umap", "X_umap"),
    "dim": ("3", 3),
    "metric_dim": ("7", 7),
    "batch": ("donor", "donor"),
    "layer": ("logged", "logged"),
    "use_rep": ("X_scVI", "X_scVI"),
    "counts": ("false", False),
    "missing": ("impute", "impute"),
    "unlabelled": (("Dendritic", "CD34+"), ["Dendritic", "CD34+"]),
    "hold_out": ("0.2", 0.2),
    "init": ("pbmc.tt", "pbmc.tt"),
    "encoder": ("mlp:hidden=16", "mlp:hidden=16"),
    "augment": ("mask:p=0.1", "mask:p=0.1"),
    "self_training": ((), True),
    "steps": ("6", 6),
    "batch_size": ("40", 40),
    "lr": ("2e-3", 2e-3),
    "seed": ("5", 5),
    "device": ("cpu", "cpu"),
    "precision": ("32-true", "32-true"),
    "checkpoint": ("fit.ckpt", "fit.ckpt"),
    "key_added": ("X_other", "X_other"),
    "progress": ((), False),
}


def kebab(name):
    return "--" + name.replace("_", "-")


def words(name, text):
    if not text:
        return ["--no-progress" if name == "progress" else kebab(name)]
    return [word for value in ([text] if isinstance(text, str) else text) for word in (kebab(name), value)]


def files(folder):
    return sorted(path.name for path in folder.iterdir())
