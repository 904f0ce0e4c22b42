"""What the command line reads besides .h5ad, and what it writes besides a copy of the cells."""

import gzip
import importlib.util
import re
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from samples import make_cells, make_pair

import tripletomics as tt
from tripletomics.cli.columns import read_table
from tripletomics.cli.formats import read_text
from tripletomics.cli.inputs import Source, is_input
from tripletomics.cli.reading import compression_of, write
from tripletomics.notices import TripletomicsWarning

N, GENES = 60, 150
KIND = "Gene Expression"


@pytest.fixture(scope="module")
def cells():
    return make_cells(N, 4, "abch", GENES)


def write_table(cells, path, sep=",", transpose=False):
    table = pd.DataFrame(cells.X.toarray(), cells.obs_names, cells.var_names)
    (table.T if transpose else table).to_csv(path, sep=sep)


def write_folder(cells, path, names=("matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"), kinds=KIND):
    path.mkdir()

    def opened(name):
        return gzip.open(path / name, "wb") if name.endswith(".gz") else (path / name).open("wb")

    with opened(names[0]) as file:
        scipy.io.mmwrite(file, cells.X.T.tocoo())
    kinds = [kinds] * cells.n_vars if isinstance(kinds, str) else kinds
    genes = [f"ENS{i}\t{gene}\t{kind}\n" for i, (gene, kind) in enumerate(zip(cells.var_names, kinds, strict=True))]
    for name, lines in ((names[1], genes), (names[2], [f"{name}\n" for name in cells.obs_names])):
        with opened(name) as file:
            file.write("".join(lines).encode())


def write_10x(cells, path):
    with h5py.File(path, "w") as file:
        group, x = file.create_group("matrix"), cells.X
        for name, values in {"data": x.data.astype("i4"), "indices": x.indices, "indptr": x.indptr}.items():
            group.create_dataset(name, data=values, compression="gzip", compression_opts=4)
        group["shape"], group["barcodes"] = x.shape[::-1], cells.obs_names.to_numpy().astype("S")
        genes = {"id": [f"ENS{i}" for i in range(cells.n_vars)], "name": list(cells.var_names),
                 "feature_type": [KIND] * cells.n_vars}  # fmt: skip
        for name, values in genes.items():
            group[f"features/{name}"] = np.array(values, "S")


WRITERS = {
    "cells.csv": write_table,
    "cells.tsv.gz": lambda cells, path: write_table(cells, path, "\t", transpose=True),
    "cells.txt": lambda cells, path: write_table(cells, path, " "),
    "cellranger": write_folder,
    "starsolo": lambda cells, path: write_folder(cells, path, ("matrix.mtx", "features.tsv", "barcodes.tsv")),
    "gse_1": lambda cells, path: write_folder(cells, path, ("a_matrix.mtx", "a_genes.tsv", "a_barcodes.tsv.gz")),
    "cells.h5": write_10x,
    "cells.loom": lambda cells, path: cells.copy().write_loom(path),
}


@pytest.fixture
def folder(trained, cells, tmp_path, monkeypatch):
    """A model, and new cells."""
    monkeypatch.chdir(tmp_path)
    trained[0].save("model.tt")
    cells.write_h5ad("cells.h5ad")
    cells.obs[["kind"]].to_csv("labels.csv")
    return tmp_path


def predicted(run, name, *options):
    status, _, error = run("predict", name, "--model", "model.tt", "--only-results", "found.csv", *options)
    assert status == 0
    assert error.endswith("Wrote found.csv\n")
    assert "warning:" not in error
    return Path("found.csv").read_bytes()


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_labels_to_the_bit(run, folder, cells, name):
    if name.endswith(".loom"):
        pytest.importorskip("loompy")
        cells = cells[:, :].copy()
        cells.obs_names.name, cells.var_names.name = "CellID", "Gene"
    WRITERS[name](cells, folder / name)
    options = ["--transpose"] if "tsv" in name else []
    assert predicted(run, name, *options) == predicted(run, "cells.h5ad")
    assert is_input(name)


