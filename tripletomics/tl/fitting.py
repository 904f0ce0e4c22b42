"""`fit` and `transform`: from a table to the metric space and the map."""

from __future__ import annotations

import copy
import functools
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from tripletomics.labels import UNLABELLED
from tripletomics.tl.progress import training_bar

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from torch.nn import Module

    from tripletomics.augment import Mask
    from tripletomics.features import Features
    from tripletomics.losses import Loss
    from tripletomics.model import Model
    from tripletomics.networks import MLP, Networks
    from tripletomics.sources import Memory
    from tripletomics.training import History, Report
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
        Training steps of the encoder; the map head takes four times as many. By default set by the number of cells.
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
    ``obsm["X_tt_pca"]``
        Principal components of the training cells, whose neighbourhoods the map is asked to keep, float32 (cells, 50)
        or fewer.
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

    from tripletomics import pp
    from tripletomics.model import Model, score, score_null

    started = time.perf_counter()
    given = {name: value for name, value in locals().items() if name in inspect.signature(fit).parameters}
    pp.check_key(key_added)
    task = prepare(
        adata, label, loss=loss, structure=structure, dim=dim, metric_dim=metric_dim, batch=batch, layer=layer,
        counts=counts, unlabelled=unlabelled, hold_out=hold_out, encoder=encoder, augment=augment, steps=steps,
        batch_size=batch_size, lr=lr, seed=seed, device=device, precision=precision,
    )  # fmt: skip
    with training_bar(progress) as report:
        trained, history = task.learn(report)
    places = task.place(trained)
    scores, p_value = score(places, task.codes, task.held_out, seed)
    seconds = {"fit": time.perf_counter() - started}
    if task.held_out.any():
        null = task.null()
        scores["null"] = score_null(null.places, null.codes, null.held_out, seed)
        seconds["null"] = time.perf_counter() - started - seconds["fit"]
    settings = {name: text(value) for name, value in (given | task.used).items() if name not in ("adata", "progress")}
    model = Model(
        task.features, trained, task.classes, settings, scores, p_value, history, task.loss.findings(), seconds,
        _versions(),
    )  # fmt: skip
    _write(adata, key_added, places["metric"], places["map"])
    adata.obsm[f"{key_added}_pca"] = task.scores
    split_key = "tt_split" if key_added == "X_tt" else f"{key_added}_split"
    adata.obs[split_key] = pd.Categorical(np.where(task.held_out, "held-out", "train"), ["train", "held-out"])
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
    ``obsm["X_tt_pca"]``
        Only if it is there: their principal components, in place of those of an earlier fit.

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
    if f"{key_added}_pca" in adata.obsm:  # what an earlier fit wrote no longer belongs to these places
        adata.obsm[f"{key_added}_pca"] = model.features.project(x)


