import html
import inspect
import io
import re

import anndata as ad
import pandas as pd
import pytest

import tripletomics as tt
from tripletomics import cli, tl
from tripletomics.cli.answers import COMMON
from tripletomics.evaluation.scores import MAIN

QUICK = ["--methods", "pca2", "tt:steps=5", "--seeds", "1", "--no-progress"]


@pytest.fixture
def source(counts, tmp_path):
    counts.obs["one"] = "same"
    counts.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def mapped(counts, tmp_path):
    tt.fit(counts, "kind", hold_out=0.3, steps=5, progress=False)
    counts.obsm["X_pca"] = counts.X[:, :3].toarray()
    counts.write_h5ad(tmp_path / "map.h5ad")
    return tmp_path / "map.h5ad"


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_every_keyword_is_an_option_with_its_help(run, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "400")
    keywords = dict(inspect.signature(getattr(tl, verb)).parameters)
    del keywords["adata"]
    options = inspect.signature(getattr(cli, verb)).parameters
    assert set(options) == {"input", "out", "obs", "transpose", *keywords, *COMMON}
    for name in set(keywords) - {"label"}:
        assert options[name].default == keywords[name].default, name
    lines = [re.sub(r"\s+", " ", line) for line in run(verb, "--help")[1].splitlines()]
    for name in keywords:
        assert any(re.search(rf"--{name.replace('_', '-')} .*[a-z]{{3}}", line) for line in lines), name


@pytest.mark.parametrize(
    ("verb", "words", "given"),
    [
        ("evaluate", ["--basis", "X_umap", "X_tt"], {"basis": ["X_umap", "X_tt"]}),
        ("evaluate", ["--splits", "donor", "0.3"], {"splits": ["donor", 0.3]}),
        ("evaluate", ["--refits", "3", "--cache", "none"], {"refits": 3, "cache": None}),
        ("compare", ["--methods", "umap", "tt:loss=triplet:margin=0.3,mining=hard"],
         {"methods": ["umap", "tt:loss=triplet:margin=0.3,mining=hard"]}),
        ("compare", ["--hold-out", "donor=d1", "--unseen"], {"hold_out": "donor=d1", "unseen": True}),
    ],
)  # fmt: skip
def test_values_arrive(verb, words, given):
    _, bound, _ = cli.app.parse_args(
        [verb, "in.h5ad", "--label", "x", "--out", "a.html", *words], exit_on_error=False, print_error=False
    )
    settings = bound.arguments.pop("settings", {}) | bound.arguments
    assert {name: settings[name] for name in given} == given


def test_evaluate_prints_and_writes_what_python_returns(run, mapped, tmp_path):
    expected = tt.evaluate(ad.read_h5ad(mapped), "kind", basis=["X_tt", "X_pca"])
    out = tmp_path / "scores.csv"
    status, said, error = run("evaluate", mapped, "--label", "kind", "--basis", "X_tt", "X_pca", "--out", out)
    assert status == 0
    written = pd.read_csv(out, keep_default_na=False, na_values=[""])
    pd.testing.assert_series_equal(written["value"], expected["value"], check_exact=False, rtol=1e-6)
    shown, held = pd.read_csv(io.StringIO(said), sep="\t").set_index("space"), expected[expected["type"] == ""]
    assert [*shown.index] == ["X_tt", "X_pca"]
    for name in MAIN:
        for column, split in {name: "held-out", f"{name}_permuted": "permuted"}.items():
            rows = held[(held["metric"] == name) & (held["split"] == split)].set_index("space")["value"]
            pd.testing.assert_series_equal(shown[column].dropna(), rows, check_names=False)
    assert error == f"{expected.attrs['summary']}\nWrote {out}\n"


def test_compare_writes_a_page(run, source, tmp_path):
    page = tmp_path / "report.html"
    status, said, error = run("compare", source, "--label", "kind", "--out", page, *QUICK)
    assert status == 0
    assert "tripletomics (steps=5), map: held-out macro-F1" in error
    table = pd.read_csv(io.StringIO(said), sep="\t")
    assert [*zip(table["method"], table["space"], strict=True)] == [
        ("pca2", "map"), ("tt:steps=5", "map"), ("tt:steps=5", "metric"),
    ]  # fmt: skip
    assert page.read_text().lower().startswith("<!doctype html>")
    top = html.unescape(page.read_text().split("</header>")[0])
    assert "<title>cells.h5ad: maps by kind, " in top
    assert f"<code>tripletomics compare {source} --label kind {' '.join(QUICK)} --out {page}</code>" in top
    assert {path.name for path in tmp_path.iterdir()} == {"cells.h5ad", "report.html"}


def test_compare_writes_a_folder(run, source, tmp_path):
    status, _, said = run("compare", source, "--label", "kind", "--out", tmp_path / "paper", *QUICK)
    assert status == 0
    assert {"report.html", "figure.pdf", "table.csv", "methods.md"} <= {p.name for p in (tmp_path / "paper").iterdir()}
    assert f"Wrote {tmp_path / 'paper'}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "--label", "kind", "--out", "r.html", "--methods", "umpa"], "Did you mean 'umap'"),
        (["compare", "--label", "knd", "--out", "r.html"], "Did you mean 'kind'"),
        (["compare", "--label", "one", "--out", "r.html"], "one type"),
        (["compare", "--label", "kind", "--out", "cells.h5ad"], "is a file: name a folder, or a page"),
        (["compare", "--label", "kind", "--out", "no/r.html"], "does not exist"),
        (
            ["evaluate", "--label", "kind"],
            "--basis X_tt is not in obsm. Run the command tripletomics fit first. Present: none.",
        ),
        (["evaluate", "--label", "kind", "--out", "scores.txt"], "does not end in .csv"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(run, source, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = run(words[0], source, *words[1:])
    assert status == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert {path.name for path in tmp_path.iterdir()} == {"cells.h5ad"}