def test_a_table_has_the_results_of_python_and_nothing_else(run, folder, trained):
    expected = ad.read_h5ad("cells.h5ad")
    tt.predict(expected, trained[0], groups="kind")
    status, _, said = run("predict", "cells.h5ad", "--model", "model.tt", "--groups", "kind", "--only-results", "a.tsv")
    assert status == 0
    assert said.endswith("Wrote a.tsv\n")
    found = pd.read_csv("a.tsv", sep="\t", keep_default_na=False, index_col="cell", float_precision="round_trip")
    columns = [name for name in expected.obs if name.startswith("tt_")]
    assert list(found) == [*columns, "X_tt_1", "X_tt_2"]
    assert list(found.index) == list(expected.obs_names)
    for name in columns:
        assert found[name].tolist() == expected.obs[name].astype(object).fillna("").tolist(), name
    assert np.array_equal(found[["X_tt_1", "X_tt_2"]].to_numpy(np.float32), expected.obsm["X_tt"])


@pytest.mark.parametrize("verb", ["predict", "transform"])
def test_a_table_is_the_same_from_disk(run, folder, monkeypatch, verb):
    cells = ad.read_h5ad("cells.h5ad")
    cells.write_zarr("cells.zarr")
    command = verb, "cells.h5ad", "--model", "model.tt", "--only-results"
    for name in ("memory.csv", "disk.csv"):
        assert run(*command, name)[0] == 0
        monkeypatch.setattr("tripletomics.tl.paths.is_large", lambda *_: True)
    assert run(verb, "cells.zarr", *command[2:], "store.csv")[0] == 0
    one, *others = ((folder / f"{name}.csv").read_bytes() for name in ("memory", "disk", "store"))
    assert others == [one, one]
    assert list(ad.read_zarr("cells.zarr").obs) == ["kind"]


def test_names_in_a_table_are_no_formulas(run, folder):
    cells = ad.read_h5ad("cells.h5ad")
    cells.obs_names = [f"=cmd{i}" for i in range(N)]
    cells.write_h5ad("cells.h5ad")
    assert predicted(run, "cells.h5ad").splitlines()[1].startswith(b"'=cmd0,")


def test_a_table_may_be_parquet(run, folder):
    pytest.importorskip("pyarrow")
    predicted(run, "cells.h5ad")
    assert run("predict", "cells.h5ad", "--model", "model.tt", "--only-results", "a.parquet")[0] == 0
    found = pd.read_parquet("a.parquet")
    expected = pd.read_csv("found.csv", na_filter=False, float_precision="round_trip")
    found = found.astype({"tt_label": str, "tt_split": object, "X_tt_1": str, "X_tt_2": str}).fillna("")
    pd.testing.assert_frame_equal(found, expected.astype({"X_tt_1": str, "X_tt_2": str}), check_categorical=False)


# ---------------------------------------------------------------------------------------------------- fit


def test_fit_writes_the_model_alone_or_a_table(run, folder, monkeypatch):
    words = ["fit", "cells.h5ad", "--label", "kind", "--steps", 2]
    assert run(*words, "--model", "a.tt", "--only-results", "a.csv")[1].endswith("Wrote a.csv, a.tt\n")
    monkeypatch.setattr("tripletomics.tl.paths.is_large", lambda *_: True)
    before = (folder / "cells.h5ad").read_bytes()
    assert run(*words, "--model", "b.tt")[1].endswith("Wrote b.tt\n")
    assert run(*words, "--only-results", "c.csv")[1].endswith("Wrote c.csv\n")
    assert (folder / "cells.h5ad").read_bytes() == before
    assert list(pd.read_csv("a.csv")) == ["cell", "tt_split", "X_tt_1", "X_tt_2"]
    assert (folder / "a.csv").read_bytes() == (folder / "c.csv").read_bytes()
    assert tt.load("a.tt").scores == tt.load("b.tt").scores


