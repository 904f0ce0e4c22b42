"""The verbs that read and write AnnData."""

from __future__ import annotations

import copy
import functools
import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from tripletomics.labels import UNLABELLED

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from torch.nn import Module

    from tripletomics.augment import Mask
    from tripletomics.model import Model
    from tripletomics.networks import MLP
    from tripletomics.training import Report
else:  # the command line reads these annotations; there, a part is its text
    AnnData = Model = object
    Module = Mask = MLP = str

DEFAULT_LOSS = "softmax"  # within noise of the best, and the simplest: see docs/choose-a-loss.md
NULL_SHARE = 6  # the null takes one step for this many of the fit
NULL_CELLS = 4000


def fit(
    adata: AnnData,
    label: str | None = None,
    *,
    loss: str | Module | None = None,
    structure: float = 0.5,
    dim: int = 2,
    metric_dim: int = 32,
    batch: str | None = None,
    layer: str | None = None,
    counts: bool | Literal["auto"] = "auto",
    unlabelled: Sequence[str] = UNLABELLED,
    hold_out: float | str = 0.1,
    encoder: str | MLP = "mlp",
    augment: str | Mask | None = "mask",
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    key_added: str = "X_tt",
    progress: bool = True,
) -> Model:
    """Train a model on cell-type labels, place every cell on its map, and score the cells it never saw.

    Parameters
    ----------
    adata
        Annotated cells in memory; `.X` (or `layer`) may be CSR, CSC or dense, counts or not.
    label
        Column of `obs` with the cell types. Missing values and the names in `unlabelled` mean unlabelled.
    loss
        What shapes the metric space: a name, "triplet:margin=0.3", a sum "softmax + 0.003*center", or (in Python) an
        object. By default "softmax"; `tripletomics losses` lists and explains all.
    structure
        Dial of the map between labels (0) and data (1), in [0, 1]. At 1 no label reaches the map.
    dim
        Dimensions of the map, 2 or 3.
    metric_dim
        Dimensions of the metric space, 2 to 512.
    batch
        Column of `obs` with donors or runs, which then take turns in the training batches.
    layer
        Layer to use in place of `.X`.
    counts
        Whether the values are counts, which are normalised and log-transformed inside the model.
    unlabelled
        Names that mean unlabelled.
    hold_out
        Cells that are never trained on: a fraction drawn within every type, a column of `obs` whose groups are held
        out whole (about 10 %), "column=group", a boolean column, or 0 to train on all cells.
    encoder
        Network from genes to the metric space: "mlp" or "mlp:hidden=512-128".
    augment
        What is done to a training cell: "mask", "mask:p=0.2", or none.
    steps
        Training steps of the encoder; the map head takes twice as many. By default set by the number of cells.
    batch_size
        Cells a training step, by default 512 or all.
    lr
        Learning rate.
    seed
        Of everything random; the same seed gives the same map.
    device
        "auto", "cpu", "cuda" or "mps".
    precision
        "auto" (float32), or a precision of Lightning Fabric such as "bf16-mixed".
    key_added
        Key of the map in `obsm`; prefix of the others.
    progress
        Show a progress bar in a terminal or notebook.

    Returns
    -------
    The model. Written to `adata`:

    ``obsm["X_tt"]``
        The map, float32 (cells, dim).
    ``obsm["X_tt_metric"]``
        The metric space, float32 (cells, metric_dim).
    ``obs["tt_split"]``
        Categorical, "train" or "held-out" (``obs["<key_added>_split"]`` with another `key_added`).
    ``uns["X_tt"]``
        Settings as text, versions, history, seconds, and scores: 15-NN macro-F1 of the map and the metric space on
        held-out cells, beside the training figure and that of held-out cells in a short fit on permuted labels.

    Raises
    ------
    KeyError
        If there is no such column or layer.
    TypeError
        If `adata` is not an AnnData in memory or holds no numbers.
    ValueError
        If a value cannot be used. Nothing is written to `adata` then.
    """
    import numpy as np
    import pandas as pd

    from tripletomics import augment as augmentations
    from tripletomics import features, labels, losses, networks, pp, training
    from tripletomics.model import Model, place, score
    from tripletomics.sources import Memory

    started = time.perf_counter()
    given = {name: value for name, value in locals().items() if name in inspect.signature(fit).parameters}
    objective = losses.make(DEFAULT_LOSS if loss is None else loss)
    mlp, mask = networks.make(encoder), augmentations.make(augment)
    pp.check_settings(structure, dim, metric_dim, steps, batch_size, lr, seed, key_added)
    losses.check(objective, metric_dim)
    fabric = training.start(device, precision)
    x = pp.matrix(adata, layer)
    codes, classes = labels.encode(pp.column(adata, label, "label"), unlabelled)
    held_out = pp.split(adata, hold_out, codes, seed)
    pp.check_labels(codes, classes, held_out, label, batch_size)
    training.check_terms(objective, codes[~held_out], batch_size, seed)
    groups = None if batch is None else labels.encode(pp.column(adata, batch, "batch"), ())[0]
    is_counts = pp.decide_counts(x, counts)

    genes = pp.choose_genes(adata, x, ~held_out, is_counts)
    x = pp.take(x, genes)
    contract = features.fit(x[~held_out], adata.var_names[genes].tolist(), is_counts, seed)
    cells = Memory(contract.normalise(x), contract.standardise)
    train, held = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    steps = training.default_steps(len(train)) if steps is None else steps
    learn = functools.partial(
        training.learn, fabric, cells, components=contract.components, groups=groups, mlp=mlp, augment=mask,
        structure=structure, dim=dim, metric_dim=metric_dim, batch_size=batch_size, lr=lr, seed=seed,
    )  # fmt: skip
    with _progress(progress) as report:
        trained, history = learn(codes, train, held, loss=objective, steps=steps, report=report)
    z, m = place(trained, cells)
    scores = score(z, m, codes, held_out)
    seconds = {"fit": time.perf_counter() - started}
    if len(held):
        # what held-out cells score when there is nothing to learn: a short fit on permuted labels
        random = np.random.default_rng(seed)
        train, held = random.permutation(train)[:NULL_CELLS], random.permutation(held)[:NULL_CELLS]
        shuffled = labels.permute(codes, random)
        null, _ = learn(shuffled, train, held, loss=copy.deepcopy(objective), steps=max(steps // NULL_SHARE, 1))
        some = np.concatenate([train, held])
        scores["null"] = score(*place(null, cells.subset(some)), shuffled[some], held_out[some])["held-out"]
        seconds["null"] = time.perf_counter() - started - seconds["fit"]
    used = {"loss": objective, "encoder": mlp, "augment": mask, "counts": is_counts, "steps": steps}
    settings = {name: _text(value) for name, value in (given | used).items() if name not in ("adata", "progress")}
    model = Model(contract, trained, classes, settings, scores, history, objective.findings(), seconds, _versions())
    _write(adata, key_added, z, m)
    split_key = "tt_split" if key_added == "X_tt" else f"{key_added}_split"
    adata.obs[split_key] = pd.Categorical(np.where(held_out, "held-out", "train"), ["train", "held-out"])
    adata.uns[key_added] = model.record()
    return model


def transform(
    adata: AnnData,
    model: Model,
    *,
    layer: str | None = None,
    missing: Literal["error", "zero"] = "error",
    key_added: str = "X_tt",
) -> None:
    """Place new cells in the metric space and on the map of a model.

    Parameters
    ----------
    adata
        New cells with the model's genes, by name and in any order, on the scale that the model was trained on.
    model
        From `fit` or `load`.
    layer
        Layer to use in place of `.X`.
    missing
        What to do about genes that the query lacks: "error", or "zero" to fill them with zeros.
    key_added
        Key of the map in `obsm`.

    Returns
    -------
    None. Written to `adata`:

    ``obsm["X_tt"]``
        The map, float32 (cells, dim).
    ``obsm["X_tt_metric"]``
        The metric space, float32 (cells, metric_dim).

    Raises
    ------
    ValueError
        If genes lack, or the values are on another scale than those of training. Nothing is written then.
    """
    from tripletomics import pp

    pp.check_key(key_added)
    pp.check_model(model)
    x = pp.matrix(adata, layer)
    x = pp.take(x, pp.match_genes(adata, model.features.genes, missing))
    pp.check_scale(x, model.features)
    _write(adata, key_added, *model.place(x))


def _write(adata: AnnData, key: str, z: np.ndarray, m: np.ndarray) -> None:
    adata.obsm[key] = m
    adata.obsm[f"{key}_metric"] = z


def _text(value: object) -> str:
    """Write a setting as text, a part as the text that makes it."""
    from tripletomics import losses, parts

    if isinstance(value, losses.Loss):
        return losses.spec(value)
    if hasattr(value, "name"):
        return parts.spec(value)
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return str(value)


def _versions() -> dict[str, str]:
    packages = ("tripletomics", "torch", "lightning-fabric", "anndata", "numpy", "scipy", "scikit-learn")
    return {package: version(package) for package in packages}


@contextmanager
def _progress(wanted: bool) -> Iterator[Report]:
    """Show a bar with stage, loss, held-out score and time left; nothing where no terminal or notebook reads it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:>12}"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("held-out F1 {task.fields[score]:.3f}"), TimeRemainingColumn(),
    )  # fmt: skip
    hidden = not wanted or not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=hidden) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, step: int, steps: int, loss: float, score: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=steps, loss=loss, score=score)
            bar.update(tasks[stage], completed=step, loss=loss, score=score)

        yield report
