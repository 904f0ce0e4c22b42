"""`compare`: tripletomics and its alternatives, fitted and scored on the same training and held-out cells."""

from __future__ import annotations

import inspect
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from tripletomics.arguments import checking_names
from tripletomics.labels import UNLABELLED
from tripletomics.tl.progress import steps_bar

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.experiment.comparison import Comparison
    from tripletomics.tl.fitting import Labels, Parents
else:  # the command line reads these annotations
    AnnData = Comparison = object
    Labels, Parents = Sequence[str], str

METHODS = ("tt", "mlp", "umap_supervised", "lda", "umap", "umap_crossfit", "tsne", "tsne_crossfit", "pacmap", "pca2",
           "pca50")  # fmt: skip
READS = ("layer", "use_rep", "counts")


@checking_names
def compare(
    adata: AnnData,
    label: Labels,
    methods: Sequence[str] | None = None,
    *,
    parents: Parents | None = None,
    hold_out: float | str = 0.3,
    seeds: int = 3,
    batch: str | None = None,
    layer: str | None = None,
    use_rep: str | None = None,
    counts: bool | Literal["auto"] = "auto",
    unlabelled: Sequence[str] = UNLABELLED,
    fine: str | None = None,
    pseudotime: str | None = None,
    order: str | None = None,
    unseen: bool = False,
    device: str = "auto",
    cache: str | None = "auto",
    progress: bool = True,
) -> Comparison:
    """Compare tripletomics with other maps, and with permuted scores, on cells that none of them saw.

    Genes, scaling and principal components are chosen on the training cells, every method is fitted only on these,
    and the held-out cells are embedded. `adata` is not changed. With types on several levels, tripletomics is given
    all of them; the other methods that use labels are given the finest one, which not all cells may have.

    Parameters
    ----------
    adata
        Annotated cells in memory, as for `fit`.
    label
        Column of `obs` with the cell types; or several, from coarse to fine, as in `fit`. Other methods than
        tripletomics are given the finest ones; cells that are known coarsely are unlabelled for them.
    parents
        The parent of each name in `label` that has one, as in `fit`.
    methods
        Names of methods: "tt", "tt:loss=arcface,structure=0.2" with settings of `fit`, "mlp" (cross-entropy),
        "umap_supervised", "lda", "nca", "umap", "umap_crossfit", "tsne", "tsne_crossfit", "pacmap", "pca2", "pca50",
        "scanvi" and "parametric_umap". By default all are compared, except "nca" and the last two. t-SNE and PaCMAP
        come with the extra "compare". If it is not installed, a warning says what is left out. The last two
        need the extras "scanvi" and "parametric-umap".
    hold_out
        As in `fit`. A fraction is optimistic: held-out cells then come from the same donors as the training cells.
    seeds
        How many splits and fits, with the seeds 0, 1, ...
    batch
        Column of `obs` with the batches, such as donors or runs: balances the training of tripletomics, and adds the
        batch scores of scib-metrics (the extra "batch").
    layer
        Layer to use in place of `.X`.
    use_rep
        Key of `obsm` with an embedding to use in place of the genes, as in `fit`. All methods are given this embedding
        in place of principal components of genes, and the structure of the data is that of the embedding.
    counts
        Whether the values are counts, as in `fit`.
    unlabelled
        One or several names that mean unlabelled, in place of the default ones; on the command line, repeat the option
        for each. Upper or lower case and spaces around a name make no difference. Missing and blank values always mean
        unlabelled.
    fine
        Column of `obs` with finer types, which no method is given: do the maps keep them?
    pseudotime
        Column of `obs` with a number along a continuous process: do the maps keep its order?
    order
        Column of `obs` with an order, such as "day" or "phase:period=24", as in `fit`. It is scored how
        well the 15 nearest neighbours predict its values. Of the methods only "tt" learns from it.
    unseen
        Leave half of the types out of training and score their retrieval; leave out a type with a sibling and a
        distant type, and score how well these are distinguished from known types. It takes three times as long.
    device
        Device for tripletomics, as in `fit`.
    cache
        Folder that keeps every result with a hash of what it depends on, so that the next call computes only what
        changed: "auto" is one in the user's cache (2 GB at most), None keeps nothing.
    progress
        Show a progress bar in a terminal or notebook.

    Returns
    -------
    The comparison: ``table``, ``plot()``, ``save(folder)``, ``to_html(path)``, ``summary()``.

    Raises
    ------
    ImportError
        If the package of a method is not installed.
    KeyError
        If there is no such column, layer or embedding.
    TypeError
        If `adata` is not an AnnData in memory or holds no numbers.
    ValueError
        If a method is not known, or a value cannot be used.

    Examples
    --------
    >>> result = tt.compare(adata, label="cell_type", methods=["tt", "pca2"], seeds=1)
    >>> result
    <tripletomics.Comparison: 2 methods, seeds 0, ... cells>
    """
    import pandas as pd

    from tripletomics import evaluation, experiment, pp
    from tripletomics.experiment.comparison import Comparison, check_methods, copy_cells, installed
    from tripletomics.experiment.settings import parse_method
    from tripletomics.problem import Settings, as_text

    methods = check_methods(installed(METHODS) if methods is None else methods)
    given = {name: value for name, value in locals().items() if name in inspect.signature(compare).parameters}
    plan = {method: parse_method(method) for method in methods}
    pp.check_whole("seeds", seeds, 1)
    named = {name: given[name] for name in ("label", "parents", "order", "unlabelled")}
    others = {name: given[name] for name in ("batch", "fine", "pseudotime", "unseen", "device")}
    task = experiment.make_task(adata, named, reads={name: given[name] for name in READS}, **others)
    if "scanvi" in plan and not task.is_counts:
        held = "the matrix holds no counts: name a layer with counts."
        if use_rep is not None:
            held = f"use_rep={use_rep!r} gives all methods an embedding: leave one of the two out."
        raise ValueError(f"methods: 'scanvi' models counts, and {held}")
    results = experiment.open_cache(cache)
    splits = experiment.make_splits(task, hold_out, seeds)
    runs = experiment.run_all(splits, plan, results, steps_bar(len(splits) * len(plan), progress))
    settings = {name: as_text(value) for name, value in given.items() if name not in ("adata", "progress", "cache")}
    settings |= {"parents": Settings(parents=parents).as_text()["parents"], "methods": as_text(list(plan))}
    held_out = [split.held_out for split in splits]
    words = [evaluation.split_sentence(settings["hold_out"], held_out), *experiment.embedding_words(task, held_out)]
    adopted = [method for method, own in plan.items() if own is not None and own.get("map") is not None]
    words += [f"{method}: a map that was made of all cells has seen the held-out ones." for method in adopted]
    settings |= {"seeds": ", ".join(map(str, range(seeds))), "split": " ".join(words), "call": _call(given)}
    rows = experiment.tidy(runs)
    types = pd.Index(task.classes)
    first = {method: runs[method, 0] for method in plan}
    counted = {method: sum(runs[method, seed].confusion for seed in range(seeds)) for method in plan}
    machine = {"scanpy": version("scanpy"), "python": platform.python_version(), "cores": str(os.cpu_count())}
    return Comparison(
        adata=copy_cells(task, splits[0].held_out, first), label=task.label, methods=list(plan),
        table=evaluation.collect(rows, ["method", "space"]), runs=rows, settings=settings,
        versions=experiment.versions(list(plan)) | machine,
        confusions={method: pd.DataFrame(matrix, index=types, columns=types) for method, matrix in counted.items()},
        histories={method: run.history for method, run in first.items() if run.history},
    )  # fmt: skip


def _call(given: Mapping[str, Any]) -> str:
    """Return the call of `compare` with the arguments that are not the defaults; long ones are cut."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(compare).parameters.items()}
    own = [(name, repr(value)) for name, value in given.items() if name not in ("adata", "cache", "progress")]
    words = [
        f"{name}={text if len(text) <= 200 else text[:200] + '...'}"
        for name, text in own
        if text != repr(defaults[name])
    ]
    return f"tripletomics.compare({', '.join(['adata', *words])})"