def test_labels_come_from_a_table_by_name(run, folder, cells, monkeypatch):
    monkeypatch.setattr("tripletomics.tl.paths.is_large", lambda *_: True)  # only .h5ad files are large
    write_folder(cells, folder / "raw")
    labels = cells.obs[["kind"]].iloc[::-1].iloc[:-5]
    labels = pd.concat([labels, pd.DataFrame({"kind": ["x", "y"]}, index=["other", "another"])])
    labels.assign(cluster=np.arange(len(labels)) % 3).to_csv("some.tsv", sep="\t")
    given = ["--obs", "some.tsv", "--steps", 2, "--out", "map.h5ad"]
    status, _, error = run("fit", "--label", "cluster", "raw", *given)
    assert status == 0
    assert error == (
        "warning: 5 of 60 cells have no row in 'some.tsv' and are unlabelled. 2 of its 57 rows belong to no cell and "
        "are left out.\n"
    )
    found = ad.read_h5ad("map.h5ad").obs
    assert found["kind"].isna().tolist() == [True] * 5 + [False] * 55
    assert found["kind"][5:].tolist() == cells.obs["kind"][5:].tolist()
    assert {*found["cluster"].dropna().astype(str)} == {"0", "1", "2"}  # not 1.0


def test_a_table_of_labels_is_read_in_every_way(folder, tmp_path):
    (tmp_path / "a.csv").write_bytes("﻿cell;kind\n007;a\n8;b\n".encode())
    (tmp_path / "b.txt").write_text('"kind" "day"\n"007" "a" 1\n"8" "b" 2\n')  # as R writes it
    assert read_table(tmp_path / "a.csv")["kind"].to_dict() == {"007": "a", "8": "b"}
    assert read_table(tmp_path / "b.txt").to_dict() == {"kind": {"007": "a", "8": "b"}, "day": {"007": 1, "8": 2}}


def test_what_a_table_lost_in_other_programs_is_there(tmp_path):
    """Labels that are numbers keep their text, other numbers are numbers, and quotes that tables are given go."""
    path = tmp_path / "a.csv"
    rows = [f"{name},{i % 3:02},{value},{i / 4}" for i, (name, value) in enumerate(zip("abcd", "1234", strict=True))]
    path.write_text("cell,kind,'=n,share\n'=x,0,,\n" + "\n".join(rows))
    found = read_table(path, lambda columns: ["kind", "share"])
    assert found["kind"].tolist() == ["0", "00", "01", "02", "00"]
    assert found["share"].dtype == float  # no names
    assert found["=n"].tolist()[1:] == [1, 2, 3, 4]
    assert found.index[0] == "=x"


def test_columns_of_a_table_can_be_written(folder, cells):
    names = cells.obs_names
    table = pd.DataFrame({"yes": [True, None] * 30, "whole": [1, None] * 30, "all": True, "day": "d"}, index=names)
    table.iloc[:-1].to_csv("some.csv")
    with pytest.warns(TripletomicsWarning) as said:
        found = Source(Path("cells.h5ad"), obs=Path("some.csv")).read()
    assert [str(one.message) for one in said] == ["1 of 60 cells have no row in 'some.csv' and are unlabelled."]
    found.write_h5ad("map.h5ad")
    written = ad.read_h5ad("map.h5ad").obs
    assert [*map(str, written.dtypes[["yes", "whole", "all"]])] == ["boolean", "Int64", "boolean"]
    assert written["yes"].isna().sum() == 30
    table.assign(kind="other").to_csv("some.csv")
    with pytest.warns(
        TripletomicsWarning, match=r"^'some\.csv' replaces columns of obs that hold something else: kind\."
    ):
        Source(Path("cells.h5ad"), obs=Path("some.csv")).read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cell,kind,batch\nx,a,0,\n", "its first row has 3 fields and the next one 4, of which the last is empty"),
        ("cell,kind,batch\nx,a,0,1\n", "its first row has 3 fields and the next one 4: give both the same number"),
        ("cell,kind,\nx,a,\n", "its first row has no name for column 3"),
        ("cell,kind,day\nx,a,1\ny,b\n", r"row 3 \(y\) has 1 values, and the first row has 2 names for them"),
        ("cell,kind,kind\nx,a,b\n", "it has more than one column 'kind'"),
        ("cell,_index\nx,a\n", "its column '_index' has a name that .h5ad keeps for itself"),
        ("# made today\ncell,kind\nx,a\n", "its first row is a comment"),
    ],
)
def test_a_table_of_labels_that_is_not_clear_is_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["fit", "cells.h5ad", "--label", "kind", "--parents", "a.csv", "--only-results", "a.csv"], "--only-results"),
        (["fit", "cells.h5ad", "--map", "a.csv", "--only-results", "./a.csv"], "--only-results"),
        (["fit", "cells.h5ad", "--init", "model.tt", "--model", "model.tt"], "--model"),
        (["fit", "raw", "--only-results", "raw/barcodes.tsv"], "--only-results"),
        (["transform", "raw", "--model", "model.tt", "--only-results", "raw/barcodes.tsv"], "--only-results"),
        (["compare", "c/table.csv", "--label", "kind", "--obs", "labels.csv", "--out", "c"], "--out"),
        (["evaluate", "a.csv", "--label", "kind", "--out", "a.csv"], "--out"),
        (["relate", "a.csv", "cells.h5ad", "--model", "model.tt", "--label-a", "kind", "--label-b", "kind", "--out",
          "a.csv"], "--out"),
    ],
)  # fmt: skip
def test_what_is_read_is_not_overwritten(run, folder, cells, words, option):
    (folder / "c").mkdir()
    for name in ("a.csv", "c/table.csv"):
        write_table(cells, name)
    write_folder(cells, folder / "raw", ("matrix.mtx", "features.tsv", "barcodes.tsv"))
    path = words[words.index(option) + 1] + "/table.csv" * (words[0] == "compare")
    before = Path(path).read_bytes()
    assert run(*words)[:2] == (1, "")
    assert run(*words)[2] == f"error: {option} {str(Path(path))!r} is also read: name another file.\n"
    assert Path(path).read_bytes() == before


