"""Run the tutorials, `examples/*.py`, as notebooks, and write them with their outputs to `docs/tutorials`.

`python benchmarks/notebooks.py [NAME ...]` runs all of them, or those named. `--few-steps` runs them with short fits,
checks what they show, and writes nothing. `--check` runs nothing: it names the notebooks whose script has changed
since. A tutorial that imports a package which is not installed here is left out. What a tutorial writes is thrown away.
"""

from __future__ import annotations

import argparse
import ast
import base64
import datetime
import io
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jupytext
import nbclient
import nbformat
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPTS, NOTEBOOKS = ROOT / "examples", ROOT / "docs" / "tutorials"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"},
}
LARGEST = 600_000  # bytes of a notebook
COLORS = 256  # of an image: a third of the size, and no difference that an eye sees
STAMP = "\n\n*Run on "
QUIET = """import warnings
warnings.filterwarnings("ignore", "IProgress not found")  # scanpy's neighbours import UMAP, which wants ipywidgets
"""
FEW_STEPS = """from tripletomics import training
training.default_steps = lambda n, pace=0: 20
"""
DRAWN = re.compile(r"^(?:\w+ = )?(?:tt|sc)\.pl\.(?!save)\w+\(|^result\.plot\(", re.MULTILINE)


def read(name: str) -> NotebookNode:
    """Return the script as a notebook without outputs. Its cells have the same ids each time."""
    notebook = jupytext.read(SCRIPTS / f"{name}.py")
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = {}
    notebook.metadata = METADATA
    return notebook


def missing(name: str) -> list[str]:
    """Return the packages that the script imports and that are not installed."""
    nodes = list(ast.walk(ast.parse((SCRIPTS / f"{name}.py").read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return sorted({name.split(".")[0] for name in names if not find_spec(name.split(".")[0])})


def execute(notebook: NotebookNode, prelude: str = QUIET) -> None:
    """Run the cells in a kernel of their own, in a folder with the path of `docs/tutorials`; keep their outputs.

    Progress bars are left out, so that a second run gives the same file.
    """
    code = nbformat.v4.new_code_cell(prelude)
    whole = nbformat.v4.new_notebook(cells=[code, *notebook.cells], metadata=METADATA)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "docs" / "tutorials"
        place.mkdir(parents=True)
        (Path(folder) / "data").symlink_to(ROOT / "data")
        environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}  # a notebook has its own
        for library in ("OMP", "NUMBA"):  # with few steps, several run at once, and threads that wait keep their core
            environment.setdefault(f"{library}_NUM_THREADS", "1")
        environment["IPYTHONDIR"] = str(Path(folder) / "ipython")
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        client = nbclient.NotebookClient(
            whole,
            timeout=600,
            kernel_name="python3",
            extra_arguments=["--log-level=40"],
            record_timing=False,
            resources={"metadata": {"path": str(place)}},
        )
        client.execute(env=environment)
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
        cell.outputs = [output for output in cell.outputs if not is_progress(output)]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count


def is_progress(output: NotebookNode) -> bool:
    """Return whether an output is what remains of a progress bar: text that is displayed, not printed or returned."""
    return output.output_type == "display_data" and set(output.data) == {"text/plain"}


def faults(cell: NotebookNode) -> list[str]:
    """Return what is wrong with the outputs of a cell: each figure is one image, and nothing warns."""
    data = [output["data"] for output in cell.outputs if "data" in output]
    said = "".join(output.get("text", "") for output in cell.outputs)
    images, figures = sum("image/png" in one for one in data), len(DRAWN.findall(cell.source))
    found = {
        f"{images} images for {figures} figures": images != figures,
        "an Axes is shown as text": any("<Axes" in one.get("text/plain", "") for one in data),
        f"a warning or stderr: {said}": "Warning" in said or any(o.get("name") == "stderr" for o in cell.outputs),
    }
    return [words for words, wrong in found.items() if wrong]


def shrink(notebook: NotebookNode) -> None:
    """Give each image a palette, which makes it smaller."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
                small = io.BytesIO()
                # of all colours, not of the most common ones: the others merge rare cell types
                palette = image.quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
                palette.save(small, "png", optimize=True)
                output.data["image/png"] = base64.b64encode(small.getvalue()).decode()


def write(name: str, notebook: NotebookNode) -> None:
    """Write the notebook, with the date and the versions of its run below its first words."""
    packages = ", ".join(f"{one} {version(one).split('+')[0]}" for one in ("tripletomics", "torch", "scanpy"))
    notebook.cells[0].source += f"{STAMP}{datetime.date.today()} with {packages}.*"
    shrink(notebook)
    text = nbformat.writes(notebook) + "\n"
    if str(ROOT) in text or tempfile.gettempdir() in text or str(Path.home()) in text:
        raise ValueError(f"{name}: an output holds a path of this machine.")
    if len(text) > LARGEST:
        raise ValueError(f"{name}: {len(text)} bytes are more than {LARGEST}.")
    NOTEBOOKS.mkdir(exist_ok=True)
    (NOTEBOOKS / f"{name}.ipynb").write_text(text)


def stale(name: str) -> bool:
    """Return whether the notebook is not there, or has other cells than its script."""
    path = NOTEBOOKS / f"{name}.ipynb"
    if not path.exists():
        return True
    cells = [(cell.cell_type, cell.source.split(STAMP)[0]) for cell in nbformat.read(path, as_version=4).cells]
    return cells != [(cell.cell_type, cell.source) for cell in read(name).cells]


def run(name: str, few_steps: bool) -> list[str]:
    """Run one tutorial; return what is wrong with it. Write its notebook, unless it runs with few steps."""
    start = time.monotonic()
    if needed := missing(name):
        print(f"{name}: left out, for {', '.join(needed)} is not installed", flush=True)
        return []
    notebook = read(name)
    try:
        execute(notebook, QUIET + FEW_STEPS * few_steps)
    except nbclient.exceptions.CellExecutionError as error:
        return [f"{name}: {error}"]
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    wrong = [f"{name}: {fault}\n{cell.source}" for cell in code for fault in faults(cell)]
    if not (few_steps or wrong):
        write(name, notebook)
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return wrong


def main() -> None:
    """Run, or check, the tutorials that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=sorted(path.stem for path in SCRIPTS.glob("*.py")))
    parser.add_argument("--few-steps", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.check:
        wrong = [f"{name}: run python benchmarks/notebooks.py {name}" for name in given.names if stale(name)]
    else:
        with ThreadPoolExecutor(os.cpu_count() if given.few_steps else 1) as pool:  # each thread waits for a kernel
            wrong = [
                fault for found in pool.map(partial(run, few_steps=given.few_steps), given.names) for fault in found
            ]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