@dataclass(frozen=True)
class Task:
    """What `fit` was asked for: checked, and fitted to the training cells as far as no network is needed."""

    features: Features
    cells: Memory
    scores: np.ndarray  # principal components
    codes: np.ndarray
    classes: list[str]
    held_out: np.ndarray
    groups: np.ndarray | None  # codes of donors or runs
    loss: Loss
    used: dict[str, Any]  # settings as they were settled
    seed: int
    _learn: Callable[..., tuple[Networks, History]]

    def learn(self, report: Report | None = None) -> tuple[Networks, History]:
        """Train on the labels of the training cells."""
        import numpy as np

        told = {} if report is None else {"report": report}
        return self._learn(
            self.cells, self.codes, np.flatnonzero(~self.held_out), np.flatnonzero(self.held_out), scores=self.scores,
            groups=self.groups, loss=self.loss, steps=self.used["steps"], **told,
        )  # fmt: skip

    def place(self, networks: Networks) -> dict[str, np.ndarray]:
        """Place all cells on the "map" and in the "metric" space."""
        from tripletomics.model import place

        return place(networks, self.cells, self.scores)

    def null(self) -> Null:
        """Train on permuted labels, for a sixth of the steps and on at most 4,000 cells, and place these cells."""
        import numpy as np

        from tripletomics import labels
        from tripletomics.model import place

        random = np.random.default_rng(self.seed)
        train, held = (
            random.permutation(np.flatnonzero(rows))[:NULL_CELLS] for rows in (~self.held_out, self.held_out)
        )
        rows = np.concatenate([train, held])
        cells, scores, codes = self.cells.subset(rows), self.scores[rows], labels.permute(self.codes, random)[rows]
        networks, _ = self._learn(
            cells, codes, np.arange(len(train)), np.arange(len(train), len(rows)), scores=scores,
            groups=None if self.groups is None else self.groups[rows], loss=copy.deepcopy(self.loss),
            steps=max(self.used["steps"] // NULL_SHARE, 1),
        )  # fmt: skip
        return Null(rows, place(networks, cells, scores), codes, self.held_out[rows])


@dataclass(frozen=True)
class Null:
    """Where cells lie when there was nothing to learn."""

    rows: np.ndarray  # which cells
    places: dict[str, np.ndarray]
    codes: np.ndarray  # the permuted ones
    held_out: np.ndarray


def prepare(
    adata: AnnData,
    label: str | None,
    *,
    loss: str | Module | None,
    structure: float,
    dim: int,
    metric_dim: int,
    batch: str | None,
    layer: str | None,
    counts: bool | Literal["auto"],
    unlabelled: Sequence[str],
    hold_out: float | str | np.ndarray,
    encoder: str | MLP,
    augment: str | Mask | None,
    steps: int | None,
    batch_size: int | None,
    lr: float,
    seed: int,
    device: str,
    precision: str,
) -> Task:
    """Check everything that `fit` was given, choose and scale the genes on the training cells."""
    from tripletomics import augment as augmentations
    from tripletomics import features, labels, losses, networks, pp, training
    from tripletomics.sources import Memory

    objective = losses.make(DEFAULT_LOSS if loss is None else loss)
    mlp, mask = networks.make(encoder), augmentations.make(augment)
    pp.check_settings(structure, dim, metric_dim, steps, batch_size, lr, seed)
    losses.check(objective, metric_dim)
    fabric = training.start(device, precision)
    x = pp.matrix(adata, layer)
    codes, classes = labels.encode(pp.column(adata, label, "label"), unlabelled)
    held_out = pp.split(adata, hold_out, codes, seed)
    pp.check_labels(codes, classes, held_out, label, batch_size)
    training.check_terms(objective, codes[~held_out], batch_size, seed)
    groups = None if batch is None else labels.encode(pp.column(adata, batch, "batch"), ())[0]
    is_counts = pp.decide_counts(x, counts)

    choice = pp.choose_genes(adata, x, ~held_out, is_counts)
    x = pp.take(x, choice.columns)
    contract = features.fit(x[~held_out], adata.var_names[choice.columns].tolist(), is_counts, seed, choice)
    cells, scores = Memory(contract.normalise(x), contract.standardise), contract.project(x)
    steps = training.default_steps(int((~held_out).sum())) if steps is None else steps
    learn = functools.partial(
        training.learn, fabric, mlp=mlp, augment=mask, structure=structure, dim=dim, metric_dim=metric_dim,
        batch_size=batch_size, lr=lr, seed=seed,
    )  # fmt: skip
    used = {"loss": objective, "encoder": mlp, "augment": mask, "counts": is_counts, "steps": steps}
    return Task(contract, cells, scores, codes, classes, held_out, groups, objective, used, seed, learn)


def _write(adata: AnnData, key: str, z: np.ndarray, m: np.ndarray) -> None:
    adata.obsm[key] = m
    adata.obsm[f"{key}_metric"] = z


def text(value: object) -> str:
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