# ---------------------------------------------------------------------------------------------------- formats


def test_features_that_are_no_genes_are_left_out_and_repeated_names_told_apart(folder, cells):
    some = cells[:, :6].copy()
    some.var_names = ["A", "B", "A", "A", "P", "Q"]
    write_folder(some, folder / "raw", kinds=[KIND] * 4 + ["Antibody Capture"] * 2)
    with pytest.warns(TripletomicsWarning) as said:
        found = Source(folder / "raw").read()
    assert list(found.var_names) == ["A", "B", "A-1", "A-2"]
    assert [str(one.message) for one in said if one.category is TripletomicsWarning] == [
        f"{str(folder / 'raw')!r} has features that are not genes, and they are left out: 2 Antibody Capture.",
        f"{str(folder / 'raw')!r} has names of genes more than once: A. Each repetition gets -1, -2, ... at its end, "
        "as in scanpy.",
    ]
    assert np.array_equal(found.X.toarray(), some.X.toarray()[:, :4])


def test_a_table_of_text_is_read_as_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('cell,g1,"g,2"\nc1,1.5,\n\n"c,2",NA,-2e3\n')
    found = read_text(path)
    np.testing.assert_array_equal(found.X, np.array([[1.5, np.nan], [np.nan, -2000]], np.float32))
    assert [list(found.obs_names), list(found.var_names)] == [["c1", "c,2"], ["g1", "g,2"]]
    path.write_text("g1\tg2\nc1\t0\t3\n")  # as R writes it
    assert [list(read_text(path).obs_names), list(read_text(path).var_names)] == [["c1"], ["g1", "g2"]]
    path.write_text("gene,7,8\n100,0,3\n101,0,0\n102,0,0\n")  # names that are numbers
    found = read_text(path, transpose=True)
    assert found.X.format == "csr"
    assert [list(found.obs_names), list(found.var_names)] == [["7", "8"], ["100", "101", "102"]]


def test_what_a_table_is_shows_in_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(b"cell,g1\nc1,2\n"))  # without .gz in its name
    assert read_text(path).X.tolist() == [[2]]
    path.write_text("c1,1,2\nc2,3,4\n")
    with pytest.warns(TripletomicsWarning, match=r"holds numbers \(1, 2\), and they are taken for names of columns"):
        read_text(path)


