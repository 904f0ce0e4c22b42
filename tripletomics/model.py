"""A fitted model: features, networks, settings, classes; arrays in, arrays out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tripletomics import files, metrics
from tripletomics.features import Features
from tripletomics.labels import NO_SIGNAL
from tripletomics.networks import Encoder, MapHead, Networks, make
from tripletomics.sources import Matrix, Memory

FORMAT = 2  # of the file; raised when an older program could not read it
SUFFIX = ".tt"
ARRAYS = ("mean", "scale", "cap", "axes", "offset")  # of the features


@dataclass
class Model:
    """What `tripletomics.fit` returns: places cells in the metric space and on the map.

    Attributes
    ----------
    features
        The genes and how their values are treated.
    networks
        Encoder and map head.
    classes
        Names of the types, sorted.
    settings
        What `fit` was given, as text.
    scores
        15-NN macro-F1 by group of cells (``"train"``, ``"held-out"``, ``"null"``) and space (``"map"``, ``"metric"``).
    p_value
        By space: how often the held-out score is reached when the labels of the held-out cells are permuted. Empty if
        no cell was held out.
    history
        For each stage (``"metric"``, ``"map"``): ``step``, ``loss``, ``held_out_f1`` and what the loss traces, such as
        the ``scale`` of "adacos"; arrays of equal length.
    findings
        What the loss learned of the classes, in their order: ``surviving_centers`` (classes,) of "softtriple" and
        "hardtriple", the ``tree`` of "hierarchical_triplet" (a linkage matrix of scipy). Empty for most losses.
    seconds
        Wall time of the ``"fit"`` and of its ``"null"``.
    versions
        Of the packages that made it.
    """

    features: Features
    networks: Networks
    classes: list[str]
    settings: dict[str, str]
    scores: dict[str, dict[str, float]]
    p_value: dict[str, float]
    history: dict[str, dict[str, np.ndarray]]
    findings: dict[str, np.ndarray]
    seconds: dict[str, float]
    versions: dict[str, str]

    def __repr__(self) -> str:
        """Return a line on what the model knows."""
        sizes = f"{len(self.features.genes)} genes, {len(self.classes)} types"
        return f"<tripletomics.Model: {sizes}, loss={self.settings['loss']}>"

    def embed(self, x: Matrix) -> np.ndarray:
        """Place cells in the metric space.

        Parameters
        ----------
        x
            Cells by ``features.genes``, dense or sparse, on the scale of the training matrix.

        Returns
        -------
        float32 (cells, metric_dim).
        """
        return self.place(x)[0]

    def map(self, x: Matrix) -> np.ndarray:
        """Place cells on the map: float32 (cells, dim). `x` as for `embed`."""
        return self.place(x)[1]

    def place(self, x: Matrix) -> tuple[np.ndarray, np.ndarray]:
        """Place cells in both spaces at once: ``(embed(x), map(x))``."""
        if x.ndim != 2 or x.shape[1] != len(self.features.genes):
            raise ValueError(
                f"x has shape {x.shape}: pass cells by the model's {len(self.features.genes)} genes, in the order of "
                "model.features.genes."
            )
        source = Memory(self.features.normalise(x), self.features.standardise)
        places = place(self.networks, source, self.features.project(x))
        return places["metric"], places["map"]

    def summary(self) -> str:
        """Say in a few lines how the map does on cells that it never saw."""
        rows = (
            ("held-out cells", "held-out", "cells the model never saw"),
            ("permuted labels", "null", "held-out cells when there is nothing to learn"),
            ("training cells", "train", "no evidence: their labels were learned"),
        )
        lines = [f"{'15-NN macro-F1':<16} {'map':>6} {'metric':>7}"]
        for title, key, remark in rows:
            if key in self.scores:
                score = self.scores[key]
                lines.append(f"{title:<16} {score['map']:>6.3f} {score['metric']:>7.3f}   {remark}")
        if self.p_value and min(self.p_value.values()) > NO_SIGNAL:
            lines.append("No signal: the held-out cells score no better than with permuted labels.")
        if "held-out" not in self.scores:
            lines.append("No cell was held out: nothing here says how the map does on new cells.")
        if "surviving_centers" in self.findings:
            centers = zip(self.classes, self.findings["surviving_centers"], strict=True)
            lines.append("Centers that survive: " + ", ".join(f"{name} {n}" for name, n in centers))
        return "\n".join(lines)

    def record(self) -> dict[str, object]:
        """Return what is kept in `uns`, as in the attributes of the same names."""
        return {
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "history": {stage: dict(columns) for stage, columns in self.history.items()},
            "classes": np.array(self.classes, dtype=object),
            "findings": dict(self.findings),
            "seconds": dict(self.seconds),
            "scores": {group: dict(score) for group, score in self.scores.items()},
            "p_value": dict(self.p_value),
        }

    def save(self, path: str | Path) -> None:
        """Write the model to one safetensors file (``.tt``): weights, genes and settings, no cells.

        Raises
        ------
        ValueError, FileNotFoundError, PermissionError
            If the name does not end in ``.tt`` or nothing can be written there.
        """
        path = files.check_writable(path, SUFFIX)
        tensors = {
            **self.networks.state_dict(),
            **{f"features.{name}": torch.from_numpy(getattr(self.features, name)) for name in ARRAYS},
        }
        header = self.record() | {
            "format": FORMAT,
            "genes": self.features.genes,
            "n_seen": self.features.n_seen,
            "counts": self.features.counts,
            "depth": self.features.depth,
            "usual_depth": self.features.usual_depth,
            "like_counts": self.features.like_counts,
            "classes": self.classes,
            "history": {
                stage: {name: values.tolist() for name, values in columns.items()}
                for stage, columns in self.history.items()
            },
            "findings": {name: values.tolist() for name, values in self.findings.items()},
        }
        whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with files.replacing(path) as draft:
            save_file(whole, draft, {"tripletomics": json.dumps(header)})


def load(path: str | Path) -> Model:
    """Read a model that `Model.save` wrote; it is placed on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, of another kind, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("tripletomics")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged or not a model file ({error}).") from None
    if text is None:
        raise ValueError(f"{str(path)!r} is a safetensors file of another program, not a tripletomics model.")
    try:
        header = json.loads(text)
        age = int(header["format"]) - FORMAT
        model = None if age else _assemble(header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from None
    if model is None:
        which, cure = ("a newer", "update this one") if age > 0 else ("an older", "fit the model again")
        raise ValueError(f"{str(path)!r} was written by {which} tripletomics, in format {header['format']}: {cure}.")
    return model


def _assemble(known: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Model:
    """Build a model from the header and the tensors of its file."""
    features = Features(
        genes=known["genes"],
        n_seen=known["n_seen"],
        counts=known["counts"],
        like_counts=known["like_counts"],
        depth=known["depth"],
        usual_depth=known["usual_depth"],
        **{name: tensors[f"features.{name}"].numpy() for name in ARRAYS},
    )
    if features.axes.shape[1] != len(features.genes):
        raise ValueError(f"{len(features.genes)} genes, but values for {features.axes.shape[1]}")
    settings = known["settings"]
    metric_dim, dim = int(settings["metric_dim"]), int(settings["dim"])
    networks = Networks(
        Encoder(make(settings["encoder"]), features.n_seen, metric_dim),
        MapHead(len(features.axes), metric_dim, dim),
    )
    networks.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("features.")})
    return Model(
        features=features,
        networks=networks,
        classes=known["classes"],
        settings=settings,
        scores=known["scores"],
        p_value=known.get("p_value", {}),
        history={
            stage: {name: np.array(values) for name, values in columns.items()}
            for stage, columns in known["history"].items()
        },
        findings={name: np.array(values) for name, values in known.get("findings", {}).items()},
        seconds=known["seconds"],
        versions=known["versions"],
    )


