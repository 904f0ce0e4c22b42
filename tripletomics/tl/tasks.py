"""What `fit` and the refits of `evaluate` and `compare` do between the table and the model."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tripletomics import labels, losses, metrics, pp
from tripletomics.features import Features, Pair, PairFeatures
from tripletomics.labels import reference
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.calibration import fit as fit_calibration
from tripletomics.labels.prediction import check, predict
from tripletomics.labels.reference import Evidence, Reference
from tripletomics.losses import Loss
from tripletomics.model import place
from tripletomics.networks import Encoder, Networks, PairEncoder
from tripletomics.seen import TRAINING, SeenCells
from tripletomics.sources import Matrix, Memory
from tripletomics.tl.self_training import Answers, Lesson, Round, placed, train_rounds
from tripletomics.training import History, Report, silent

if TYPE_CHECKING:
    from tripletomics.augment import Augmentation

COLLAPSED = 0.2  # spread of the directions of z below which distances say little
EXPLODED = 1.05  # times its first value: above this, the loss of a map shows that steps were too large
NULL_SHARE = 6  # the null takes one step for this many of the fit
NULL_CELLS = 4000
ASKED = 5000  # cells that predictions are calibrated on or compared with labels, the most of a part
NEAR_CELLS = 2000  # training cells whose distances to the others are measured
MATCH_CELLS, MATCHES = 2500, (1, 10, 50)  # held-out cells that are looked for among each other, and in how many
FOLDS = 4  # of whole batches at most, or of few labelled cells; an encoder of the others calibrates on each


@dataclass(frozen=True)
class Task:
    """What `fit` was asked for: checked, and fitted to the training cells as far as no network is needed.

    Attributes
    ----------
    table, x
        What was given, and all cells by the chosen genes, as they are in AnnData.
    features
        Fitted to the training cells.
    cells, scores
        Scaled rows of all cells and their principal components.
    codes, classes
        Types of the training cells, sorted; -1 is unlabelled, and codes beyond them are types that only held-out cells
        have.
    order
        The place of each code among all sorted types.
    held_out, calibration
        Boolean (cells,): cells that nothing is fitted on, and training cells that the encoder is not trained on.
    groups
        Codes of donors or runs.
    loss, used, seed
        The loss, to be trained, the settings as they were settled, and the seed.
    seen
        What the model remembers of these cells.
    untrained, augment
        A copy of the loss, and what is done to the views of a cell.
    rounds, lesson
        How often an encoder is trained, twice for self-training, and what came of that: see `self_training.study`.
    """

    table: pp.Table
    x: Matrix
    features: Features | PairFeatures
    cells: Memory
    scores: np.ndarray
    codes: np.ndarray
    classes: list[str]
    order: np.ndarray
    held_out: np.ndarray
    calibration: np.ndarray
    groups: np.ndarray | None
    loss: Loss
    untrained: Loss
    augment: Augmentation
    used: dict[str, Any]
    seed: int
    seen: SeenCells
    _fit: Callable[[Matrix], Features | PairFeatures]
    _learn_metric: Callable[..., tuple[Encoder | PairEncoder, History]]
    _learn_map: Callable[..., tuple[Networks, History]]
    rounds: int
    lesson: Lesson | None = None

    def learn(self, report: Report = silent) -> tuple[Networks, History]:
        """Train on the labels of the training cells, or on views of all; warn if these collapse."""
        learned = self.lesson.learned if self.lesson else self.encode(report)[-1]
        networks, history = self._learn_map(
            learned.encoder, self.cells, self.codes, np.flatnonzero(~self.held_out), np.flatnonzero(self.held_out),
            scores=self.scores, steps=self.used["steps"], report=report,
        )  # fmt: skip
        history = learned.history | history
        traced = history["metric"].get("spread", np.ones(1))
        spread = float(np.nanmean(traced[-max(len(traced) // 10, 1) :]))
        if spread < COLLAPSED:
            warnings.warn(
                f"loss={losses.spec(self.loss)!r} collapsed: the cells point in nearly one direction (spread "
                f"{spread:.2f}, 1 is all over the sphere), so that their distances say little. Take another loss of "
                "views, such as 'simclr', or smaller steps (lr).",
                stacklevel=3,
            )
        loss = history["map"]["loss"]
        last = float(loss[-max(len(loss) // 10, 1) :].mean())
        if last > EXPLODED * loss[0]:
            warnings.warn(
                f"The map was not learned: its loss rose from {loss[0]:.2f} to {last:.2f}, as it does when steps "
                "are too large. Lower lr; 0.001 is usual.",
                stacklevel=3,
            )
        return networks, history

    def encode(self, report: Report) -> list[Round]:
        """Train the encoder, as often as it is to be."""
        return self._encode(
            self.cells, self.scores, self.codes, ~self.held_out & ~self.calibration, self.held_out, self.groups,
            self.features, self.loss, self.used["steps"], report,
        )  # fmt: skip

    def place(self, networks: Networks) -> dict[str, np.ndarray]:
        """Place all cells on the "map" and in the "metric" space."""
        return place(networks, self.cells, self.scores)

    def null(self) -> Null:
        """Train on permuted labels, for a sixth of the steps and on at most 4,000 cells, and place these cells."""
        random = np.random.default_rng(self.seed)
        drawn = (random.permutation(np.flatnonzero(rows)) for rows in (~self.held_out, self.held_out))
        # the labelled ones first: where they are few, all of them
        train, held = (rows[np.argsort(self.codes[rows] < 0, kind="stable")][:NULL_CELLS] for rows in drawn)
        rows = np.concatenate([train, held])
        cells, scores, codes = self.cells.subset(rows), self.scores[rows], labels.permute(self.codes, random)[rows]
        held_out, steps = self.held_out[rows], max(self.used["steps"] // NULL_SHARE, 1)
        learned = self._encode(
            cells, scores, codes, ~held_out, held_out, None if self.groups is None else self.groups[rows],
            self.features, copy.deepcopy(self.untrained), steps, silent,
        )[-1]  # fmt: skip
        networks, _ = self._learn_map(
            learned.encoder, cells, codes, np.flatnonzero(~held_out), np.flatnonzero(held_out), scores=scores,
            steps=steps,
        )  # fmt: skip
        codes = np.where(codes >= 0, self.order[codes], -1)
        return Null(rows, place(networks, cells, scores), codes, held_out)

    def refer(self, places: dict[str, np.ndarray]) -> Reference | None:
        """Make a reference of the labelled training cells; None without labels."""
        if not self.classes:
            return None
        z = places["metric"]
        found = self._refer(z, places["map"], self.scores, ~self.held_out)
        own = self._some(~self.held_out & ~self.calibration & self._whole & (self.codes >= 0))[:NEAR_CELLS]
        near = found.evidence(z[own], self.scores[own], np.ones(len(own), dtype=bool)).near
        return replace(found, near_trained=np.array([near.mean(), near.std() or 1.0]) if len(own) > 1 else None)

    def place_alone(self, networks: Networks) -> dict[str, Alone]:
        """Place all cells by each of two modalities alone, by its name; those that lack it lie anywhere."""
        if not isinstance(self.x, Pair):
            return {}
        return {name: self._alone(networks, self.x.only(side)) for side, name in enumerate(self.table.sides)}

    def calibrate(
        self, z: np.ndarray, alone: Mapping[str, Alone], report: Report = silent
    ) -> dict[str, Calibration | None]:
        """Find out how far evidence can be trusted; None where the types have too few cells to spare.

        It is asked on the calibration cells, placed at `z`, which the encoder was not trained on, and whose principal
        components are those of new cells. With batches, these are left out in turn, in up to four
        parts, each placed by an encoder of the others: what is usual in a batch that was never seen? So are the
        labelled cells where they are too few to spare any.

        Returns
        -------
        By what was measured: "" for all that was, and the names of two modalities for each alone.
        """
        shown = ["", *alone]
        if not self.classes:
            return dict.fromkeys(shown)
        if self.lesson and self.lesson.answers:
            return self._warned({"": _calibrate(self.lesson.answers)})
        if self.calibration.any():
            trained, scores = ~self.held_out & ~self.calibration, self.scores
            folds = {"": [self._ask(z, scores, trained, self.calibration & self._whole)]}
            for name, side in alone.items():
                asked = self.calibration & side.measured
                folds[name] = [self._ask(z, scores, trained, asked, side.z, side.scores)]
        else:
            answers = [self._ask_without(part, report)[-1] for part in self._parts()]
            folds = {name: [answer[name] for answer in answers] for name in shown}
        return self._warned({name: _calibrate(asked) for name, asked in folds.items()})

    def _warned(self, found: dict[str, Calibration | None]) -> dict[str, Calibration | None]:
        """Warn of predictions that the model will refuse to make."""
        for name in (name for name, calibration in found.items() if calibration is None):
            cure = "types of two training cells or more: label or fit more cells"
            if self.groups is not None:
                cure = "types that are in two batches or more, each with other types next to them: leave batch out"
            warnings.warn(
                f"Predictions{f' from {name} alone' * bool(name)} cannot be calibrated, and predict will refuse to "
                f"make them. This needs {cure}. The map is not affected.",
                stacklevel=4,
            )
        return found

    def ask(self, rounds: Sequence[Round], report: Report) -> list[Answers]:
        """Ask the encoders of two rounds about labelled training cells, as `calibrate` does with one table."""
        if self.calibration.any():
            trained = ~self.held_out & ~self.calibration
            return [
                [self._ask(placed(one.encoder, self.cells), self.scores, trained, self.calibration)] for one in rounds
            ]
        parts = [self._ask_without(part, report) for part in self._parts()]
        return [[part[number][""] for part in parts] for number in (0, -1)]

    def check(
        self, z: np.ndarray, known: Reference | None, found: Calibration | None, alone: Alone | None = None
    ) -> dict[str, float]:
        """Compare predictions of held-out cells of known types with their labels; empty where there are none.

        They lie at `z`, of two modalities those with both; or by one modality alone.
        """
        scores, z, among = (self.scores, z, self._whole) if alone is None else (alone.scores, alone.z, alone.measured)
        held = self._some(among & self.held_out & (self.codes >= 0) & (self.codes < len(self.classes)))
        if known is None or found is None or not len(held):
            return {}
        return check(predict(known.evidence(z[held], scores[held]), found), self.codes[held])

    def match(self, alone: Mapping[str, Alone]) -> dict[str, float]:
        """Look for each held-out cell by one modality among those by the other; empty where that makes no sense."""
        sides = list(alone.values())
        if not sides:
            return {}
        both = self._some(self.held_out & sides[0].measured & sides[1].measured)[:MATCH_CELLS]
        if len(both) < 2:
            return {}
        a, b, cells = sides[0].z[both], sides[1].z[both], np.arange(len(both))
        found = {"cells": float(len(both))}
        for k in MATCHES:
            ways = (metrics.recall_at_k(z, cells, query, cells, k, self.seed) for z, query in ((a, b), (b, a)))
            found |= {f"recall_{k}": sum(ways) / 2, f"null_{k}": min(k / len(both), 1.0)}
        return found

    @property
    def _whole(self) -> np.ndarray:
        """Cells of which all was measured, boolean (cells,)."""
        return self.x.both if isinstance(self.x, Pair) else np.ones_like(self.held_out)

    def _ask(
        self, z: np.ndarray, scores: np.ndarray, trained: np.ndarray, asked: np.ndarray,
        asked_z: np.ndarray | None = None, asked_scores: np.ndarray | None = None,
    ) -> tuple[Evidence, np.ndarray]:  # fmt: skip
        """Compare cells, as they lie or at other places, with a reference of others, if these have their type."""
        rows = self._some(asked & np.isin(self.codes, self.codes[trained & (self.codes >= 0)]))
        asked_z, asked_scores = z if asked_z is None else asked_z, scores if asked_scores is None else asked_scores
        return self._refer(z, z[:, :0], scores, trained).evidence(asked_z[rows], asked_scores[rows]), self.codes[rows]

    def _some(self, cells: np.ndarray) -> np.ndarray:
        """Draw at most 5,000 of some cells, boolean (cells,)."""
        return np.random.default_rng(self.seed).permutation(np.flatnonzero(cells))[:ASKED]

    def _parts(self) -> list[np.ndarray]:
        """Deal batches or labelled cells out into the parts that are left out in turn, boolean (cells,)."""
        groups = pp.folds(self.codes, ~self.held_out, FOLDS, self.seed) if self.groups is None else self.groups
        return pp.deal(groups, self.codes, ~self.held_out, self._whole, FOLDS)

    def _ask_without(self, part: np.ndarray, report: Report) -> list[dict[str, tuple[Evidence, np.ndarray]]]:
        """Fit scaling, components and encoder without a part of the cells, and ask about these after each round."""
        others = ~self.held_out & ~part
        fitted = pp.fitting(others, self.seed)
        contract = self._fit(self.x[fitted])
        cells, scores = contract.source(self.x, None, fitted), contract.project(self.x, None, fitted)
        rounds = self._encode(
            cells, scores, self.codes, others, part, self.groups, contract, copy.deepcopy(self.untrained),
            self.used["steps"], lambda stage, *rest: report("calibration", *rest),
        )  # fmt: skip
        whole = part & self._whole
        answers = []
        for learned in rounds:
            z = placed(learned.encoder, cells)
            found = {"": self._ask(z, scores, others, whole if whole.any() else part)}
            for side, name in enumerate(self.table.sides if isinstance(self.x, Pair) else ()):
                x = cast(Pair, self.x).only(side)
                alone, theirs = contract.source(x, None, fitted), contract.project(x, None, fitted)
                asked = part & x.measured[:, side]
                found[name] = self._ask(z, scores, others, asked, placed(learned.encoder, alone), theirs)
            answers.append(found)
        return answers

    def _alone(self, networks: Networks, x: Pair) -> Alone:
        """Place cells of which one modality is hidden, as the model does."""
        role, fitted = self.seen.find(x)
        cells = self.features.source(x, None, fitted & (role == TRAINING))
        scores = self.features.project(x, None, fitted)
        return Alone(place(networks, cells, scores), scores, x)

    def _refer(self, z: np.ndarray, m: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> Reference:
        return reference.fit(z, m, scores, np.where(rows, self.codes, -1), len(self.classes), self.seed)

    def _encode(
        self, cells: Memory, scores: np.ndarray, codes: np.ndarray, train: np.ndarray, scored: np.ndarray,
        groups: np.ndarray | None, contract: Features | PairFeatures, loss: Loss, steps: int, report: Report,
    ) -> list[Round]:  # fmt: skip
        """Train the encoder on the cells `train`, as `train_rounds` does."""
        learn = functools.partial(
            self._learn_metric, held_out_rows=np.flatnonzero(scored), groups=groups, steps=steps,
            augment=contract.augmentation(self.augment, loss.views),
        )  # fmt: skip
        rows = np.flatnonzero(train)
        return train_rounds(learn, self.rounds, cells, scores, codes, rows, loss, self.seed, report)


@dataclass(frozen=True)
class Alone:
    """Where cells lie by one of two modalities."""

    places: dict[str, np.ndarray]
    scores: np.ndarray
    x: Pair  # with the other one hidden

    @property
    def z(self) -> np.ndarray:
        """Metric space."""
        return self.places["metric"]

    @property
    def measured(self) -> np.ndarray:
        """Which cells have it, boolean (cells,)."""
        return np.asarray(self.x.measured.any(axis=1))


@dataclass(frozen=True)
class Null:
    """Where cells lie when there was nothing to learn."""

    rows: np.ndarray  # which cells
    places: dict[str, np.ndarray]
    codes: np.ndarray  # the permuted ones
    held_out: np.ndarray


def _calibrate(answers: Answers) -> Calibration | None:
    """Calibrate on answers about two cells or more."""
    return fit_calibration(answers) if sum(len(codes) for _, codes in answers) > 1 else None
