"""The README's Python block and the tutorial, as notebooks: nothing is drawn twice, and nothing warns."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FEW_STEPS = """import warnings
from tripletomics import training
training.default_steps = lambda n, pace=0: 20
warnings.filterwarnings("ignore", "IProgress not found")  # scanpy's neighbours import UMAP, which wants ipywidgets
"""
DRAWN = re.compile(r"^(?:tt|sc)\.pl\.(?!save)\w+\(|^result\.plot\(", re.MULTILINE)
nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Run cells of code in a kernel of their own, in a folder next to the data; return the outputs of each."""
    monkeypatch.delenv("MPLBACKEND")  # a notebook chooses its own
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "examples").mkdir()

    def run(codes, folder="."):
        cells = [nbformat.v4.new_code_cell(code) for code in [FEW_STEPS, *codes]]
        notebook = nbformat.v4.new_notebook(cells=cells)
        place = {"metadata": {"path": str(tmp_path / folder)}}
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
        return [cell.outputs for cell in notebook.cells[1:]]

    return run


def check(codes, found):
    """One image a figure; no warning; what is printed is on stdout; bars are one line."""
    for code, outputs in zip(codes, found, strict=True):
        data = [output["data"] for output in outputs if "data" in output]
        assert sum("image/png" in one for one in data) == len(DRAWN.findall(code)), code
        assert not any("<Axes" in one.get("text/plain", "") for one in data), code
        said = "".join(output.get("text", "") for output in outputs)
        assert [output["name"] for output in outputs if "name" in output] in ([], ["stdout"]), said
        assert "Warning" not in said
        bars = [one["text/plain"] for one in data if set(one) == {"text/plain"} and "held-out F1" in one["text/plain"]]
        assert len(bars) == ("tt.fit(" in code)
        assert not any("\n" in bar or "about" in bar for bar in bars)


def test_the_block_of_the_readme(outputs):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    codes = block.replace('"umap", ', "").split("\n\n")  # which compiles for 20 s; `test_comparison.py` has it
    codes += ["model", "result"]
    found = outputs(codes)
    check(codes, found)
    for cell, words in ((-2, "metric space"), (-1, "tripletomics")):
        assert words in found[cell][0]["data"]["text/html"]


def test_the_tutorial(outputs):
    text = (ROOT / "examples" / "from_scanpy.py").read_text()
    codes = [cell.strip() for cell in re.split(r"^# %%(?! \[).*\n|^# %% \[markdown\]\n(?:#.*\n)+", text, flags=re.M)]
    codes = [code for code in codes if code]
    found = outputs(codes, "examples")
    check(codes, found)
    shown = [output["data"] for cell in found for output in cell if "data" in output]
    assert sum("<strong>tripletomics.Model" in one.get("text/html", "") for one in shown) == 2
