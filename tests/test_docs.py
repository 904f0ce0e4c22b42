"""What the README shows runs as it stands there."""

import re
import shlex
from pathlib import Path

import anndata as ad
import pytest
import scanpy as sc

import tripletomics as tt
from tripletomics import losses

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that has the data where the README looks for it."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python(clone):
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert (clone / "pbmc.tt").is_file()


def test_terminal(clone, run):
    """In this process; that the program starts as one of its own is shown in `test_cli.py`."""
    (commands,) = (block for block in blocks("bash") if "tripletomics fit" in block)
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "tripletomics"
        status, _, error = run(*arguments)
        assert status == 0, error
    written = {path.name for path in clone.iterdir()}
    assert {"map.h5ad", "again.h5ad", "pbmc.tt", "labels.h5ad", "labels.png", "report.html"} <= written


def test_scanpy_goes_on_from_the_metric_space_of_more_than_8192_cells(real_data):
    """As the README says of the versions in `constraints.txt`; here, where UMAP is compiled already."""
    adata = ad.read_h5ad(real_data / "cite_cbmc_adt.h5ad")
    assert adata.n_obs > 8192
    tt.fit(adata, label="cell_type", steps=5, progress=False)
    sc.pp.neighbors(adata, use_rep="X_tt_metric")
    assert adata.obsp["connectivities"].shape == (adata.n_obs, adata.n_obs)


def test_examples_run(monkeypatch):
    for example in (ROOT / "examples").glob("*.py"):
        monkeypatch.chdir(ROOT / "examples")
        exec(compile(example.read_text(), example.name, "exec"), {"__file__": str(example)})


def test_the_two_commands_are_one_line_each():
    setup = [block.strip() for block in blocks("bash") if block.startswith("pip")]
    assert [line.split(" && ")[1] for line in setup] == ["tripletomics demo", "python -m pytest"]


def test_links_of_the_documents_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_loss_is_in_the_comparison():
    page = (ROOT / "docs" / "choose-a-loss.md").read_text()
    rows = re.findall(r"^\| `(.*?)` \| [\d.]+ ± .* \|$", page, re.MULTILINE)
    for name in losses.names(views=1):
        assert any(name in re.split(r"[ *+]+", row) for row in rows), f"{name}: run benchmarks/losses.py"
        assert page.count(name) > 3, f"{name}: say when to choose it"
