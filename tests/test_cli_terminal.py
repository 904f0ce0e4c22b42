"""What the commands show: in terminals of two widths, to a pipe, and as JSON; and the words of their messages."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console
from samples import make_cells

import tripletomics as tt
from tripletomics import cli, evaluation
from tripletomics.cli.answers import THREADS, answering, as_json
from tripletomics.cli.options import GROUPS
from tripletomics.cli.printing import main_scores, print_scores, say
from tripletomics.cli.words import for_terminal, options_in

COMMANDS = [*cli.COMMANDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cells, a model, and the cells with a map."""
    folder = tmp_path_factory.mktemp("terminal")
    adata = make_cells(120, 0, types="abc", genes=40)
    adata.write_h5ad(folder / "cells.h5ad")
    tt.fit(adata, "kind", steps=5, hold_out=0.3, progress=False).save(folder / "m.tt")
    adata.write_h5ad(folder / "map.h5ad")
    return folder


def scores(n_seeds=1):
    """A table of scores as of a comparison."""
    rows = [
        (method, space, metric, "", split, 0.5 + i / 100)
        for i, metric in enumerate(evaluation.scores.MAIN)
        for method in ("tt:structure=0.25,steps=300", "supervised UMAP")
        for space in ("map", "metric")
        for split in ("held-out", "train", "permuted")
    ]
    table = pd.DataFrame(rows, columns=["method", "space", "metric", "type", "split", "value"])
    return table.assign(sd=0.01 if n_seeds > 1 else np.nan, n_seeds=n_seeds, hold_out="0.1")


@pytest.fixture
def terminal(monkeypatch):
    """Show something as in a terminal of some columns, and return its lines."""

    def show(columns, action):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: True)
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            patch.setattr(sys, "stdout", stream)
            action()
        return stream.getvalue().splitlines()

    return show


@pytest.fixture
def in_pty(monkeypatch):
    """Run a command line in a pseudo-terminal of some columns; return its lines."""

    def show(columns, *command):
        keeper, inner = pty.openpty()
        shown = []

        def read():
            with contextlib.suppress(OSError):  # when the other side is closed
                while part := os.read(keeper, 65536):
                    shown.append(part)

        reader = threading.Thread(target=read)
        reader.start()
        with os.fdopen(inner, "w") as stream, monkeypatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            cli.main([str(word) for word in command])
        reader.join()
        os.close(keeper)
        return b"".join(shown).decode()

    return show


# ---------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_a_table_of_scores_fits_the_terminal(terminal, columns, n_seeds):
    lines = terminal(columns, lambda: print_scores(scores(n_seeds), ["hold_out", "method", "space"]))
    lines = [re.sub("\x1b.*?m", "", line) for line in lines]
    said = " ".join(" ".join(lines).split())
    assert max(map(cell_len, lines)) <= columns
    assert not any("…" in line for line in lines)
    assert "hold_out" not in said  # it is the same in all rows
    for word in ("macro mAP recall", "F1 @R @30", "recall@30", "mAP@R", "(0.500)", " 0.550", "supervised UMAP"):
        assert word in said
    assert ("±" in said) == (n_seeds > 1)
    assert ("sd over seeds" in said) == (n_seeds > 1)


def test_a_table_in_a_pipe_is_whole(capsys):
    table = scores(3)
    print_scores(table, ["hold_out", "method", "space"])
    said = capsys.readouterr()
    assert said.err == ""
    found = pd.read_csv(io.StringIO(said.out), sep="\t")
    pd.testing.assert_frame_equal(found, main_scores(table, ["method", "space"], evaluation.scores.MAIN))
    assert [*found.columns[:5]] == ["method", "space", "knn_macro_f1", "knn_macro_f1_sd", "knn_macro_f1_permuted"]
    assert "knn_macro_f1_sd" not in main_scores(scores(1), ["method", "space"], ["knn_macro_f1"])


