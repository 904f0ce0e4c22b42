"""Every public name has an example in its docstring, and the examples run."""

import doctest
import inspect
import warnings
from copy import copy
from types import FunctionType

import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData

import tripletomics as tt

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = {"tt": tt, "tt.pl": tt.pl, "tt.losses": tt.losses, "tt.datasets": tt.datasets, "tt.sklearn": tt.sklearn}


def public():
    """Names and what they stand for: those of `__all__`, and what a Model and a Comparison offer."""
    for module, home in MODULES.items():
        for name in home.__all__:
            value = getattr(home, name)
            if not inspect.ismodule(value):
                yield f"{module}.{name}", tt.pl if name == "PALETTE" else value
    for kind in (tt.Model, tt.Comparison):
        for name in sorted({name for base in kind.__mro__ for name in vars(base) if not name.startswith("_")}):
            value = inspect.getattr_static(kind, name)
            if isinstance(value, FunctionType | property):
                yield f"tt.{kind.__name__}.{name}", value.fget if isinstance(value, property) else value


PARSER = doctest.DocTestParser()
EXAMPLES = {name: PARSER.get_doctest(inspect.getdoc(value), {}, name, None, 0) for name, value in public()}
OF_LOSSES = {name for name in EXAMPLES if name.startswith("tt.losses.") and name != "tt.losses.Foreign"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_public_name_has_an_example(name):
    assert EXAMPLES[name].examples, f"{name}: add a section Examples to its docstring"


def run(names, scene, subtests):
    """Each with copies of its own of the cells and the model."""
    for name in names:
        example = EXAMPLES[name]
        example.globs = {
            key: value.copy() if isinstance(value, AnnData) else copy(value) for key, value in scene.items()
        }
        example.globs |= {"tt": tt, "np": np, "torch": torch}
        said = []
        with subtests.test(name), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
            assert not result.failed, "".join(said)


@pytest.mark.usefixtures("own_registry")
def test_examples_of_losses(subtests):
    run(OF_LOSSES, {}, subtests)


def test_examples(subtests, few_steps, tmp_path, monkeypatch, quick):
    """In one test, so that the fits that the examples take as given are made once."""
    monkeypatch.chdir(tmp_path)
    cells = tt.datasets.pbmc()
    adata, query = cells[:300].copy(), cells[600:].copy()
    model = tt.fit(adata, "cell_type", progress=False)
    sc.pp.pca(adata)
    result = tt.compare(adata, "cell_type", ["tt", "pca2"], seeds=1, progress=False)
    scene = {"adata": adata, "query": query, "model": model, "result": result}
    scene |= {"rna": quick.rna, "protein": quick.protein, "two": quick.model}
    run(EXAMPLES.keys() - OF_LOSSES, scene, subtests)
