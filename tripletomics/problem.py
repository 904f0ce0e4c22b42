"""The settings of a fit (`Settings`), and its cells (`FitProblem`)."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from tripletomics import augment as augmentations
from tripletomics import features, losses, networks, parts
from tripletomics.augment import Augmentation
from tripletomics.features import AnyFeatures, Choice
from tripletomics.keys import check_key
from tripletomics.labels import UNLABELLED, ordering, roles
from tripletomics.labels.nodes import NodeLabels
from tripletomics.labels.targets import Target
from tripletomics.labels.tree import Tree
from tripletomics.losses import Loss
from tripletomics.networks import MLP
from tripletomics.seen import SeenCells
from tripletomics.sources import Matrix, Memory

AN_ARRAY = "an array"  # written in place of an array, such as hold_out


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings of a fit, checked: the keywords of `tripletomics.fit`, which explains them.

    Parts may be given as text and become objects. Types are those after `pp.prepare`, which decides what was left open:
    the loss, the steps, and that no label reaches a map without labels.

    Raises
    ------
    ValueError, TypeError
        If a setting is out of its range, or names no part.
    """

    label: str | Sequence[str] | Mapping[str, str | Loss | None] | None = None
    parents: Mapping[str, str] | str | None = None
    order: str | None = None
    loss: Loss = None  # type: ignore[assignment]  # pp.prepare decides
    structure: float = 0.5
    spread: float = 0.5
    map: str | pd.DataFrame | None = None
    dim: int = 2
    metric_dim: int = 32
    batch: str | None = None
    layer: str | None = None
    use_rep: str | None = None
    counts: bool | Literal["auto"] = "auto"
    missing: Literal["error", "impute"] = "error"
    unlabelled: Sequence[str] = UNLABELLED
    hold_out: float | str | np.ndarray | pd.Series = 0.1
    encoder: MLP = "mlp"  # type: ignore[assignment]  # text becomes the part
    augment: Augmentation = "mask"  # type: ignore[assignment]
    self_training: bool = False
    steps: int = None  # type: ignore[assignment]
    batch_size: int | None = None
    lr: float = 1e-3
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    key_added: str = "X_tt"

    def __post_init__(self) -> None:
        check_key(self.key_added)
        if isinstance(self.label, (list, tuple)) and len(self.label) == 1:  # as the command line gives one column
            object.__setattr__(self, "label", self.label[0])
        if isinstance(self.parents, os.PathLike):
            object.__setattr__(self, "parents", os.fspath(self.parents))
        made = {
            "loss": None if self.loss is None else losses.make(self.loss),
            "encoder": networks.make(self.encoder),
            "augment": augmentations.make(self.augment),
        }
        for name, part in made.items():
            object.__setattr__(self, name, part)
        for name, low, high in (
            ("dim", 2, 3), ("metric_dim", 2, 512), ("steps", 1, math.inf), ("batch_size", 4, math.inf),
            ("seed", 0, 2**32 - 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None or name not in ("steps", "batch_size"):
                check_whole(name, value, low, high)
        check_inputs(self.use_rep, self.layer, self.counts)
        if self.missing not in ("error", "impute"):
            raise ValueError(f"missing={self.missing!r} is not known. Allowed: 'error', 'impute'.")
        check_share("structure", self.structure, " (labels)", " (data)")
        check_share("spread", self.spread, " (dense groups)", " (an even page)")
        if not isinstance(self.self_training, bool):
            raise ValueError(f"self_training={self.self_training!r} is neither True nor False.")
        if isinstance(self.lr, bool) or not isinstance(self.lr, Real) or not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr!r} is not a number above 0; 0.001 is usual.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the settings among the arguments of `tripletomics.fit`."""
        return cls(**{name: given[name] for name in cls.names() if name in given})

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def read(cls, name: str, text: str, what: str = "") -> Any:
        """Return the value of a setting from its text, a part as text; an error says `what` it is for."""
        if text.lower() == "none" and name in ("loss", "augment", "steps", "batch_size", "map", "parents", "order"):
            return None
        hint = typing.get_type_hints(cls)[name]
        return text if hint in (Loss, MLP, Augmentation) or name == "map" else parts.read(text, hint, what or name)

    def as_text(self) -> dict[str, str]:
        """Return every setting as text, a part as the text that makes it."""
        given = {name: as_text(getattr(self, name)) for name in self.names()}
        if isinstance(self.parents, Mapping):
            given["parents"] = f"parents of {len(self.parents)} names"
        return given


def check_whole(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Raise a ValueError unless a setting is a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        allowed = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name}={value!r} is not a whole number {allowed}.")


def check_inputs(use_rep: str | None, layer: str | None, counts: bool | str = "auto") -> None:
    """Raise a ValueError if an embedding is named together with an option about genes."""
    if use_rep is not None and (layer is not None or counts is True):
        what = "counts=True" if layer is None else f"layer={layer!r}"
        raise ValueError(
            f"use_rep={use_rep!r} takes an embedding in place of the genes, and {what} is about genes: leave one of "
            "the two out."
        )


def check_share(name: str, value: float, low: str = "", high: str = "") -> None:
    """Raise a ValueError unless a setting is a number from 0 to 1; `low` and `high` say what the two mean."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r} is not a number from 0{low} to 1{high}.")


def as_text(value: object) -> str:
    """Return a setting as text, a part as the text that makes it."""
    if hasattr(value, "shape") and value.shape:
        return AN_ARRAY
    if isinstance(value, Loss):
        return losses.spec(value)
    if isinstance(value, Augmentation):
        return augmentations.spec(value)
    if hasattr(value, "name"):
        return parts.spec(value)
    return roles.as_text(value)  # also of lists and dicts