def test_a_table_whose_spaces_have_other_scores_is_the_same_everywhere(terminal):
    table = scores(3).assign(value=np.arange(len(scores())) / 100).sample(frac=0.8, random_state=0)
    found = main_scores(table, ["method", "space"], evaluation.scores.MAIN).set_index(["method", "space"])
    shown = evaluation.overview(table, ["method", "space"])
    assert list(found.index) == list(shown.index)
    ends = {"held-out": "", "permuted": "_permuted"}
    expected = {
        (row.method, row.space, row.metric + ends[row.split]): row.value
        for row in table.itertuples()
        if row.split in ends
    }
    values = found[[name for name in found if not name.endswith("_sd")]].stack().to_dict()
    assert values == expected
    for (method, space, metric), value in expected.items():
        if "_permuted" in metric:
            assert shown[metric.removesuffix("_permuted")][method, space].endswith((f"({value:.3f})", "-"))
        else:
            assert shown[metric][method, space].startswith(f"{value:.3f} ")


def test_long_sentences_are_wrapped_in_a_terminal_alone(terminal, capsys):
    text = "one two three four five six seven\nname      1.0   a remark that is longer than the line"
    assert terminal(30, lambda: say(text)) == [
        "one two three four five six", "seven", "name      1.0   a remark that", "                is longer than the",
        "                line",
    ] or max(map(len, terminal(40, lambda: say(text)))) <= 40  # fmt: skip
    say(text)
    assert capsys.readouterr().out == f"{text}\n"
    say(text, aside=True)
    assert capsys.readouterr() == ("", f"{text}\n")


@pytest.mark.parametrize(("columns", "colour"), [(80, False), (120, True)])
def test_in_a_pseudo_terminal(folder, in_pty, monkeypatch, columns, colour):
    monkeypatch.setenv("TERM", "xterm")
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    shown = in_pty(columns, "evaluate", folder / "map.h5ad", "--label", "kind")
    assert ("\x1b[3" in shown) == colour
    lines = re.sub(r"\x1b\[[0-9;?]*[A-KM-Za-z]", "\n", re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "\n")).split(
        "\n"
    )
    assert max(map(cell_len, lines)) <= columns
    assert any("✓ scoring X_tt" in line for line in lines)
    assert any("recall@30" in line for line in lines)
    assert "Held out: " in shown


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_and_has_groups_and_examples(run, monkeypatch, command, columns):
    monkeypatch.setattr(cli.app, "_console", Console(width=columns))  # it keeps the first one
    status, said, _ = run(command, "--help")
    assert status == 0
    assert max(map(cell_len, said.splitlines())) <= columns
    assert "Examples:" in said
    assert f"tripletomics {command}" in said.partition("Examples:")[2]
    assert "─ Output ─" in said
    assert "─ Other ─" not in said
    assert "--empty-" not in said


def test_the_help_of_fit_begins_with_what_is_basic(run, monkeypatch):
    monkeypatch.setattr(cli.app, "_console", Console(width=100))
    said = run("fit", "--help")[1]
    places = [said.index(f"─ {title} ─") for title in GROUPS if title != "Predictions"]
    assert places == sorted(places)
    assert "structure=1" not in said
    assert len(re.findall("^ tripletomics ", run("--help")[1], re.MULTILINE)) == 3


# ---------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["fit", "cells.h5ad", "--label", "kind", "--steps", "2", "--out", "o.h5ad"], {"scores", "checks", "summary"}),
        (["transform", "cells.h5ad", "--model", "m.tt", "--out", "o.h5ad"], {"model", "written"}),
        (["predict", "cells.h5ad", "--model", "m.tt", "--out", "o.h5ad"], {"types", "mapping", "summary"}),
        (["compare", "cells.h5ad", "--label", "kind", "--methods", "pca2", "--seeds", "1", "--out", "r.html"],
         {"scores", "summary", "settings"}),
        (["relate", "cells.h5ad", "cells.h5ad", "--model", "m.tt", "--label-a", "kind", "--label-b", "kind",
          "--out", "t.csv"], {"table", "summary"}),
        (["convert", "cells.h5ad", "c.zarr"], {"written"}),
        (["losses", "triplet"], {"losses"}),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)  # fmt: skip
def test_json_is_all_that_is_on_stdout(run, folder, monkeypatch, words, keys):
    monkeypatch.chdir(folder)
    status, said, _ = run(*words, "--json")
    assert status == 0

    def refuse(constant):
        raise ValueError(constant)

    found = json.loads(said, parse_constant=refuse)
    assert keys <= set(found)
    if "written" in found:
        assert all(Path(path).exists() for path in found["written"])
    status, said, error = run(*words, "--quiet", *["--force"] * (words[0] == "convert"))
    assert (status, said, error) == (0, "", "")