def place(networks: Networks, source: Memory, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Place all rows of a source, with their principal components, on the ``"map"`` and in the ``"metric"`` space."""
    z, m = networks.place(source, torch.from_numpy(scores))
    return {"map": m.cpu().numpy(), "metric": z.cpu().numpy()}


def score(
    places: dict[str, np.ndarray], y: np.ndarray, held_out: np.ndarray, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Score every space on the held-out cells, and for comparison on the training cells among themselves.

    Returns
    -------
    scores
        Macro-F1 by group of cells and space.
    p_value
        By space: how often permuted labels of the held-out cells score as well.
    """
    train = ~held_out
    scores = {"train": {space: metrics.knn_macro_f1(z[train], y[train]) for space, z in places.items()}}
    p_value = {}
    if held_out.any():
        scores["held-out"] = {}
        for space, z in places.items():
            truth, predicted = _found(z, y, held_out)
            scores["held-out"][space] = metrics.macro_f1(truth, predicted)
            p_value[space] = metrics.permutation_p(truth, predicted, seed)
    return scores, p_value


def score_null(places: dict[str, np.ndarray], y: np.ndarray, held_out: np.ndarray, seed: int) -> dict[str, float]:
    """Score every space on held-out cells whose codes mean nothing: macro-F1, the mean over random orders of them."""
    found = {space: _found(z, y, held_out) for space, z in places.items()}
    return {space: float(np.mean(metrics.permuted_macro_f1(*both, seed))) for space, both in found.items()}


def _found(z: np.ndarray, y: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of the labelled held-out cells, and those of their nearest training cells."""
    known = held_out & (y >= 0)
    votes = metrics.knn_votes(z[~held_out], y[~held_out], z[known], int(y.max()) + 1)
    return y[known], votes.argmax(axis=1)
