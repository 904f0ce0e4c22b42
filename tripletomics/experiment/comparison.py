"""A comparison of methods: the methods to choose from, and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from tripletomics import baselines, extras, features, files, labels, pl, pp, report
from tripletomics.evaluation import METRICS, found_in, headline, named, overview, verdicts
from tripletomics.experiment.results import Result
from tripletomics.experiment.splits import EvaluationTask
from tripletomics.names import as_html
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.report import paper
from tripletomics.training import History

if TYPE_CHECKING:
    from tripletomics.pl.side_by_side import Figure


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
        Their names, as they were given.
    table
        One row per value: method, space, metric, type, split ("train", "held-out", "permuted", or "" for a value of
        all cells), value (mean over seeds), sd, n_seeds, family, label_circular, null (how it was made).
    runs
        The same of each seed, with the column seed.
    confusions
        For each method, held-out cells by true and predicted type, on its map if it has one: counts over all seeds.
    histories
        Training curves of the first seed, for tripletomics.
    settings
        What was asked for, and the split, as text.
    versions
        Versions of the packages.

    Examples
    --------
    >>> result
    <tripletomics.Comparison: 2 methods, seeds 0, ... cells>
    >>> result.methods
    ['tt', 'pca2']
    >>> list(result.table)[:5]
    ['method', 'space', 'metric', 'type', 'split']
    """

    adata: AnnData
    label: str
    methods: list[str]
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

    def _repr_html_(self) -> str:
        """Return the main scores with the permuted ones, what they show, and the settings, for a notebook."""
        table = named(self.table)
        shown = overview(table, ["method", "space"]).rename(columns={key: one.title for key, one in METRICS.items()})
        found = found_in(table, ["method", "space"])
        shown.insert(0, "labels", [found.get(key, "not tested") for key in shown.index])
        shown = shown.rename_axis(columns=None)
        what = "Scores of held-out cells; in brackets those of permuted labels or coordinates."
        lines = [headline(self.table, self.runs, self.titles), self.settings["split"], what]
        return as_html(repr(self).strip("<>"), shown, filter(None, lines), {"Settings": self.settings})

    @property
    def titles(self) -> dict[str, str]:
        """The names of methods in tables and figures.

        Examples
        --------
        >>> result.titles
        {'tt': 'tripletomics', 'pca2': 'PCA'}
        """
        return {method: baselines.title_of(method) for method in self.methods}

    def summary(self) -> str:
        """Return in words what the held-out cells show, for each method and space, and how they were held out.

        Examples
        --------
        >>> print(result.summary())
        Macro-F1 of held-out cells on the map: tripletomics ..., PCA ...
        """
        lines = "\n".join(verdicts(named(self.table), "method"))
        return "\n\n".join(filter(None, [headline(self.table, self.runs, self.titles), lines, self.settings["split"]]))

    def plot(
        self,
        color: str | None = None,
        *,
        width: float = 7.1,
        show: bool | None = None,
        save: str | Path | bool | None = None,
        return_fig: bool = False,
    ) -> Figure:
        """Draw the maps side by side, with held-out cells marked, and below them held-out and permuted scores.

        Parameters
        ----------
        color
            Column of ``obs`` or gene; by default the types.
        width
            Width of the figure in inches: 7.1 is a page, 3.5 a column.
        show, save, return_fig
            As in :func:`tripletomics.pl.compare`.

        Examples
        --------
        >>> figure = result.plot()
        """
        bases = [f"X_{method}" for method in self.methods if f"X_{method}" in self.adata.obsm]
        if not bases:
            return pl.scores(self.table, titles=self.titles, width=width, show=show, save=save, return_fig=return_fig)
        return pl.compare(
            self.adata, color or self.label, bases=bases, table=self.table, titles=self.titles, width=width,
            show=show, save=save, return_fig=return_fig,
        )  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write figures, tables, settings and a methods text for a paper to a folder, which is created.

        The files are the figure at page and column width (PDF and PNG), the table (CSV; its main scores in Markdown and
        LaTeX), the settings and versions (JSON), and a paragraph for the methods section with its references
        (Markdown). Empty fields of the CSV mean "of all cells" or "of no single type", which pandas reads as missing.

        Examples
        --------
        >>> result.save("paper")
        """
        folder = Path(folder)
        files.make_folder(folder)
        page, column = (self.plot(width=width, save=False, return_fig=True) for width in (7.1, 3.5))
        paper.write(
            folder, figures={"figure": page, "figure-column": column}, table=self.table, methods=self.methods,
            titles=self.titles, settings=self.settings, versions=self.versions,
        )  # fmt: skip

    def to_html(self, path: str | Path, *, title: str = "", command: str = "") -> None:
        """Write one self-contained page with linked maps, scores, confusion and settings, which opens from disk.

        It needs the extra "compare".

        Parameters
        ----------
        path
            The file, ending in ``.html``.
        title
            Name of the data, on top of the page; by default the name of the file without its ending.
        command
            What made the comparison, for its readers; by default the call of `tripletomics.compare`.

        Examples
        --------
        >>> result.to_html("report.html")
        """
        extras.require("A report", *extras.REPORT)
        report.write(
            path, adata=self.adata, label=self.label, methods=self.methods, titles=self.titles, table=self.table,
            confusions=self.confusions, histories=self.histories, versions=self.versions, summary=self.summary(),
            settings=self.settings | ({"call": command} if command else {}), title=title,
        )  # fmt: skip


def check_methods(methods: Sequence[str]) -> list[str]:
    """Return the methods, each once; raise if one is not known or not installed."""
    known = ["tt", *baselines.METHODS]
    wanted = [methods] if isinstance(methods, str) else list(dict.fromkeys(methods))
    if not wanted:
        raise ValueError(f"methods is empty. Known: {', '.join(known)}.")
    for method in wanted:
        name = str(method).partition(":")[0] if str(method).startswith("tt") else method
        if name not in known and "," in str(name):
            apart = [part.strip() for part in str(name).split(",")]
            raise ValueError(f"methods: {method!r} holds several methods in one text: pass methods={apart!r}.")
        if name not in known:
            near = did_you_mean(name, known)
            raise ValueError(f"methods: {method!r} is not known.{near} Known: {', '.join(known)}.")
        if name != "tt":
            extras.require(f"methods: {name!r}", *baselines.METHODS[name].needs)
    return wanted


def installed(methods: Sequence[str]) -> list[str]:
    """Return those of the methods whose packages are installed; a warning names the others."""
    needs = {method: baselines.METHODS[method].needs for method in methods if method != "tt"}
    lost = {method: modules for method, modules in needs.items() if extras.missing(*modules)}
    if lost:
        modules = list(dict.fromkeys(module for some in lost.values() for module in some))
        warn(
            f"{', '.join(lost)} are left out, because {' and '.join(modules)} are not installed: "
            f"{extras.command(modules[0])}."
        )
    return [method for method in methods if method not in lost]


def copy_cells(task: EvaluationTask, held_out: np.ndarray, first: Mapping[str, Result]) -> AnnData:
    """Copy the cells, with logged values, the split, and the maps of the first seed."""
    x = task.x
    x = features.normalise(x, features.DEPTH) if task.is_counts else x.copy()
    cells = AnnData(x, task.adata.obs.copy(), task.table.sides[""].var[[]].copy())
    names = task.classes
    if task.levels is not None:  # cells known coarsely have their coarse name, and figures draw branches
        names = task.levels.tree.names
        tree = {"names": np.array(names, dtype=object), "parents": task.levels.tree.parents}
        cells.uns["levels"] = {"tree": tree}
    column = pd.Categorical.from_codes(task.nodes, pd.Index(names))
    kept = [name for name in names if name in task.classes or name in column]
    cells.obs[task.label] = column.set_categories(kept)
    cells.obs["tt_split"] = pp.split_names(held_out)
    if task.is_counts or "log1p" in task.adata.uns:  # as scanpy marks logged values
        cells.uns["log1p"] = {"base": None}
    cells.uns.update({key: value for key, value in task.adata.uns.items() if key.endswith("_colors")})
    if (own := f"{task.label}_colors") in cells.uns:  # in the order of the names, as the column is now
        old = labels.names(pd.Series(task.adata.obs[task.label].astype("category").cat.categories))
        known = dict(zip(old, cells.uns.pop(own), strict=False))
        drawn = cells.obs[task.label].cat.categories
        if set(drawn) <= set(known):
            cells.uns[own] = [known[name] for name in drawn]
    for method, run in first.items():
        if "map" in run.coordinates:
            cells.obsm[f"X_{method}"] = run.coordinates["map"]
    return cells
