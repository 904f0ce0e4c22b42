"""Names are text everywhere: no formula, no markup, nothing that steers a terminal, no formula of a spreadsheet."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

import tripletomics as tt
from tripletomics import pl
from tripletomics.names import as_html, harmless, percent, printable

NAMES = [r"$\frac{$", "$x_1$ cell", "[/] [bold red]T[/bold red]", "\x1b[31mB\u202e :dna:", "=1+1", "\ufeff-NK"]
SHOWN = [name.translate(dict.fromkeys(map(ord, "\x1b\u202e\ufeff"), "\ufffd")) for name in NAMES]


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Cells of six types with such names, mapped and predicted."""
    random, codes = np.random.default_rng(0), np.arange(120) % 6
    adata = ad.AnnData(random.poisson(1 + 3 * (np.arange(30) % 6 == codes[:, None])).astype(np.float32))
    adata.obs["$kind$"] = pd.Categorical(np.array(NAMES, dtype=object)[codes])
    adata.var_names = [f"$\\gene{{{i}$" for i in range(30)]
    model = tt.fit(adata, "$kind$", loss="softmax + hierarchical_triplet", steps=8, hold_out=0.3, progress=False)
    path = tmp_path_factory.mktemp("named") / "a.h5ad"
    adata.write_h5ad(path)
    model.save(path.with_suffix(".tt"))
    tt.predict(adata, model)
    return adata, model, path


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_figures_show_names_as_they_are(named, tmp_path, ending):
    adata, model, _ = named
    _, own = plt.subplots()
    figures = [
        pl.embedding(adata, "$kind$").figure, pl.embedding(adata, adata.var_names[0], ax=own).figure,
        pl.confusion(adata, "$kind$").figure, pl.tree(model).figure, pl.mapping(adata, model),
        pl.compare(adata, color="$kind$"), pl.genes(tt.explain(adata, model, "$kind$", n_cells=10)),
    ]  # fmt: skip
    found = set()
    for i, figure in enumerate(figures if ending == "pdf" else figures[:3]):
        found |= {text.get_text().replace("\n", " ") for text in figure.findobj(Text)}
        pl.save(figure, tmp_path / f"{i}.{ending}")
        assert (tmp_path / f"{i}.{ending}").stat().st_size > 1000
        plt.close(figure)
    assert all(any(name in text for text in found) for name in SHOWN[:3]), found
    assert plt.rcParams["text.parse_math"]


def test_the_command_line_shows_names_as_they_are(named, tmp_path, run):
    path = named[2]
    out, figure, table = tmp_path / "o.h5ad", tmp_path / "o.png", tmp_path / "t.csv"
    status, said, error = run("predict", path, "--model", path.with_suffix(".tt"), "--out", out, "--figure", figure)
    assert status == 0, error
    assert all(name in said for name in SHOWN)
    assert "\x1b" not in said
    status, said, error = run("evaluate", path, "--label", "$kind$", "--out", table)
    assert status == 0, error
    cells = pd.read_csv(table).astype(str).to_numpy().ravel()
    assert "'=1+1" in cells
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    status, _, error = run("evaluate", path, "--label", "\x1b]0;kind")
    assert (status, error.count("\n"), "\x1b" in error) == (1, 1, False)


def test_text_that_steers_is_replaced_and_all_other_stays():
    assert printable("CD4+ αβ \u0646\u200c\u06cc e\u0301 🧬\n2") == "CD4+ αβ \u0646\u200c\u06cc e\u0301 🧬\n2"
    assert printable("a\x00b\x1b[2J\x9b\u2066\u2028\ud800\ufeff\ufffe") == "a\ufffdb\ufffd[2J" + "\ufffd" * 6


def test_a_table_for_a_spreadsheet_holds_no_formula():
    table = pd.DataFrame({"=a": ["=1", "+1", "-1", "@x", "a=1", ""], "n": [-1.0, 2, 3, 4, 5, np.nan]})
    found = harmless(table)
    assert found["'=a"].tolist() == ["'=1", "'+1", "'-1", "'@x", "a=1", ""]
    np.testing.assert_array_equal(found["n"], table["n"])


def test_a_share_is_written_with_a_space():
    assert (percent(0.9), percent(0.12345, 1), percent(1.0)) == ("90 %", "12.3 %", "100 %")


def test_a_page_of_a_notebook_escapes_names_and_cuts_none():
    table = pd.DataFrame({"a<b": ["<i>"]}, index=pd.Index(["x" * 200]))
    page = as_html("a & b", table, ["1 < 2"], {"More": {"k<": "v\x1b"}})
    for words in ("a &amp; b", "a&lt;b", "&lt;i&gt;", "x" * 200, "1 &lt; 2", "<summary>More</summary>", "k&lt;"):
        assert words in page
    assert "v\ufffd" in page
