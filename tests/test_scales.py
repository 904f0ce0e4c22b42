"""What values are: counts or not, which logarithm of which total; and a query that is asked whether it is the same."""

import re
import warnings

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from samples import make_cells

import tripletomics as tt
from tripletomics import features, pp, scales

FIT = {"steps": 3, "hold_out": 0, "progress": False, "device": "cpu"}


def random(seed=0):
    return np.random.default_rng(seed)


def counted(mean, seed=0, shape=2.0):
    """Negative binomial counts."""
    return random(seed).poisson(random(seed + 1).gamma(shape, np.maximum(mean, 1e-9) / shape)).astype(np.float32)


def antibodies(n=600, p=17, background=8.0, bright=200.0):
    draw, kinds = random(5), random(6).integers(5, size=n)
    mean = np.where(draw.random((5, p))[kinds] < 0.3, bright, draw.lognormal(np.log(background), 1, p))
    return counted(mean * draw.lognormal(0, 0.4, (n, 1)))


def channels(n=900, noise=6.0, top=1023, bright=150.0):
    """Whole channels of a cytometer, whose noise around 0 is cut."""
    draw, kinds = random(7), random(8).integers(4, size=n)
    mean = np.where(draw.random((4, 6)) < 0.4, 0, draw.lognormal(np.log(bright), 0.8, (4, 6)))[kinds]
    return np.round(np.clip(mean * draw.lognormal(0, 0.25, (n, 6)) + draw.normal(0, noise, (n, 6)), 0, top))


def proteins(n=120, width=300):
    """log2 intensities of mass spectrometry."""
    return random(1).normal(26, 3, width) + random(2).normal(size=(n, width))