def test_large_tables_are_read_in_blocks(tmp_path, monkeypatch, cells):
    write_table(cells, tmp_path / "a.csv")
    monkeypatch.setattr("tripletomics.cli.formats.AT_ONCE", 7)
    assert np.array_equal(read_text(tmp_path / "a.csv").X, cells.X.toarray())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "cannot be read as a table: it is empty"),
        ("a.csv", "cell,g1\n", "it has one row only, and this must hold the names of the columns: add the rows"),
        ("a.csv", "cells\n", "its first row has one name: separate columns by commas or tabs"),
        ("a.csv", "c1,1,0,0\nc2,0,1,2\n", "its first row holds numbers, and it must hold the names of the columns"),
        ("a.csv", "c1,0.5,1\nc2,0,1\n", "its first row holds numbers"),
        ("a.csv", "cell,g1,g2\nc1,1,2\nc2,high,3\n", r"'high' in row 3 \(c2\), column 'g1', is not a number"),
        ("a.csv", "cell,g1,g2\nc1,1,2\nc2,1\n", r"row 3 \(c2\) has 1 values, and the first row has 2 names for them"),
        ("a.csv", "cell,g1,g2\nc1,1,2\nc2,1,2,3\n", r"row 3 \(c2\) has 3 values"),
        ("a.csv", "cell,g1\nc1,1\nc1,1\n", "its first column names the cells, and has these names more than once: c1"),
        ("a.csv", "cell,g1,g1\nc1,1,2\nc2,0,2\n", "1 gene name occurs more than once"),
        ("a.csv", "cell,g1,g2\nc1,1,2,\nc2,1,2,\n", "its first row has 3 fields and the next one 4, of which the last"),
        ("a.csv", "cell,g1,\nc1,1,2\n", "its first row has no name for column 3: write one"),
        ("a.csv", "cell,g1\nc1,1e39\n", r"'1e39' in row 2 \(c1\), column 'g1', is infinite or larger than 3.4e"),
        ("a.csv", "# of today\ncell,g1\nc1,1\n", "its first row is a comment, and it must name the columns"),
        ("a.csv", "cell,g1\nc1,1\n".encode("utf-16"), "it is not text in UTF-8: save it as 'CSV UTF-8'"),
        ("a.csv.gz", "cell,g1\nc1,1\n", "cannot be read as a table: Not a gzipped file"),
        (
            "a.xlsx",
            "cell,g1\nc1,1\n",
            r"does not say what it holds: cells are read from \.h5ad, \.h5mu, \.h5 \(of 10x\)",
        ),
        ("a.h5", "text", "is not an .h5 file: copy it again"),
        ("no.csv", None, r"There is no file 'no\.csv'"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(run, folder, name, content, message):
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(folder.iterdir())
    status, said, error = run("fit", name, "--obs", "labels.csv", "--label", "kind", "--out", "map.h5ad")
    if "gene name" in message:
        status, said, error = run("fit", name, "--out", "map.h5ad")
    assert (status, said) == (1, "")
    assert re.fullmatch(f"error: .*{message}.*\n", error), error
    assert sorted(folder.iterdir()) == before


def lacking_features(folder, cells):
    write_folder(cells, folder / "bad")
    (folder / "bad" / "features.tsv.gz").unlink()


def with_two_features(folder, cells):
    write_folder(cells, folder / "bad")
    (folder / "bad" / "genes.tsv").touch()


def with_empty_features(folder, cells):
    write_folder(cells, folder / "bad", ("matrix.mtx", "features.tsv", "barcodes.tsv"))
    (folder / "bad" / "features.tsv").write_text("")


def of_other_cells(folder, cells):
    write_folder(cells, folder / "bad")
    with gzip.open(folder / "bad" / "barcodes.tsv.gz", "ab") as file:
        file.write(b"more\n")


def two_matrices(folder, cells):
    write_folder(cells, folder / "bad")
    (folder / "bad" / "b_matrix.mtx").touch()


def renamed(folder, cells):
    cells.write_h5ad(folder / "bad")


def foreign(folder, _):
    with h5py.File(folder / "bad", "w") as file:
        file["values"] = [1]


def damaged(folder, cells):
    write_10x(cells, folder / "bad")
    with h5py.File(folder / "bad", "a") as file:
        file["matrix/indices"][3] = 9999


@pytest.mark.parametrize(
    ("ending", "write", "message"),
    [
        (
            "",
            lacking_features,
            r"has matrix\.mtx\.gz but no features\.tsv or genes\.tsv \(or \.gz\), which names its gen",
        ),
        ("", with_two_features, r"has features\.tsv\.gz and genes\.tsv: keep the one that belongs to matrix\.mtx\.gz"),
        ("", with_empty_features, r"cannot be read as a folder of 10x: features\.tsv is empty: copy it again"),
        ("", of_other_cells, r"has 150 genes and 60 cells, but features\.tsv\.gz names 150 and barcodes\.tsv\.gz 61"),
        ("", two_matrices, r"is a folder with 2 matrices \(b_matrix\.mtx, matrix\.mtx\.gz\)"),
        ("", lambda folder, _: (folder / "bad").mkdir(), r"is a folder with no matrix\.mtx or matrix\.mtx\.gz"),
        (".h5", renamed, r"holds AnnData: rename it 'bad\.h5ad'"),
        (".h5", foreign, "is an HDF5 file but not one of 10x, which has barcodes in a group 'matrix': it holds values"),
        (".h5", damaged, "cannot be read as .h5 of 10x: its indices run from 0 to 9,999, beyond 0 to 149"),
        (".loom", foreign, r"is an HDF5 file but not an \.loom file: it lacks col_attrs and matrix and row_attrs"),
    ],
)
def test_a_file_of_another_kind_is_refused(run, folder, cells, monkeypatch, ending, write, message):
    monkeypatch.setattr("tripletomics.files.PACKAGES", {})
    write(folder, cells)
    (folder / "bad").rename(folder / f"bad{ending}")
    before = sorted(folder.iterdir())
    status, said, error = run("fit", f"bad{ending}", "--out", "map.h5ad")
    assert (status, said) == (1, "")
    assert re.fullmatch(f"error: .*{message}.*\n", error), error
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--obs", "no.csv"], 1, r"There is no file 'no\.csv'\."),
        (["--obs", "cells.h5ad"], 1, r"'cells\.h5ad' ends in none of \.csv, \.tsv, \.txt, \.parquet: .*"),
        (["--obs", "other.csv"], 1, r"No cell of 'cells\.h5ad' \(cell 0 of 4, .* and 57 more\) has a row in "
                                    r"'other\.csv' \(x, y\): write the names of the cells in its first column, .*"),
        (["--obs", "twice.csv"], 1, r"'twice\.csv' has more than one row for these cells: x\. Keep one for each\."),
        (["--obs", "bare.csv"], 1, r"'bare\.csv' cannot be read as a table: its first row has one name: .*"),
        (["--transpose"], 1, r"--transpose is for tables \(\.csv, \.tsv, \.txt\), and 'cells\.h5ad' is none: .*"),
        (["--only-results", "a.csv"], 1, "--only-results is written in place of the file of --out: leave one .*"),
    ],
)  # fmt: skip
def test_options_about_files_are_refused(run, folder, arguments, status, message):
    (folder / "other.csv").write_text("cell,kind\nx,a\ny,b\n")
    (folder / "twice.csv").write_text("cell,kind\nx,a\nx,b\n")
    (folder / "bare.csv").write_text("cell\nx\n")
    before = sorted(folder.iterdir())
    found = run("fit", "cells.h5ad", "--label", "kind", "--out", "map.h5ad", *arguments)
    assert found[:2] == (status, "")
    assert re.fullmatch(f"error: {message}\n", found[2]), found[2]
    assert sorted(folder.iterdir()) == before


