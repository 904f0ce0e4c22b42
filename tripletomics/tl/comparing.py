"""`compare`: tripletomics and its alternatives, fitted on the same training cells and scored on the same others."""

from __future__ import annotations

import importlib.util
import inspect
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tripletomics.labels import UNLABELLED
from tripletomics.parts import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from tripletomics.experiment import EvaluationTask, Result
    from tripletomics.pl.maps import Figure
    from tripletomics.training import History
else:  # the command line reads these annotations
    AnnData = object

METHODS = ("tt", "mlp", "umap_supervised", "lda", "umap", "umap_crossfit", "tsne", "tsne_crossfit", "pacmap", "pca2",
           "pca50")  # fmt: skip
EXTRAS = {"scanvi": ("scvi", "scanvi"), "parametric_umap": ("tensorflow", "parametric-umap")}


@dataclass(frozen=True, repr=False)
class Comparison:
    """The result of `tripletomics.compare`: scores, maps and figures.

    Attributes
    ----------
    adata
        The cells, with the split in ``obs["tt_split"]`` and a map per method in ``obsm["X_<method>"]``, of the first
        seed.
    label
        Column of ``obs`` with the types.
    methods
        As they were asked for.
    titles
        The names of methods in figures.
    table
        One row a number: method, space, metric, type, split ("train", "held-out", "permuted", or "" for what is of
        all cells), value (mean over seeds), sd, n_seeds, family, label_circular, null (how it was made).
    runs
        The same of each seed, with the column seed.
    confusions
        For each method true by predicted types of held-out cells, counts over all seeds.
    histories
        Training curves of the first seed, for tripletomics.
    settings, versions
        As text.
    """

    adata: AnnData
    label: str
    methods: list[str]
    titles: dict[str, str]
    table: pd.DataFrame
    runs: pd.DataFrame
    confusions: dict[str, pd.DataFrame]
    histories: dict[str, History]
    settings: dict[str, str]
    versions: dict[str, str]

    def __repr__(self) -> str:
        """Return a line on what was compared."""
        seeds = self.settings["seeds"]
        return f"<tripletomics.Comparison: {len(self.methods)} methods, seeds {seeds}, {self.adata.n_obs} cells>"

    def summary(self) -> str:
        """Return in words what the held-out cells show, for each method and space, and how they were held out."""
        from tripletomics.evaluation import headline, verdicts

        lines = "\n".join(verdicts(self.table, "method"))
        return "\n\n".join(filter(None, [headline(self.table, self.titles), lines, self.settings["split"]]))

    def plot(self, color: str | None = None, *, width: float = 7.1) -> Figure:
        """Draw the maps side by side, with held-out cells marked, and below them held-out minus permuted scores.

        Parameters
        ----------
        color
            Column of ``obs`` or gene; by default the types.
        width
            Of the figure in inches: 7.1 is a page, 3.5 a column.
        """
        from tripletomics import pl

        bases = [f"X_{method}" for method in self.methods if f"X_{method}" in self.adata.obsm]
        if not bases:
            return pl.scores(self.table, titles=self.titles, width=width)
        return pl.compare(
            self.adata, color or self.label, bases=bases, table=self.table, titles=self.titles, width=width
        )

    def save(self, folder: str | Path) -> None:
        """Write figures, tables, settings and a methods text for a paper to a folder, which is created.

        The files are the figure at page and column width (PDF and PNG), the table (CSV; its main scores in Markdown and
        LaTeX), the settings and versions (JSON), and a paragraph for the methods section with its references
        (Markdown). Empty fields of the CSV mean "of all cells" or "of no single type", which pandas reads as missing.
        """
        from tripletomics.report import paper

        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{str(folder)!r} is a file: name a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        paper.write(
            folder, figures={"figure": self.plot(), "figure-column": self.plot(width=3.5)}, table=self.table,
            methods=self.methods, titles=self.titles, settings=self.settings, versions=self.versions,
        )  # fmt: skip

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page with linked maps, scores, confusion and settings, which opens from disk."""
        from tripletomics import report

        report.write(
            path, adata=self.adata, label=self.label, methods=self.methods, titles=self.titles, table=self.table,
            confusions=self.confusions, histories=self.histories, settings=self.settings, versions=self.versions,
            summary=self.summary(),
        )  # fmt: skip


def compare(
    adata: AnnData,
    label: str,
    methods: Sequence[str] = METHODS,
    *,
    hold_out: float | str = 0.3,
    seeds: int = 3,
    batch: str | None = None,
    layer: str | None = None,
    counts: bool | Literal["auto"] = "auto",
    unlabelled: Sequence[str] = UNLABELLED,
    fine: str | None = None,
    pseudotime: str | None = None,
    unseen: bool = False,
    device: str = "auto",
    cache: str | None = "auto",
    progress: bool = True,
) -> Comparison:
    """Compare tripletomics with other maps on cells that none of them saw, each next to its null.

    Genes, scaling and principal components are chosen on the training cells, every method is fitted on them alone, and
    the held-out cells are projected. `adata` is not changed.

    Parameters
    ----------
    adata
        Annotated cells in memory, as for `fit`.
    label
        Column of `obs` with the cell types.
    methods
        Names of methods: "tt", "tt:loss=arcface,structure=0.2" with settings of `fit`, "mlp" (cross-entropy),
        "umap_supervised", "lda", "nca", "umap", "tsne", "pacmap", "pca2", "pca50", and if installed "scanvi" and
        "parametric_umap".
    hold_out
        As in `fit`. A fraction is optimistic: held-out cells then come from the same donors as the training cells.
    seeds
        How many splits and fits, with the seeds 0, 1, ...
    batch
        Column of `obs` with donors or runs: balances the training of tripletomics, and adds the batch scores of
        scib-metrics (the extra "batch").
    layer
        Layer to use in place of `.X`.
    counts
        Whether the values are counts, as in `fit`.
    unlabelled
        One or several names that mean unlabelled, in place of the default ones; upper or lower case and spaces around
        them do not matter. Missing and blank values always mean unlabelled.
    fine
        Column of `obs` with finer types, which no method is given: do the maps keep them?
    pseudotime
        Column of `obs` with a number along a continuous process: do the maps keep its order?
    unseen
        Leave half of the types out of training and score their retrieval; leave out one with a sibling and a distant
        one and score how they are told from known types. Three times as long.
    device
        Of tripletomics, as in `fit`.
    cache
        Folder that keeps every result under the content that it follows from, so that the next call computes only what
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
        If there is no such column or layer.
    TypeError
        If `adata` is not an AnnData in memory or holds no numbers.
    ValueError
        If a method is not known, or a value cannot be used.
    """
    import pandas as pd

    from tripletomics import evaluation, experiment, pp
    from tripletomics.problem import as_text
    from tripletomics.tl.progress import steps_bar
    from tripletomics.tl.settings import parse_method

    given = {name: value for name, value in locals().items() if name in inspect.signature(compare).parameters}
    plan = {method: parse_method(method) for method in _check_methods(methods)}
    pp.check_whole("seeds", seeds, 1)
    task = experiment.make_task(
        adata, label, batch=batch, layer=layer, counts=counts, unlabelled=unlabelled, fine=fine, pseudotime=pseudotime,
        unseen=unseen, device=device,
    )  # fmt: skip
    if "scanvi" in plan and not task.is_counts:
        raise ValueError("methods: 'scanvi' models counts, and the matrix holds none: name a layer with counts.")
    results = experiment.open_cache(cache)
    splits = experiment.make_splits(task, hold_out, seeds)
    runs = experiment.run_all(splits, plan, results, steps_bar(len(splits) * len(plan), progress))
    settings = {name: as_text(value) for name, value in given.items() if name not in ("adata", "progress", "cache")}
    settings["seeds"] = ", ".join(map(str, range(seeds)))
    settings["split"] = evaluation.split_sentence(settings["hold_out"], [split.held_out for split in splits])
    rows = experiment.tidy(runs)
    types = pd.Index(task.classes)
    first = {method: runs[method, 0] for method in plan}
    counted = {method: sum(runs[method, seed].confusion for seed in range(seeds)) for method in plan}
    machine = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    return Comparison(
        adata=_cells(task, splits[0].held_out, first), label=label, methods=list(plan),
        titles={method: _title(method) for method in plan}, table=evaluation.collect(rows, ["method", "space"]),
        runs=rows, settings=settings, versions=experiment.versions(list(plan)) | machine,
        confusions={method: pd.DataFrame(matrix, index=types, columns=types) for method, matrix in counted.items()},
        histories={method: run.history for method, run in first.items() if run.history},
    )  # fmt: skip


def _check_methods(methods: Sequence[str]) -> list[str]:
    """Return the methods, each once; raise if one is not known or not installed."""
    from tripletomics import baselines

    known = ["tt", *baselines.METHODS]
    wanted = [methods] if isinstance(methods, str) else list(dict.fromkeys(methods))
    if not wanted:
        raise ValueError(f"methods is empty. Known: {', '.join(known)}.")
    for method in wanted:
        name = str(method).partition(":")[0] if str(method).startswith("tt") else method
        if name not in known:
            near = did_you_mean(name, known)
            raise ValueError(f"methods: {method!r} is not known.{near} Known: {', '.join(known)}.")
        module, extra = EXTRAS.get(name, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise ImportError(f'methods: {name!r} needs {module}: pip install "tripletomics[{extra}]".')
    return wanted


def _title(method: str) -> str:
    from tripletomics import baselines

    if method in baselines.METHODS:
        return baselines.METHODS[method].title
    settings = method.partition(":")[2]
    return f"tripletomics ({settings})" if settings else "tripletomics"


def _cells(task: EvaluationTask, held_out: np.ndarray, first: dict[str, Result]) -> AnnData:
    """Copy the cells, with logged values, the split, and the maps of the first seed."""
    import anndata
    import pandas as pd

    from tripletomics import features, labels, pp

    x = task.x
    x = features.normalise(x, features.DEPTH) if task.is_counts else x.copy()
    cells = anndata.AnnData(x, task.adata.obs.copy(), task.adata.var[[]].copy())
    cells.obs[task.label] = pd.Categorical.from_codes(task.codes, pd.Index(task.classes))
    cells.obs["tt_split"] = pp.split_names(held_out)
    cells.uns.update({key: value for key, value in task.adata.uns.items() if key.endswith("_colors")})
    if (own := f"{task.label}_colors") in cells.uns:  # in the order of the names, as the column is now
        old = labels.names(pd.Series(task.adata.obs[task.label].astype("category").cat.categories))
        known = dict(zip(old, cells.uns.pop(own), strict=False))
        if set(task.classes) <= set(known):
            cells.uns[own] = [known[name] for name in task.classes]
    for method, run in first.items():
        if "map" in run.coordinates:
            cells.obsm[f"X_{method}"] = run.coordinates["map"]
    return cells