def test_json_has_settings_as_they_are_and_names_of_findings(run, folder, tmp_path):
    cells = ad.read_h5ad(folder / "cells.h5ad")
    cells.obs["7"] = cells.obs["kind"]
    cells.write_h5ad(tmp_path / "a.h5ad")
    found = json.loads(run("fit", tmp_path / "a.h5ad", "--label", "7", "--steps", 2, "--model", tmp_path / "a.tt",
                           "--json")[1])  # fmt: skip
    settings = {"label": "7", "steps": 2, "lr": 0.001, "batch": None, "self_training": False, "loss": "softmax"}
    assert {name: found["settings"][name] for name in settings} == settings
    assert found["settings"]["unlabelled"].startswith("(empty), Unknown, ")
    assert {*found["findings"]["tested"]} == {"held_out_cells", "types", "p_if_four_of_five_are_right"}


def test_what_json_cannot_hold_is_null_or_text():
    given = {"a": np.float32(0.5), "b": float("nan"), "c": np.array([1, 2]), "d": {"e": np.inf, 3: Path("x")}}
    assert json.loads(as_json(given)) == {"a": 0.5, "b": None, "c": [1, 2], "d": {"e": None, "3": "x"}}


def test_quiet_leaves_errors(run, folder):
    status, said, error = run("evaluate", folder / "map.h5ad", "--label", "no", "--quiet")
    assert (status, said) == (1, "")
    assert error.startswith("error: --label no is not a column of obs.")


def test_the_log_level_is_that_of_scanpy(run, folder, monkeypatch):
    import scanpy

    before = scanpy.settings.verbosity
    monkeypatch.chdir(folder)
    words = ["fit", "cells.h5ad", "--label", "kind", "--steps", "2", "--out", "o.h5ad"]
    try:
        assert run(*words)[2] == ""
        scanpy.settings.logfile = ""  # the stream of now, which pytest replaces for each test
        error = run(*words, "--log-level", "info")[2]
        assert scanpy.settings.verbosity == before
    finally:
        scanpy.settings.verbosity = before
    for stage in ("training the encoder, 2 steps", "training the map", "calibrating", "permuted labels and scores"):
        assert f"{stage}" in error
    assert "writing 'o.h5ad'" in error
    status, _, error = run(*words, "--log-level", "loud")
    assert status == 2
    assert 'Choose from: "error", "warning", "info", "hint", "debug"' in error


def test_threads_bound_all_libraries():
    code = (
        "import os\n"
        "from tripletomics.cli.answers import answering\n"
        "def command(): pass\n"
        "answering(command)(threads=1)\n"
        "import threadpoolctl\n"
        "print({pool['num_threads'] for pool in threadpoolctl.threadpool_info()}, os.environ['OMP_NUM_THREADS'])"
    )
    own = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own)
    assert (done.stdout, done.returncode) == ("{1} 1\n", 0), done.stderr
    assert {"OMP", "NUMBA", "OPENBLAS", "MKL"} <= {*THREADS}


def test_there_are_no_more_threads_than_cores(monkeypatch):
    given = []
    monkeypatch.setattr("threadpoolctl.threadpool_limits", given.append)
    monkeypatch.setattr("os.environ", {})
    answering(lambda: None)(threads=99_999)
    assert given == [os.cpu_count()]
    assert {*os.environ.values()} == {str(os.cpu_count())}


def test_threads_are_a_whole_number(run, folder):
    for value in ("0", "two", "1.5"):
        status, _, error = run("evaluate", folder / "map.h5ad", "--label", "kind", "--threads", value)
        assert (status, error.count("\n")) == (2, 1)
        assert "--threads" in error


def test_force_replaces_a_store(run, folder, tmp_path):
    store = tmp_path / "c.zarr"
    assert run("convert", folder / "cells.h5ad", store)[0] == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    status, _, error = run("convert", folder / "map.h5ad", store)
    assert (status, error) == (
        1, f"error: {str(store)!r} is there already: choose another name, or pass --force to replace it.\n",
    )  # fmt: skip
    assert "X_tt" not in ad.read_zarr(store).obsm
    assert run("convert", folder / "map.h5ad", store, "--force")[0] == 0
    assert "X_tt" in ad.read_zarr(store).obsm
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "d.zarr").mkdir()
    status, _, error = run("convert", folder / "map.h5ad", tmp_path / "d.zarr", "--force")
    assert (status, "is no .zarr store: choose another name" in error) == (1, True)