def test_results_that_have_no_file_are_refused(run, folder, monkeypatch):
    for words, message in (
        (["fit", "cells.h5ad"], "or pass --model for the model alone, or --only-results for a table."),
        (["transform", "cells.h5ad", "--model", "model.tt"], "or pass --only-results."),
        (["predict", "cells.h5ad", "--model", "model.tt"], "or pass --only-results."),
    ):
        assert run(*words) == (2, "", f"error: --out is missing: name the file to write, .h5ad, {message}\n")
    words = ["predict", "cells.h5ad", "--model", "model.tt"]
    assert run(*words, "--only-results", "a.xlsx")[2] == (
        "error: 'a.xlsx' does not end in .csv, .tsv or .parquet: name the file 'a.csv'.\n"
    )
    assert run(*words, "--only-results", "p.csv.gz")[2].endswith("name the file 'p.csv'.\n")
    message = "error: --only-results 'labels.csv' is also read: name another file.\n"
    assert run(*words, "--obs", "labels.csv", "--only-results", "labels.csv") == (1, "", message)
    for option, value in (("--only-results", "a.csv"), ("--obs", "labels.csv")):
        message = f"error: --shard writes next to INPUT: leave {option} out.\n"
        assert run(*words, "--shard", "1/2", option, value) == (1, "", message)
    monkeypatch.setattr("tripletomics.tl.paths.is_large", lambda *_: True)
    error = run(*words, "--obs", "labels.csv", "--out", "a.h5ad")[2]
    assert error.startswith(
        "error: 'cells.h5ad' is so large that it is read block by block, and --obs adds to cells in"
    )


