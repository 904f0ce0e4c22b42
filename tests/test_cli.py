import dataclasses
import functools
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from samples import EVERY_OPTION, files, kebab, make_cells, words

import tripletomics as tt
from tripletomics import cli, losses, parts, tl
from tripletomics.cli.answers import COMMON, Answer
from tripletomics.cli.options import Input, options_of
from tripletomics.files import DiskFull

HERE = Path(tt.__file__).parents[1]

# ---------------------------------------------------------------------------------------------------- options


def bound(*arguments):
    _, values, _ = cli.app.parse_args([*arguments], exit_on_error=False, print_error=False)
    return values.arguments | values.arguments.pop("settings", {})


def test_fit_has_every_keyword_of_the_function():
    keywords = dict(inspect.signature(tl.fit).parameters)
    del keywords["adata"]
    assert set(keywords) == set(EVERY_OPTION)
    options = inspect.signature(cli.fit).parameters
    assert set(options) == {
        "input", "out", "only_results", "obs", "transpose", "protein", "model", "index", "card", "figure", *keywords,
        *COMMON,
    }  # fmt: skip
    for name in keywords:
        assert options[name].default == keywords[name].default, name


def test_transform_has_every_keyword_of_the_function():
    assert set(inspect.signature(cli.transform).parameters) == {
        "input", "out", "only_results", "obs", "transpose", "shard", *inspect.signature(tl.transform).parameters,
        *COMMON,
    } - {"adata"}  # fmt: skip


@pytest.mark.parametrize("name", EVERY_OPTION)
def test_a_value_arrives(name):
    text, value = EVERY_OPTION[name]
    label = [] if name == "label" else ["--label", "x"]
    given = bound("fit", "in.h5ad", "--out", "out.h5ad", *label, *words(name, text))
    assert given[name] == value
    assert type(given[name]) is type(value)
    assert set(given) == {"input", "label", "out", name}  # what is not given is left to the function


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("hold_out", "donor", "donor"),
        ("hold_out", "donor=d3", "donor=d3"),
        ("hold_out", "0", 0.0),
        ("counts", "auto", "auto"),
        ("counts", "True", True),
        ("augment", "none", None),
        ("loss", "none", None),
        ("batch_size", "none", None),
        ("loss", "softmax + 0.003*center", "softmax + 0.003*center"),
        ("unlabelled", "", [""]),
    ],
)
def test_texts_of_several_kinds(option, text, value):
    given = bound("fit", "in.h5ad", "--out", "out.h5ad", "--label", "x", kebab(option), text)[option]
    assert given == value
    assert type(given) is type(value)


def test_a_new_keyword_needs_no_change_here(capsys):
    def verb(adata: object, *, sharpness: float = 0.5) -> None:
        """Do it.

        Parameters
        ----------
        adata
            Cells.
        sharpness
            How sharp.
        """

    @options_of(verb)
    def command(input: Input, /, *, out: Path, **settings: object):
        return Answer(settings, lambda: print(settings))

    app = cli.App(result_action="return_value")
    app.default(command)
    app(["a", "--out", "b", "--sharpness", "0.7"])
    assert capsys.readouterr().out == "{'sharpness': 0.7}\n"
    app(["--help"])
    assert re.search(r"--sharpness FLOAT +How sharp. \[default: 0.5\]", capsys.readouterr().out)