SPARSE = counted(random(3).lognormal(-1.5, 1.2, (1, 300)) * np.ones((120, 1)))
COUNTS = {
    "sparse counts": (random().poisson(0.3, (50, 200)), True),
    "deep counts": (random().poisson(30, (50, 200)), True),
    "few genes, many zeros": (random().poisson(0.5, (50, 20)), True),
    "a panel of transcripts": (counted(random(4).lognormal(-1.5, 1.3, (1, 60)) * np.ones((200, 1))), True),
    "antibodies": (antibodies(), True),
    "antibodies, dim": (antibodies(background=2.0, bright=40.0), True),
    "read counts": (random().exponential(100, (50, 200)), True),
    "estimated reads": (
        counted(random(2).lognormal(1, 2, (1, 300)) * np.ones((80, 1))) * random(1).uniform(0.8, 1.2, 300), True),
    "normalised, no logarithm": (SPARSE / SPARSE.sum(axis=1, keepdims=True) * 100, True),
    "logged": (np.log1p(random().exponential(100, (50, 200))), False),
    "scaled": (random().normal(size=(50, 200)), False),
    "channels": (random().integers(1, 1024, (50, 12)), False),
    "channels cut at 0": (channels(), False),
    "channels of 18 bits cut at 0": (channels(noise=300, top=262143, bright=20000.0), False),
    "imaging intensities": (random().exponential(1000, (50, 40)), False),
    "log2 of mass spectrometry": (proteins(), False),
    "the same, missing as 0": (proteins() * (random(3).random((120, 300)) < 0.6), False),
    "the same, one value of 31": (np.where(np.arange(300) == 5, 31, np.minimum(proteins(), 29.9)), False),
    "nothing": (sp.csr_matrix((50, 200)), True),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_looks_like_counts(name, kind):
    values, expected = COUNTS[name]
    values = values.toarray() if sp.issparse(values) else values
    assert scales.looks_like_counts(kind(values.astype(np.float32))) is expected


def test_part_of_a_wide_table_looks_like_the_whole():
    reads = random().exponential(100, (50, 60))
    assert not scales.looks_like_counts(reads)
    assert scales.looks_like_counts(reads, 200)


def test_real_tables_are_what_their_records_say(real_data, pbmc):
    for path in sorted(real_data.glob("*.h5ad")):
        adata = ad.read_h5ad(path, backed="r")
        x = adata[: min(adata.n_obs, 1500)].to_memory().X
        assert scales.looks_like_counts(x) == ("counts" in adata.uns["matrix_kind"]), path.name
    assert not scales.looks_like_counts(pbmc.X)
    assert scales.see(pbmc.X).kind == "log1p"


# ---------------------------------------------------------------------------------------------- logarithms


def normalised(total=1e4, kind=np.log1p, n=150, genes=120, seed=0):
    """Cells that are scaled to a total over all their genes, and logged."""
    adata = make_cells(n, seed, types="abc", genes=genes)
    sc.pp.normalize_total(adata, target_sum=total)
    adata.X = sp.csr_matrix(kind(adata.X.toarray()))
    return adata


def twice(x):
    return np.log1p(np.log1p(x))


def log2(x):
    return np.log2(1 + x)


LOGS = {"log1p": np.log1p, "log2(1 + x)": log2, "log10(1 + x)": lambda x: np.log10(1 + x), "log1p, taken twice": twice,
        "normalised": lambda x: x}  # fmt: skip


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("total", [1e4, 1e6, None])
def test_a_logarithm_is_seen_by_totals_and_by_molecules(kind, total):
    raw, adata = make_cells(150, 0, types="abc", genes=120), normalised(total, LOGS[kind])
    expected = total or float(np.median(np.asarray(raw.X.sum(axis=1))))
    for x in (adata.X, adata.X.toarray(), adata.X.tocsc()):
        found = scales.see(x)
        assert found.kind == kind
        assert found.total == pytest.approx(expected, rel=1e-3)
    step = np.median(expected / np.asarray(raw.X.sum(axis=1)).ravel())
    assert found.step == pytest.approx(step, rel=1e-3)
    part = scales.see(adata.X[:, :70])  # of chosen genes the totals differ
    assert (part.kind, part.total) == (kind, 0)
    assert part.step == pytest.approx(step, rel=0.05)


def test_nothing_is_seen_where_nothing_shows():
    reads = np.log1p(random().exponential(20, (60, 150)))
    for x in (reads, proteins(), sp.csr_matrix((60, 9)), normalised().X[: scales.LEAST - 1]):
        assert scales.see(x) == scales.Scale()
    assert scales.see(make_cells(60, 0).X) == scales.Scale("whole")
    z = random().normal(size=(60, 150))
    assert scales.see(z).kind == "negative"
    assert scales.see(z).below == pytest.approx((z < 0).mean())
    mixed = make_cells(120, 0).X.toarray()  # of whole numbers 2**x - 1 is whole, too: not a logarithm
    mixed[::3] *= random().uniform(0.8, 1.2, (40, 150))
    for x in (mixed, np.where(random().random(mixed.shape) < 0.2, mixed + 0.37, mixed)):
        assert not scales.see(x).logged


# ---------------------------------------------------------------------------------------------- queries


@pytest.fixture(scope="module")
def models():
    """Models of counts, of log1p with all genes and with chosen ones, and of z-scored values."""
    z = normalised()
    sc.pp.scale(z)
    tables = {"counts": make_cells(150, 0, types="abc", genes=120), "log1p": normalised(),
              "chosen": normalised()[:, :60].copy(), "z": z, "own median": normalised(None)}  # fmt: skip
    return {
        name: tt.fit(adata, "kind", counts=False if name == "z" else "auto", **FIT) for name, adata in tables.items()
    }


def scaled(adata):
    sc.pp.scale(adata)
    return adata


COUNTED = ", but the model was trained on counts: name the layer with the counts (layer=)."
MODEL = ", but the model was trained on log1p of 10,000 a cell: name the layer with the right values (layer=), or "
WAY = "convert the values x of the query: "
QUERIES = {  # model, query, what is said; an error if "!" comes first
    "counts": ("counts", lambda: make_cells(100, 3, "abc", 120), ""),
    "log1p of counts": ("counts", lambda: normalised(seed=3), "!The query holds log1p of 10,000 a cell" + COUNTED),
    "normalised counts": ("counts", lambda: normalised(kind=np.positive, seed=3), "more counts"),
    "the same": ("log1p", lambda: normalised(seed=3), ""),
    "the same, chosen genes": ("chosen", lambda: normalised(seed=3)[:, :60].copy(), ""),
    "counts for logged": ("log1p", lambda: make_cells(100, 3, "abc", 120), "!The query holds counts" + MODEL),
    "log2": ("log1p", lambda: normalised(kind=log2, seed=3),
        "!The query holds log2(1 + x) of 10,000 a cell" + MODEL + WAY + "np.log1p((np.exp2(x) - 1))."),
    "log2, chosen genes": ("chosen", lambda: normalised(kind=log2, seed=3)[:, :60].copy(),
        "!The query holds log2(1 + x), but the model was trained on log1p: name"),
    "log1p of 1e5": ("log1p", lambda: normalised(1e5, seed=3),
        "!The query holds log1p of 100,000 a cell" + MODEL + WAY + "np.log1p(np.expm1(x) * 0.1)."),
    "log1p of 1e6": ("log1p", lambda: normalised(1e6, seed=3), "!np.log1p(np.expm1(x) * 0.01)."),
    "log1p of 1e6, chosen genes": ("chosen", lambda: normalised(1e6, seed=3)[:, :60].copy(),
        "the value of one molecule is 1"),
    "log1p of twice the total": ("log1p", lambda: normalised(2e4, seed=3),
        "The query holds log1p of 20,000 a cell, but"),
    "logged twice": ("log1p", lambda: normalised(kind=twice, seed=3),
        "!The query holds log1p, taken twice of 10,000 a cell, but"),
    "not logged": ("log1p", lambda: normalised(kind=np.positive, seed=3),
        "!The query holds normalised values without a logarithm of 10,000 a cell, but"),
    "z-scored": ("log1p", lambda: scaled(normalised(seed=3)),
        "The query has negative values, but the training cells had none: it looks z-scored."),
    "z-scored for z-scored": ("z", lambda: scaled(normalised(seed=3)), ""),
    "logged for z-scored": ("z", lambda: normalised(seed=3), "The query has no negative values, but "),
    "counts for z-scored": ("z", lambda: make_cells(100, 3, "abc", 120),
        "!The query holds counts, but the model was trained on values below 0: name"),
    "another median": ("own median", lambda: normalised(70, seed=3), "The query holds log1p of 70 a cell, but"),
}  # fmt: skip


@pytest.mark.parametrize("case", QUERIES)
@pytest.mark.parametrize("act", [tt.transform, tt.predict, lambda adata, model: tt.explain(adata, model, "kind")])
def test_a_query_is_asked_for_its_scale(models, case, act):
    name, query, said = QUERIES[case]
    query = query()
    columns = list(query.obs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if said.startswith("!"):
            with pytest.raises(ValueError, match=re.escape(said[1:])):
                act(query, models[name])
            assert not query.obsm
            assert list(query.obs) == columns
            return
        act(query, models[name])
    texts = [str(warning.message) for warning in caught if warning.filename == __file__]
    assert any(said in text for text in texts) if said else not texts


@pytest.mark.parametrize("case", ["log2", "log1p of 1e5", "logged twice", "not logged"])
def test_the_conversion_that_a_message_names_is_right(models, case):
    _, query, _ = QUERIES[case]
    query, expected = query(), normalised(seed=3)
    with pytest.raises(ValueError, match="convert the values x of the query: ") as caught:
        tt.transform(query, models["log1p"])
    formula = str(caught.value).rpartition(": ")[2].rstrip(".")
    query.X = eval(formula, {"np": np, "x": query.X.toarray()})
    np.testing.assert_allclose(query.X, expected.X.toarray(), atol=1e-4)
    tt.transform(query, models["log1p"])


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_files_and_shards_are_asked_too(models, tmp_path, suffix):
    path, model = tmp_path / f"cells{suffix}", tmp_path / "model.tt"
    query = normalised(1e6, seed=3)
    getattr(query, f"write_{'h5ad' if suffix == '.h5ad' else 'zarr'}")(path)
    models["log1p"].save(model)
    with pytest.raises(ValueError, match="The query holds log1p of 1,000,000 a cell"):
        tt.transform(path, tt.load(model))
    if suffix == ".zarr":
        with pytest.raises(ValueError, match="The query holds log1p of 1,000,000 a cell"):
            tt.tl.transform_shard(path, model, "1/1")


def test_one_modality_of_a_pair_is_asked():
    rna, protein = make_cells(120, 0, types="abc", genes=120), make_cells(120, 1, types="abc", genes=110)
    protein.obs_names, protein.var_names = rna.obs_names, [f"P{i}" for i in range(110)]
    model = tt.fit((rna, protein), "kind", **FIT)
    assert [part.kind for part in model.features.parts] == ["whole", "whole"]
    assert "Values: rna counts, normalised and logged by the model; protein counts" in model.summary()
    sc.pp.normalize_total(protein, target_sum=1e4)
    sc.pp.log1p(protein)
    with pytest.raises(ValueError, match="The query holds log1p of 10,000 a cell, but the model was trained on counts"):
        tt.predict({"protein": protein}, model)


def test_a_model_takes_its_own_cells_and_new_ones_of_their_kind():
    """Whatever a part of the cells looks like: read counts of small cells, a panel of whole numbers without zeros."""
    reads = make_cells(120, 0, types="abc", genes=120)
    reads.X = (reads.X * 1.37).toarray() * random(1).uniform(0.5, 1.5, 120).astype(np.float32)
    reads.X[:60] *= 40
    panel = ad.AnnData(antibodies(120), obs={"kind": list("abc") * 40})
    few = panel[panel.X.min(axis=1) > 0].copy()
    for table, part in ((reads, reads[60:].copy()), (panel, few)):
        model = tt.fit(table, "kind", counts=True, **FIT)
        for query in (part, part[:5].copy()):
            tt.transform(query, model)
            assert np.isfinite(query.obsm["X_tt"]).all()
    low = proteins()
    table = ad.AnnData(low.astype(np.float32), obs={"kind": list("abc") * 40})
    model = tt.fit(table, "kind", **FIT)
    assert model.settings["counts"] == "False"
    for change in (np.minimum(low, 29.9), np.maximum(low, 31), low + 4):
        tt.transform(ad.AnnData(change.astype(np.float32)), model)


def test_the_scale_is_in_the_file_and_old_files_have_none(models, tmp_path):
    model = models["log1p"]
    model.save(tmp_path / "m.tt")
    loaded = tt.load(tmp_path / "m.tt")
    assert loaded.features.known_scale == model.features.known_scale
    assert str(model.features.known_scale) == "log1p of 10,000 a cell"
    assert "Values: log1p of 10,000 a cell, taken as they are." in loaded.summary()
    for field in ("kind", "total", "step", "below"):
        object.__setattr__(loaded.features, field, None if field == "kind" else 0.0)
    assert loaded.features.known_scale is None
    assert "Values: not counts, taken as they are." in loaded.summary()
    tt.transform(normalised(kind=log2, seed=3), loaded)  # a guess from the looks, as it was
    with pytest.raises(ValueError, match="The query holds counts, but the model was trained on log-transformed"):
        tt.transform(make_cells(100, 3, "abc", 120), loaded)


# ---------------------------------------------------------------------------------------------- fits


@pytest.mark.parametrize(
    ("values", "counts", "said"),
    [
        (channels, "auto", r"^6 features of whole numbers \(\d+ % are 0, .* are taken for intensities"),
        (lambda: antibodies(background=20.0), "auto", r"^17 features of whole numbers .* are taken for counts of mol"),
        (lambda: random().poisson(0.5, (120, 20)), "auto", None),
        (channels, False, None),
        (antibodies, True, None),
    ],
)  # fmt: skip
def test_a_short_panel_of_whole_numbers_is_told_of(values, counts, said):
    x = values()[:120].astype(np.float32)
    adata = ad.AnnData(x, obs={"kind": list("abc") * 40})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tt.fit(adata, "kind", counts=counts, **FIT)
    texts = [str(warning.message) for warning in caught if warning.filename == __file__]
    assert not any("whole numbers" in text for text in texts) if said is None else any(re.match(said, t) for t in texts)


@pytest.mark.filterwarnings("ignore:The genes have mean 0")
@pytest.mark.parametrize("zero_center", [True, False])
def test_scaled_values_cannot_rank_genes(zero_center):
    wide = normalised(genes=2100, n=90)
    unscaled = wide.X.copy()
    sc.pp.scale(wide, max_value=10, zero_center=zero_center)
    message = (
        r"^All genes have nearly the same variance, as z-scored values do \(sc\.pp\.scale\), so 2,000 of the 2,100 "
    )
    for table in (wide, wide[:60].copy()) if zero_center else (wide,):
        with pytest.raises(ValueError, match=message):
            tt.fit(table, "kind", counts=False, **FIT)
        assert not table.obsm
    every = np.ones(90, dtype=bool)
    assert pp.choose_genes(wide, unscaled, every, False).n_seen == 2000
    wide.var["highly_variable"] = np.arange(2100) < 200
    assert pp.choose_genes(wide, wide.X, every, False).n_seen == 200


FLAT = {
    "all 0": (lambda x: x * 0, "No gene varies among the training cells (all values are 0): is this the right"),
    "one value": (lambda x: x * 0 + 1.5, "No gene varies among the training cells (all cells are equal)"),
    "one cell many times": (lambda x: x * 0 + x[:1], "No gene varies among the training cells (all cells are equal"),
    "its multiples": (lambda x: x[:1] * (1 + np.arange(len(x)))[:, None], "No gene varies among the training cells (all"
                      " cells are equal after normalisation)"),
    "denormal": (lambda x: x * 1e-310, "No gene varies among the training cells (the largest is "),
    "small": (lambda x: x * 1e-40 + 1e-42, "No gene varies among the training cells (the largest is "),
    "1e300": (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, 1e300, x),
              "The matrix has values up to 1e+300, "
              "and above 3.4e+38 they overflow: divide all by one number, or"),
    "all above 3e38": (lambda x: (x + 1.5) * 1e39, "The matrix has values up to "),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAT)
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("width", [20, 120])
def test_tables_that_hold_nothing_are_refused(case, kind, width):
    change, message = FLAT[case]
    adata = make_cells(90, 0, types="abc", genes=width)
    adata.X = kind(change(adata.X.toarray().astype(np.float64)))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tt.fit(adata, "kind", **FIT)
    assert not adata.obsm


def test_totals_of_small_floats_do_not_overflow():
    deep = (make_cells(90, 0, types="abc", genes=120).X.toarray() * 2000).astype(np.float16)
    adata = ad.AnnData(deep, obs={"kind": list("abc") * 30})
    adata.var["highly_variable"] = np.arange(120) < 110
    model = tt.fit(adata, "kind", **FIT)
    assert np.isfinite(model.features.usual_depth)
    assert features.median_depth(deep) == pytest.approx(np.median(deep.astype(float).sum(axis=1)))
    assert pp.check_scale(deep[:, :110], model.features) == []