def test_packages_that_are_missing_are_named_in_one_message(run, folder, monkeypatch):
    for name in ("cells.loom", "labels.parquet"):
        (folder / name).touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    for words, message in (
        (["fit", "cells.loom", "--obs", "labels.parquet", "--model", "a.tt"],
         "'cells.loom' and 'labels.parquet' cannot be used without loompy and pyarrow: pip install loompy pyarrow"),
        (["predict", "cells.h5ad", "--model", "model.tt", "--only-results", "a.parquet"],
         "'a.parquet' cannot be used without pyarrow: pip install pyarrow"),
    ):  # fmt: skip
        assert run(*words) == (1, "", f"error: {message}\n")


def test_a_table_that_lies_the_other_way_is_told_by_its_labels(run, folder, cells):
    write_table(cells, "rows.csv")
    write_table(cells, "columns.csv", transpose=True)
    for words, cure in ((["columns.csv"], "pass"), (["rows.csv", "--transpose"], "leave out")):
        status, _, error = run("fit", *words, "--obs", "labels.csv", "--label", "kind", "--model", "a.tt")
        assert (status, error.endswith(f": its names are those of genes there, so {cure} --transpose.\n")) == (1, True)


# ---------------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize(("kind", "level"), [("gzip", 6), ("lzf", None), (None, None)])
@pytest.mark.parametrize("large", [False, True])
def test_cells_stay_as_compressed_as_they_were(run, folder, cells, monkeypatch, kind, level, large):
    cells.write_h5ad("cells.h5ad", compression=kind, compression_opts=level)
    monkeypatch.setattr("tripletomics.tl.paths.is_large", lambda *_: large)
    assert run("transform", "cells.h5ad", "--model", "model.tt", "--out", "map.h5ad")[0] == 0
    with h5py.File("map.h5ad") as file:
        x = file["X/data"]
        assert (x.compression, x.compression_opts) == (kind, level)
        assert "X_tt" in file["obsm"]


def test_compression_is_that_of_the_largest_array(folder, cells):
    write_10x(cells, folder / "a.h5")
    assert compression_of(folder / "a.h5") == {"compression": "gzip", "compression_opts": 4}
    dense = ad.AnnData(None, obs=cells.obs, layers={"counts": cells.X.toarray()})
    dense.write_h5ad("b.h5ad", compression="lzf")
    assert compression_of(folder / "b.h5ad") == {"compression": "lzf", "compression_opts": None}
    for name in ("labels.csv", "model.tt"):
        assert compression_of(folder / name) == {}
    assert compression_of(folder) == {}


def test_two_modalities_are_read_from_two_formats_and_stay_compressed(folder):
    pytest.importorskip("mudata")
    rna, protein = make_pair(30)
    rna.write_h5ad("rna.h5ad", compression="gzip", compression_opts=7)
    write_table(ad.AnnData(sp.csr_matrix(protein.X), protein.obs, protein.var), "adt.csv", transpose=True)
    found = Source(Path("rna.h5ad"), protein=Path("adt.csv"), transpose=True).read()
    assert np.array_equal(found["rna"].X.toarray(), rna.X.toarray())
    assert np.array_equal(found["protein"].X, protein.X)
    write(found, Path("both.h5mu"), Path("rna.h5ad"))
    assert compression_of(Path("both.h5mu")) == {"compression": "gzip", "compression_opts": 7}