def test_evaluate_scores_what_is_named(run, folder):
    words = ["evaluate", folder / "map.h5ad", "--label", "kind"]
    _, said, error = run(*words, "--basis", "X_tt", "X_tt_pca")
    assert [line.split("\t")[0] for line in said.splitlines()] == ["space", "X_tt", "X_tt_pca"]
    assert error.count("Held out:") == 1
    found = json.loads(run(*words, "--json")[1])
    assert {row["space"] for row in found["scores"]} == {"X_tt", "X_tt_metric"}
    assert found["summary"].count("Held out:") == 1


# ---------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("Pass missing='zero' to fill them.", "Pass --missing zero to fill them."),
        ("hold_out=1.5 is no share", "--hold-out 1.5 is no share"),
        ("pass unseen=True, refits=1.", "pass --unseen, --refits 1."),
        ("progress=False is fine", "--no-progress is fine"),
        ("label=None: name it", "no --label: name it"),
        ("methods=['tt', 'umap']", "--methods tt umap"),
        ("layer='my layer' is not there", "--layer 'my layer' is not there"),
        ("label: 'x' is coarse", "--label: 'x' is coarse"),
        ("leave structure out, or leave map out.", "leave --structure out, or leave --map out."),
        ("as in tt:loss=arcface,structure=0.2", "as in tt:loss=arcface,structure=0.2"),
        ("not a column of adata.obs. Columns: a.", "not a column of obs. Columns: a."),
        ("adata[adata.obs['a'].notna()]", "adata[adata.obs['a'].notna()]"),
        ("Run tripletomics.fit first.", "Run the command tripletomics fit first."),
        ("Run tripletomics.transform(adata, model).", "Run the command tripletomics transform."),
        (r"label='\x1b]0;a\n' is no", r"--label '\x1b]0;a\n' is no"),
        ("margin=0.3 is no option", "margin=0.3 is no option"),
    ],
)
def test_messages_have_the_words_of_the_terminal(python, shell):
    assert for_terminal(python, cli.OPTIONS) == shell


def test_help_has_the_words_of_the_terminal():
    doc = "Without `label`, as with ``structure=1``, `adata` and ``obs['x']`` stay, and `hold_out` too."
    assert options_in(doc, ["label", "structure", "hold_out"]) == (
        "Without `--label`, as with ``--structure 1``, `INPUT` and ``obs['x']`` stay, and `--hold-out` too."
    )
    doc = "Column of `obs` in `a`"  # the column is not that of the option --obs, and `a` is no option
    assert options_in(doc, ["obs", "a", "label"]) == "Column of `obs` in `A`"


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["--foo"], 2, "Unknown option: --foo."),
        (["--stepps", "3"], 2, "Unknown option: --stepps. Did you mean --steps?"),
        (["--random_state", "1"], 2, "Unknown option: --random_state. Did you mean --seed?"),
        (["--n-jobs", "2"], 2, "Unknown option: --n-jobs. Did you mean --threads?"),
        (["--device", "gpu"], 1, "--device gpu is not known. Did you mean 'cuda'? Allowed here: "),
        ([], 2, "--out is missing: name the file"),
    ],
)
def test_suggestions_make_sense(run, folder, tmp_path, words, status, error):
    out = ["--out", tmp_path / "o.h5ad"] if words else []
    given = run("fit", folder / "cells.h5ad", "--label", "kind", *out, *words)
    assert given[:2] == (status, "")
    assert given[2].startswith(f"error: {error}")
    assert given[2].count("\n") == 1


def test_methods_are_words_of_their_own(run, folder, tmp_path):
    given = ["compare", folder / "cells.h5ad", "--label", "kind", "--out", tmp_path / "r.html"]
    assert run(*given, "--methods", "tt,umap") == (
        1, "", "error: --methods: 'tt,umap' holds several methods in one text: pass --methods tt umap.\n",
    )  # fmt: skip
    status, _, error = run("transform", folder / "cells.h5ad", "--model", folder / "m.tt")
    assert (status, error.startswith("error: --out is missing")) == (2, True)