@pytest.mark.parametrize("verb", ["fit", "transform"])
def test_help_explains_every_option(run, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "400")
    status, out, _ = run(verb, "--help")
    assert status == 0
    lines = [re.sub(r"\s+", " ", line) for line in out.splitlines()]
    for name, parameter in inspect.signature(getattr(cli, verb)).parameters.items():
        line = next((line for line in lines if f"{'INPUT' if name == 'input' else kebab(name)} " in line), None)
        assert line is not None, name
        if name in ("structure", "spread", "seed", "key_added", "missing", "min_matched"):
            assert f"[default: {parameter.default}]" in line
    said = inspect.getdoc(getattr(tl, verb))
    for text in ("Layer to use in place of .X.", "Key of the map in obsm"):
        assert text in said.replace("`", "")
        assert text in " ".join(lines)


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--help"], "losses"), (["fit", "--help"], "--metric-dim"), (["losses", "-h"], "NAME")]
)
def test_help_imports_nothing_heavy(arguments, says):
    code = (
        f"import sys; from tripletomics import cli; cli.main({arguments});"
        "sys.exit(' '.join(m for m in ('torch', 'scanpy', 'anndata', 'matplotlib') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
    assert says in done.stdout


def test_module_and_version():
    done = subprocess.run([sys.executable, "-m", "tripletomics", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.strip() == tt.__version__


# ---------------------------------------------------------------------------------------------------- work


def test_input_may_be_the_output(run, source, tmp_path):
    assert run("fit", source, "--label", "cell_type", "--out", source, "--steps", 2)[0] == 0
    assert "X_tt" in ad.read_h5ad(source).obsm
    assert files(tmp_path) == ["cells.h5ad"]


# ---------------------------------------------------------------------------------------------------- refusals


def bad_inputs(folder, source):
    """Files that cannot be read, by what is said of them."""
    (folder / "text.h5ad").write_text("a,b\n1,2\n")
    (folder / "cut.h5ad").write_bytes(source.read_bytes()[:20000])
    with h5py.File(folder / "other.h5ad", "w") as file:
        file["matrix"] = [1]
    (folder / "odd.h5ad").write_bytes(source.read_bytes())
    with h5py.File(folder / "odd.h5ad", "a") as file:
        file["obs"].attrs["encoding-version"] = "9.9.9"
    (folder / "folder.h5ad").mkdir()
    return {
        "no.h5ad": "There is no file '.*no.h5ad'",
        "text.h5ad": "is not an .h5ad file",
        "cut.h5ad": r"cannot be opened: .*truncated",
        "other.h5ad": "not an AnnData file: it lacks obs and var, and holds matrix",
        "odd.h5ad": "cannot be read as AnnData: ",
        "folder.h5ad": "is a folder: name an .h5ad file",
    }


@pytest.mark.parametrize("verb", ["fit", "transform"])
def test_bad_input_files(run, source, fitted, tmp_path, verb):
    bad = bad_inputs(tmp_path, source)
    fitted[0].save(tmp_path / "model.tt")
    before = files(tmp_path)
    rest = ["--label", "cell_type"] if verb == "fit" else ["--model", tmp_path / "model.tt"]
    for name, message in bad.items():
        status, out, error = run(verb, tmp_path / name, "--out", tmp_path / "out.h5ad", *rest)
        assert (status, out) == (1, ""), name
        assert re.fullmatch(f"error: .*{message}.*\n", error), error
        assert files(tmp_path) == before


def test_unreadable_input(run, source, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # root may read everything
    status, _, error = run("fit", source, "--label", "cell_type", "--out", tmp_path / "out.h5ad")
    assert status == 1
    assert re.fullmatch("error: .*cells.h5ad' may not be read.*\n", error)


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (
            ["--label", "celltype", "--out", "o.h5ad"],
            "--label celltype is not a column of obs. Did you mean 'cell_type'",
            1,
        ),
        (["--label", "cell_type", "--out", "o.csv"], "'.*o.csv' does not end in .h5ad", 1),
        (["--label", "cell_type", "--out", "no/o.h5ad"], "The folder '.*no' of 'o.h5ad' does not exist", 1),
        (["--label", "cell_type", "--out", "o.h5ad", "--model", "m.pt"], "does not end in .tt", 1),
        (["--label", "cell_type", "--out", "o.h5ad", "--loss", "tripplet"], "Did you mean 'triplet'", 1),
        (["--label", "cell_type", "--out", "o.h5ad", "--layer", "raw"], "--layer raw is not a layer", 1),
        (["--label", "cell_type", "--out", "o.h5ad", "--hold-out", "nan"], "--hold-out nan is neither", 1),
        (["--label", "cell_type", "--out", "o.h5ad", "--counts", "maybe"], "--counts maybe is not known", 1),
        (["--label", "cell_type", "--out", "o.h5ad", "--steps", "1.5"], "--steps: '1.5' is not a whole number", 2),
        (["--label", "cell_type", "--out", "o.h5ad", "--lr", "fast"], '--lr: unable to convert "fast"', 2),
        (["--label", "cell_type", "--out", "o.h5ad", "--stepps", "5"], "Did you mean --steps", 2),
        (["--out", "o.h5ad", "--loss", "triplet"], "--loss triplet learns from labels, and no --label gives none", 1),
        (
            ["--label", "cell_type"],
            "--out is missing: name the file to write, .h5ad, or pass --model for the model alone",
            2,
        ),
        (["more.h5ad", "--label", "cell_type", "--out", "o.h5ad"], "more.h5ad", 2),
    ],
)
def test_refusals_of_fit(run, source, tmp_path, monkeypatch, arguments, message, status):
    monkeypatch.chdir(tmp_path)
    given = run("fit", source, *arguments)
    assert given[:2] == (status, "")
    assert re.fullmatch(f"error: .*{message}.*\n", given[2]), given[2]
    assert files(tmp_path) == ["cells.h5ad"]


def test_refusals_of_transform(run, source, fitted, tmp_path):
    model, out = tmp_path / "model.tt", tmp_path / "out.h5ad"
    assert run("transform", source, "--out", out)[::2] == (
        2, "error: transform needs --model.\n",
    )  # fmt: skip
    status, _, error = run("transform", source, "--model", model, "--out", out)
    assert (status, error) == (1, f"error: There is no model file {str(model)!r}.\n")
    fitted[0].save(model)
    short = tmp_path / "short.h5ad"
    ad.read_h5ad(source)[:, 5:].copy().write_h5ad(short)
    status, _, error = run("transform", short, "--model", model, "--out", out)
    assert status == 1
    assert re.fullmatch("error: The query is missing 5 of the model's 765 genes .*\n", error)
    rest = ["--model", model, "--out", out]
    assert run("transform", short, *rest, "--missing", "zero")[0] == 0
    assert run("transform", short, *rest, "--missing", "impute", "--min-matched", "0.9")[0] == 0
    assert run("transform", short, *rest, "--missing", "fill")[0] == 2
    status, _, error = run("transform", short, *rest, "--alias", "ids")
    assert (status, error) == (1, "error: --alias ids is not a column of var. Columns: none.\n")
    assert files(tmp_path) == ["cells.h5ad", "model.tt", "out.h5ad", "short.h5ad"]


def test_unknown_verb(run):
    status, _, error = run("fti")
    assert status == 2
    assert re.fullmatch('error: Unknown command "fti". Did you mean "fit".*\n', error)


def test_a_bug_keeps_its_traceback(run, source, tmp_path, monkeypatch):
    def refuse():
        raise ValueError("no")

    def library():
        return np.zeros(3).reshape(2, 2)

    for broken in (refuse, library, lambda: {}["key"]):  # not of this package, though some are called by it
        monkeypatch.setattr(ad, "read_h5ad", lambda path: ad.AnnData(np.ones((3, 3))))
        monkeypatch.setattr(tl, "fit", lambda *_, broken=broken, **__: broken())
        with pytest.raises((ValueError, KeyError)):
            cli.main(["fit", str(source), "--label", "x", "--out", str(tmp_path / "out.h5ad")])
    assert files(tmp_path) == ["cells.h5ad"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interruption_leaves_no_half_file(run, source, tmp_path, monkeypatch, request, number, status):
    for kind, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        usual = signal.signal(kind, handler)  # a job in the background ignores them
        request.addfinalizer(functools.partial(signal.signal, kind, usual))
    write = ad.AnnData.write_h5ad
    before = source.read_bytes()

    def interrupted(adata, path):
        write(adata, path)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(ad.AnnData, "write_h5ad", interrupted)
    given = run("fit", source, "--label", "cell_type", "--out", source, "--model", tmp_path / "m.tt", "--steps", 2)
    assert given[0] == status
    assert files(tmp_path) == ["cells.h5ad"]
    assert source.read_bytes() == before


def test_nohup_is_heeded(run, tmp_path, request):
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, usual))
    run("transform", tmp_path / "no.h5ad", "--model", tmp_path / "no.tt", "--out", tmp_path / "out.h5ad")
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_ctrl_c_while_modules_are_imported():
    code = """
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "cyclopts":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from tripletomics.__main__ import main
main()
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE)
    assert (said.returncode, said.stdout, said.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("kind", [".h5ad", ".zarr"])
@pytest.mark.parametrize("lost", ["cells", "model"])
def test_what_cannot_be_written_costs_nothing_else(run, source, tmp_path, monkeypatch, kind, lost):
    """A fit that is done is written as far as the disk allows, and one line says how far that is."""

    def full(*_, **__):
        raise DiskFull("It could not be written.")

    writers = {".h5ad": "tripletomics.cli.fitting.write", ".zarr": "tripletomics.store.writing.write"}
    monkeypatch.setattr(writers[kind] if lost == "cells" else "tripletomics.model.Model.save", full)
    out, model = tmp_path / "out.h5ad", tmp_path / "m.tt"
    given = ["--label", "cell_type", "--model", model, "--steps", 2]
    if kind == ".zarr":
        out = tmp_path / "cells.zarr"
        ad.read_h5ad(source).write_zarr(out)
        status, _, error = run("fit", out, *given)
    else:
        status, _, error = run("fit", source, "--out", out, *given)
    kept = model if lost == "cells" else out
    assert (status, error) == (1, f"error: It could not be written. {str(kept)!r} was written.\n")
    assert model.exists() == (lost == "cells")
    if lost == "model":
        assert "X_tt" in (ad.read_zarr(out) if kind == ".zarr" else ad.read_h5ad(out)).obsm


def test_a_figure_that_cannot_be_written_costs_no_table(run, source, fitted, tmp_path, monkeypatch):
    def full(*_):
        raise DiskFull("It could not be written.")

    fitted[0].save(tmp_path / "m.tt")
    monkeypatch.setattr("tripletomics.pl.save", full)
    out = tmp_path / "out.h5ad"
    given = run("predict", source, "--model", tmp_path / "m.tt", "--out", out, "--figure", tmp_path / "out.png")
    assert (given[0], given[2].splitlines()[-1]) == (1, f"error: It could not be written. {str(out)!r} was written.")
    assert "tt_label" in ad.read_h5ad(out).obs


def test_fit_draws_its_map(run, source, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("tripletomics.pl.save", lambda figure, path: drawn.append((figure.axes[0], path)))
    out, figure = tmp_path / "out.h5ad", tmp_path / "out.png"
    words = ["fit", source, "--label", "cell_type", "--steps", 2, "--out", out]
    status, said, error = run(*words, "--figure", figure)
    assert status == 0, error
    assert said.endswith(f"Wrote {out}, {figure}\n")
    ((ax, path),) = drawn
    held = (ad.read_h5ad(out).obs["tt_split"] == "held-out").sum()
    assert path == figure
    assert {len(one.get_offsets()) for one in ax.collections if one.get_label() == "held-out"} == {held}
    assert ax.get_title(loc="left") == "cell_type"
    for name, message in (("out.pdf", "does not end in .png"), (source, "does not end in .png")):
        status, _, error = run(*words, "--figure", tmp_path / name)
        assert (status, message in error) == (1, True)


@pytest.mark.parametrize("verb", ["fit", "transform", "predict"])
def test_a_disk_that_is_too_small_is_found_before_the_work(run, source, fitted, tmp_path, monkeypatch, verb):
    fitted[0].save(tmp_path / "m.tt")
    monkeypatch.setattr(tl, verb, None)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**5))
    more = ["--label", "cell_type"] if verb == "fit" else ["--model", tmp_path / "m.tt"]
    status, _, error = run(verb, source, "--out", tmp_path / "out.h5ad", *more)
    assert status == 1
    assert re.fullmatch(r"error: '.*out\.h5ad' takes up to .* MB, and the disk of .* has 100\.0 kB free: .*\n", error)
    assert "out.h5ad" not in files(tmp_path)


def test_warnings_are_tidy(run, source, tmp_path, monkeypatch):
    adata = ad.read_h5ad(source)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    adata.obs.iloc[0, adata.obs.columns.get_loc("cell_type")] = "only one"
    adata.write_h5ad(source)
    warnings.simplefilter("default")
    status, _, error = run("fit", source, "--label", "cell_type", "--out", tmp_path / "out.h5ad", "--steps", 2)
    assert status == 0
    assert re.fullmatch("warning: Types of one training cell: only one. .*\n", error)


# ---------------------------------------------------------------------------------------------------- losses

FAMILY = {name: cls for name, cls in losses.family().items() if cls.__module__.startswith("tripletomics.")}


@dataclasses.dataclass
class Toy:
    r"""Pull and push.

    .. math::
        L = \sum_i x_i
            + 1

    with :math:`x_i` a number and ``a b`` the rest, in a sentence that is longer than a line of 60 columns.

    Parameters
    ----------
    weight
        How much, in [0, 1], which takes so many words that they go on below.

        It may have a second paragraph.
    lo, hi
        The ``"band"``.

    Notes
    -----
    One.

    Two `three`.
    """

    weight: float
    lo: float = -0.5
    hi: float | None = None


TOY = r"""toy
weight, lo=-0.5, hi=none

Pull and push.

    L = \sum_i x_i
        + 1

with x_i a number and `a b` the rest, in a sentence that is
longer than a line of 60 columns.

Parameters
  weight  How much, in [0, 1], which takes so many words
          that they go on below. It may have a second
          paragraph.
  lo, hi  The "band".

Notes
  One.

  Two `three`.
"""


def test_losses_lists_the_family(run, monkeypatch):
    monkeypatch.setattr(losses, "family", lambda: FAMILY)
    status, out, error = run("losses")
    assert (status, error) == (0, "")
    said = " ".join(out.split())
    for name, cls in FAMILY.items():
        settings = ", ".join(f"{setting}={text}" for setting, text in parts.defaults(cls).items())
        assert f" {name} {cls.__doc__.splitlines()[0]} {settings or 'no settings'} " in said
        assert losses.spec(losses.make(f"{name}:{settings}" if settings else name)) == name
    assert [line for line in out.splitlines() if line.startswith("Losses ")] == [
        "Losses that compare a cell with learned points, one for each class: its proxies.",
        "Losses that compare each cell with its whole minibatch at once, by a softmax",
        "Losses with several learned points for each class, so that a type may keep its",
        "Losses of values that have an order, such as a day, a dose or an age.",
        "Losses that compare the cells of a minibatch in pairs and triplets.",
        "Losses that compare two views of the same cells, and need no label.",
    ]
    assert out.endswith(
        'Usage: --loss "triplet:margin=0.3"; a sum: --loss "softmax + 0.003*center".\n'
        "Without --loss, fit takes softmax, and simclr for cells without labels.\n"
        "tripletomics losses NAME explains a loss.\n"
    )


def test_losses_explains_one(run, monkeypatch):
    monkeypatch.setattr(losses, "family", lambda: {"toy": Toy})
    monkeypatch.setenv("COLUMNS", "60")
    assert run("losses", "toy") == (0, TOY, "")


@pytest.mark.parametrize("name", FAMILY)
def test_losses_loses_no_word(run, name):
    status, out, error = run("losses", name)
    assert (status, error) == (0, "")
    doc = inspect.getdoc(FAMILY[name]).partition("\n\nExamples\n")[0]  # which are Python
    doc = re.sub(r"^-+$|^\.\. math::|:math:|`", "", doc, flags=re.MULTILINE)
    settings = ",".join(f"{setting}={text}" for setting, text in parts.defaults(FAMILY[name]).items())
    said = "".join(out.split()).replace("`", "")
    assert said == "".join((name + (settings or "no settings") + doc).split())


@pytest.mark.parametrize(("columns", "width"), [(0, 40), (50, 50), (80, 80), (300, 100)])
def test_losses_fit_the_terminal(run, monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (["losses"], ["losses", "triplet"], ["losses", "softtriple"]):
        lines = run(*arguments)[1].splitlines()
        assert 0.7 * width < max(map(len, lines)) <= width
        assert width < 80 or all(line == line.rstrip() for line in lines)


def test_losses_of_an_unknown_name(run):
    known = ", ".join(losses.names())
    assert run("losses", "tripelt") == (
        1, "", f"error: --loss tripelt is not known. Did you mean 'triplet'? Known: {known}.\n",
    )  # fmt: skip
    assert run("losses", "triplet", "softmax")[0] == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_log_that_is_not_utf8_gets_question_marks(scored, monkeypatch, encoding):
    table, folder = scored
    log = folder / "log"
    with log.open("w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        cli.main(["predict", str(table), "--model", str(folder / "m.tt"), "--out", str(folder / "labels.h5ad")])
    assert f"\nb{'?' if encoding == 'ascii' else 'é'}\t" in log.read_text(encoding)


@pytest.mark.parametrize("command", [["evaluate", "--label", "kind", "--out", "scores.csv"],
                                     ["predict", "--model", "m.tt", "--out", "again.h5ad"]])  # fmt: skip
def test_nothing_is_lost_where_nobody_reads(scored, monkeypatch, command):
    table, folder = scored
    monkeypatch.chdir(folder)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as left:
            cli.main([command[0], str(table), *command[1:]])
    assert left.value.code == 1
    assert (folder / command[-1]).stat().st_size > 100


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    adata = make_cells(90, 0, types="abc", genes=40)
    adata.obs["kind"] = adata.obs["kind"].replace("b", "bé")
    tt.fit(adata, "kind", steps=2, hold_out=0.3, progress=False).save(folder / "m.tt")
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad", folder
