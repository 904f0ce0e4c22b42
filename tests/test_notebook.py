"""The README's Python block as a notebook: nothing is drawn twice, and nothing warns. Tutorials run in `.ci/run`."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
import nbformat
import notebooks


def cells(codes):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])


def test_the_block_of_the_readme():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    block = block.replace('"umap", ', "")  # which compiles for 20 s; `test_comparison.py` has it
    codes = block.replace('"].copy()', '"][::3].copy()').split("\n\n")
    readme = cells([f"import os\nos.chdir('../..')\n{codes[0]}", *codes[1:], "model", "result"])
    notebooks.execute(readme, notebooks.QUIET + notebooks.FEW_STEPS)
    assert [fault for cell in readme.cells for fault in notebooks.faults(cell)] == []
    for cell, words in ((-2, "metric space"), (-1, "tripletomics")):
        assert words in readme.cells[cell].outputs[0]["data"]["text/html"]


def test_what_is_wrong_with_a_cell_is_found():
    codes = ["print(1)", "import warnings; warnings.warn('x')", "import matplotlib.pyplot as plt; plt.figure().gca()"]
    tried = cells([*codes, "tt.pl.tree = lambda model: None\ntt.pl.tree(1)"])
    notebooks.execute(tried, "from types import SimpleNamespace\ntt = SimpleNamespace(pl=SimpleNamespace())")
    found = ["; ".join(notebooks.faults(cell)) for cell in tried.cells]
    assert found[0] == ""
    for said, words in zip(found[1:], ("a warning", "an Axes is shown", "0 images for 1 figures"), strict=True):
        assert words in said


def test_notebooks_have_the_cells_of_their_scripts():
    assert [path.stem for path in sorted(notebooks.SCRIPTS.glob("*.py")) if notebooks.stale(path.stem)] == []


def test_a_notebook_is_stale_when_its_script_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "SCRIPTS", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "made")
    script = tmp_path / "one.py"
    script.write_text("# %% [markdown]\n# # Title\n\n# %%\nprint(1)\n")
    assert notebooks.stale("one")
    notebooks.write("one", notebooks.read("one"))
    first = (tmp_path / "made" / "one.ipynb").read_bytes()
    assert not notebooks.stale("one")
    assert b"Run on " in first
    script.write_text(script.read_text().replace("print(1)", "print(2)"))
    assert notebooks.stale("one")
    script.write_text("import no_such_package.part\nfrom pathlib import Path\n")
    assert notebooks.missing("one") == ["no_such_package"]