@dataclass(frozen=True)
class ModalityGenes:
    """The genes of one modality that a model takes: their names, whether they are counts, and what each is for."""

    names: list[str]
    counts: bool
    choice: Choice


@dataclass(frozen=True, eq=False)
class FitProblem:
    """The cells of a fit, with everything that needs no network fitted, and which cells may be used for what.

    Attributes
    ----------
    x
        All cells by the chosen genes, as they are in AnnData.
    genes
        These genes, by the name of each modality; a single one has the name "".
    features
        Fitted to the training cells.
    rows, pcs
        Rows of all cells as the encoder sees them, and their principal components (cells, components).
    codes, classes
        Codes (cells,) of the cell types, whose names are sorted; -1 is unlabelled, and codes beyond the classes are
        types that only held-out cells have.
    order
        The position of each code among all sorted types.
    train, scored
        Cells that the encoder is trained on, and those that its history scores, boolean (cells,).
    held_out, calibration
        Cells that nothing is fitted on, and training cells that the encoder is not trained on, boolean (cells,).
    batch_codes
        Batch codes (cells,), -1 where unknown; None without `batch`.
    seen
        What the model remembers of these cells.
    blind
        Whether all embeddings among the data are known to be made without the held-out cells; None if there are none.
    published
        Coordinates to adopt as the map, float32 (cells, dim), NaN for cells without coordinates; None without `map`.
    map_pcs
        What the map head sees of all cells besides z: the principal components and, where a map is adopted, plain ones.
    tree
        Names of cell types on several levels, whose leaves are the `classes`; None if there is one level.
    nodes
        The deepest known name of each cell in the tree (cells,), -1 for none. `codes` has -1 for those that are no
        leaf. Without a tree, `nodes` are the codes.
    targets
        Further columns that the metric space is to follow.
    levels
        With a tree, the same labels on each of its levels.
    """

    x: Matrix
    genes: dict[str, ModalityGenes]
    features: AnyFeatures
    rows: Memory
    pcs: np.ndarray
    codes: np.ndarray
    classes: list[str]
    order: np.ndarray
    train: np.ndarray
    scored: np.ndarray
    held_out: np.ndarray
    calibration: np.ndarray
    batch_codes: np.ndarray | None
    seen: SeenCells
    blind: bool | None = None
    published: np.ndarray | None = None
    map_pcs: np.ndarray = None  # type: ignore[assignment]  # by default `pcs`
    tree: Tree | None = None
    nodes: np.ndarray = None  # type: ignore[assignment]  # by default `codes`
    targets: list[Target] = field(default_factory=list)
    levels: NodeLabels | None = None

    def __post_init__(self) -> None:
        for name, usual in (("map_pcs", self.pcs), ("nodes", self.codes)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)

    @property
    def modalities(self) -> list[str]:
        """Names of the two modalities; none of a single one."""
        return list(self.features.modalities)

    @property
    def given(self) -> np.ndarray:
        """Training cells with coordinates of the map to adopt, boolean (cells,)."""
        if self.published is None:
            return np.zeros_like(self.held_out)
        return ~self.held_out & np.isfinite(self.published).all(axis=1)

    def with_given(self, m: np.ndarray) -> np.ndarray:
        """Return the map (cells, dim) with the coordinates that training cells were given, in place of learned ones."""
        return m if self.published is None else np.where(self.given[:, None], self.published, m)

    @property
    def fully_measured(self) -> np.ndarray:
        """Cells of which all modalities were measured, boolean (cells,)."""
        return features.fully_measured(self.x)

    @property
    def strata(self) -> np.ndarray:
        """Codes of the types (cells,) or, without types, of tenths of the first ordered column; -1 where unknown.

        Tenths are those of training cells, and held-out cells have none.
        """
        if self.classes or not self.targets:
            return self.codes
        return ordering.strata(self.targets[0].values, ~self.held_out)

    def subset(self, cells: np.ndarray, nodes: np.ndarray) -> FitProblem:
        """Return the problem of some cells (their numbers), with other nodes, which are given for all cells.

        All training cells are trained on, and none are kept for calibration. No cells are scored on the way.
        """
        held_out, nodes = self.held_out[cells], nodes[cells]
        codes = nodes if self.tree is None else self.tree.leaf_codes(nodes)
        return replace(
            self, x=self.x[cells], rows=self.rows.subset(cells), pcs=self.pcs[cells], codes=codes, nodes=nodes,
            train=~held_out, held_out=held_out, scored=np.zeros_like(held_out), calibration=np.zeros_like(held_out),
            batch_codes=None if self.batch_codes is None else self.batch_codes[cells],
            published=None if self.published is None else self.published[cells], map_pcs=self.map_pcs[cells],
            targets=[target.subset(cells) for target in self.targets],
        )  # fmt: skip

    def without(self, part: np.ndarray, fitted: np.ndarray, seed: int) -> FitProblem:
        """Return the problem of an encoder that is trained without a part of the training cells, boolean (cells,).

        The history scores this part. Features and principal components are fitted again, to the cells `fitted`.
        """
        new = fit_features(self.x[fitted], self.genes, seed)
        pcs = new.pcs(self.x, None, fitted)
        return replace(
            self, features=new, rows=new.source(self.x, None, fitted), pcs=pcs, map_pcs=pcs, published=None,
            train=~self.held_out & ~part, scored=part,
        )  # fmt: skip


def fit_features(x: Matrix, genes: Mapping[str, ModalityGenes], seed: int) -> AnyFeatures:
    """Fit the features of one modality or of two to rows of their genes."""
    fits = [
        functools.partial(features.fit, genes=one.names, counts=one.counts, seed=seed, choice=one.choice)
        for one in genes.values()
    ]
    return features.fit_pair(x, list(genes), fits) if len(fits) > 1 else fits[0](x)
