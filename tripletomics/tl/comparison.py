"""`compare`: tripletomics and its alternatives, fitted on the same training cells and scored on the same others."""

from __future__ import annotations

import importlib.util
import inspect
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tripletomics.labels import UNLABELLED
from tripletomics.parts import did_you_mean
from tripletomics.tl.fitting import fit

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from tripletomics.pl.maps import Figure
    from tripletomics.tl.runs import Question, Run, Stage
    from tripletomics.training import History
else:  # the command line reads these annotations
    AnnData = object

METHODS = ("tt", "mlp", "umap_supervised", "lda", "umap", "umap_crossfit", "tsne", "tsne_crossfit", "pacmap", "pca2",
           "pca50")  # fmt: skip
EXTRAS = {"scanvi": ("scvi", "scanvi"), "parametric_umap": ("tensorflow", "parametric-umap")}
OWN = (
    "loss", "structure", "spread", "dim", "metric_dim", "encoder", "augment", "self_training", "steps", "batch_size",
    "lr", "precision",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `tripletomics.compare` returns.

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
        What a method is called in figures.
    table
        One row a number: method, space, metric, type, split ("train", "held-out", "null", or "" for what is of all
        cells), value (mean over seeds), sd, n_seeds, family, label_circular, null (how it was made).
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
        """Say what the held-out cells show, on the whole and for each method and space, and how they were held out."""
        from tripletomics.evaluation import headline, verdicts

        lines = "\n".join(verdicts(self.table, "method"))
        return "\n\n".join(filter(None, [headline(self.table, self.titles), lines, self.settings["split"]]))

    def plot(self, color: str | None = None, *, width: float = 7.1) -> Figure:
        """Draw the maps side by side with held-out cells marked, and below them the scores minus the null.

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
        """Write everything that a paper needs to a folder, which is created.

        Written are the figure at page and column width (PDF and PNG), the table (CSV; its main scores in Markdown and
        LaTeX), the settings and versions (JSON), and a paragraph for the methods section with its references
        (Markdown). pandas reads the CSV with ``keep_default_na=False, na_values={"value": "", "sd": ""}``: "null" is
        one of the splits.
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
    """Compare tripletomics with other maps on cells that none of them saw, each beside its null.

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

    from tripletomics import evaluation, pp
    from tripletomics.problem import as_text
    from tripletomics.tl import runs

    given = {name: value for name, value in locals().items() if name in inspect.signature(compare).parameters}
    plan = {method: settings_of(method) for method in _methods(methods)}
    pp.check_whole("seeds", seeds, 1)
    question = runs.ask(
        adata, label, batch=batch, layer=layer, counts=counts, unlabelled=unlabelled, fine=fine, pseudotime=pseudotime,
        unseen=unseen, device=device,
    )  # fmt: skip
    if "scanvi" in plan and not question.is_counts:
        raise ValueError("methods: 'scanvi' models counts, and the matrix holds none: name a layer with counts.")
    stages, done = perform(question, plan, hold_out, seeds, folder_of(cache), progress)
    said = {name: as_text(value) for name, value in given.items() if name not in ("adata", "progress", "cache")}
    said["seeds"] = ", ".join(map(str, range(seeds)))
    said["split"] = evaluation.split_sentence(said["hold_out"], [stage.held_out for stage in stages])
    rows = tidy(done)
    types = pd.Index(question.classes)
    confusions = {
        method: pd.DataFrame(sum(done[method, seed].confusion for seed in range(seeds)), index=types, columns=types)
        for method in plan
    }
    first = {method: done[method, 0] for method in plan}
    return Comparison(
        _cells(question, stages[0].held_out, first), label, list(plan), {method: _title(method) for method in plan},
        evaluation.collect(rows, ["method", "space"]), rows, confusions,
        {method: run.history for method, run in first.items() if run.history}, said,
        runs.dependencies(list(plan)) | {"python": platform.python_version(), "cores": str(os.cpu_count())},
    )  # fmt: skip


def perform(
    question: Question,
    plan: dict[str, dict[str, Any] | None],
    hold_out: float | str,
    seeds: int,
    folder: Path | None,
    progress: bool,
) -> tuple[list[Stage], dict[tuple[str, int], Run]]:
    """Check every split and every method, then run what no earlier call has run."""
    from tripletomics import evaluation, pp
    from tripletomics.tl import runs
    from tripletomics.tl.progress import steps_bar

    stages = []
    for seed in range(seeds):
        held_out = pp.split(question.adata, hold_out, question.codes, seed)
        if not held_out.any():
            raise ValueError(f"hold_out={hold_out!r} holds no cell out, and without there is no evidence.")
        pp.check_labels(question.codes, question.classes, held_out, question.label)
        if question.unseen:
            evaluation.check_unseen(question.codes, held_out)
        stages.append(runs.Stage(question, held_out, seed, evaluation.drawn_at_random(str(hold_out))))
    for settings in plan.values():
        if settings is not None:
            stages[0].prepare(settings)
    kept, done = runs.Cache(folder), {}
    with steps_bar(len(stages) * len(plan), progress) as step:
        for stage in stages:
            for method, settings in plan.items():
                step(f"{method}, seed {stage.seed}")
                path = kept.path(stage, method, settings)
                result = kept.read(path)
                if result is None:
                    result = runs.run(stage, method, settings)
                    kept.write(path, result)
                done[method, stage.seed] = result
    return stages, done


def tidy(done: dict[tuple[str, int], Run]) -> pd.DataFrame:
    """Put the scores of all runs into one table, method by method."""
    import pandas as pd

    from tripletomics.evaluation import COLUMNS

    order = list(dict.fromkeys(method for method, _ in done))
    runs = sorted(done.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    tables = [run.rows.assign(method=method, seed=seed) for (method, seed), run in runs]
    return pd.concat(tables, ignore_index=True)[["method", "seed", "space", *COLUMNS]]


def settings_of(method: str) -> dict[str, Any] | None:
    """Read the settings in "tt:loss=arcface,structure=0.2"; None for a method that is not tripletomics.

    A comma starts a new setting only before a keyword of `fit`; others belong to the loss.
    """
    name, _, given = method.partition(":")
    if name != "tt":
        return None
    from tripletomics.problem import Settings

    parameters = inspect.signature(fit).parameters
    pieces: list[list[str]] = []
    for piece in given.split(",") if given else ():
        key, equals, value = piece.partition("=")
        if equals and key.strip() in parameters:
            pieces.append([key.strip(), value])
        elif pieces:
            pieces[-1][1] += f",{piece}"
        else:
            raise ValueError(
                f"methods: {method!r} has no setting {key!r}.{did_you_mean(key, OWN)} Write tt:loss=arcface; "
                f"settings: {', '.join(OWN)}."
            )
    settings: dict[str, Any] = {}
    for key, value in pieces:
        if key not in OWN:
            raise ValueError(f"methods: {method!r} may not set {key}, which is the same for all methods.")
        settings[key] = Settings.read(key, value.strip(), f"methods: {method!r}: {key}")
    defaults = {key: parameters[key].default for key in OWN}
    return defaults | settings


def settings_written(settings: dict[str, str]) -> dict[str, Any]:
    """Read the settings that `fit` wrote to `uns`."""
    from tripletomics.problem import Settings

    settings = {"spread": "0.0"} | settings  # maps of before had no such setting, and dense groups
    return {key: Settings.read(key, str(settings[key])) for key in OWN}


def _methods(methods: Sequence[str]) -> list[str]:
    """Return the methods, each once, or say which is not known or not installed."""
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


def folder_of(cache: str | Path | None) -> Path | None:
    """Return the folder that keeps results, if they are kept, after checking that it can be written to."""
    import platformdirs

    if cache is None:
        return None
    folder = platformdirs.user_cache_path("tripletomics") / "compare" if cache == "auto" else Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable and cache != "auto":
        raise PermissionError(f"cache={str(cache)!r} is no folder that can be written to: name another, or None.")
    return folder if writable else None


def _title(method: str) -> str:
    from tripletomics import baselines

    if method in baselines.METHODS:
        return baselines.METHODS[method].title
    settings = method.partition(":")[2]
    return f"tripletomics ({settings})" if settings else "tripletomics"


def _cells(question: Question, held_out: np.ndarray, first: dict[str, Run]) -> AnnData:
    """Copy the cells, with logged values, the split, and the maps of the first seed."""
    import anndata
    import pandas as pd

    from tripletomics import features, labels, pp

    x = question.x
    x = features.normalise(x, features.DEPTH) if question.is_counts else x.copy()
    cells = anndata.AnnData(x, question.adata.obs.copy(), question.adata.var[[]].copy())
    cells.obs[question.label] = pd.Categorical.from_codes(question.codes, pd.Index(question.classes))
    cells.obs["tt_split"] = pp.split_names(held_out)
    cells.uns.update({key: value for key, value in question.adata.uns.items() if key.endswith("_colors")})
    if (own := f"{question.label}_colors") in cells.uns:  # in the order of the names, as the column is now
        old = labels.names(pd.Series(question.adata.obs[question.label].astype("category").cat.categories))
        known = dict(zip(old, cells.uns.pop(own), strict=False))
        if set(question.classes) <= set(known):
            cells.uns[own] = [known[name] for name in question.classes]
    for method, run in first.items():
        if "map" in run.places:
            cells.obsm[f"X_{method}"] = run.places["map"]
    return cells
