"""The networks of a model go on learning: labels from new cells, and coordinates that must stay from simulated ones."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from tripletomics import devices, knn
from tripletomics.embedding import coordinates, embed_rows
from tripletomics.features import Features
from tripletomics.growth.simulation import SimulatedCells, simulate
from tripletomics.growth.targets import find_targets
from tripletomics.labels.reference import Reference
from tripletomics.losses.base import Loss
from tripletomics.monitor import Monitor, Report, silent
from tripletomics.networks import PCS_BLUR, PCS_WIDTH, Encoder, MapHead, Networks
from tripletomics.problem import FitProblem, Settings
from tripletomics.samplers import Balanced
from tripletomics.sources import Matrix, Memory, dense
from tripletomics.training import BATCH_SIZE, MAP_LR, History, train

ENCODER_STEPS = 0.5  # share of the steps of a fit
MAP_STEPS, MAP_MOST = 1.5, 160  # the same for the map; the larger of 160 and the steps of a fit is enough
KEPT = 30.0  # weight of the distance to the old coordinates in the metric space, in units of its variance
WHOLE = 0.5  # share of the simulated cells that are shown without augmentation
WEIGHT = 400.0  # weight of the squared distance on the map, in units of its width
TESTED = 500  # simulated cells that say how far old cells moved
FAR = 0.03  # in widths of the map: beyond it, a distance counts less and less


@dataclass(frozen=True)
class Grown:
    """Networks that know old and new cells.

    Attributes
    ----------
    networks, loss, history
        Trained networks, the loss of the encoder, and the history of both trainings.
    simulated
        The simulated cells that the networks were trained on, in place of the old ones.
    tested, z
        Other simulated cells, each type with its share, and their metric space. No network was trained on them.
    moved
        How far the cells in `tested` moved on the map, in widths of the map (cells,).
    """

    networks: Networks
    loss: Loss
    history: History
    simulated: SimulatedCells
    tested: SimulatedCells
    z: np.ndarray
    moved: np.ndarray


class WithOld(nn.Module):
    """A network and the old one that it started from: (cells, columns) -> outputs of both, next to each other."""

    def __init__(self, network: nn.Module, old: nn.Module) -> None:
        super().__init__()
        self.network, self.old = network, (old,)  # in a tuple: it is neither trained nor saved
        self.orthogonal_steps = getattr(network, "orthogonal_steps", False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of both."""
        with torch.no_grad():
            old = _output(self.old[0], x)
        return torch.cat([_output(self.network, x), old], dim=1)


def _output(network: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a network; for a map head, after its even map."""
    m: Tensor = network(x)
    return network.even(m) if isinstance(network, MapHead) and network.even is not None else m


class Kept(Loss):
    """Learn the labels, while the simulated cells stay where the old encoder puts them.

    Called with the output of `WithOld` and the numbers of the cells. Cells from `first` on are simulated.

    References
    ----------
    Li & Hoiem 2016, Learning without forgetting, ECCV.
    """

    def __init__(self, loss: Loss, codes: np.ndarray, first: int, spread: float) -> None:
        super().__init__()
        self.loss, self.first, self.weight = loss, first, KEPT / spread**2
        self.codes: Tensor
        self.register_buffer("codes", torch.from_numpy(codes), persistent=False)

    def forward(self, both: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        z, old = both.chunk(2, dim=1)
        rows = rows.to(self.codes.device)
        simulated = (rows >= self.first).to(z.dtype)[:, None]
        away = ((z - old).square() * simulated).sum() / (simulated.sum() * z.shape[1]).clamp(min=1)
        value: Tensor = self.loss(z, self.codes[rows]) + self.weight * away
        return value

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the parameter groups of the loss."""
        return self.loss.parameter_groups(lr)

    def set_progress(self, step: int, steps: int) -> None:
        """Tell the loss how far the training is."""
        self.loss.set_progress(step, steps)

    def trace(self) -> dict[str, Tensor]:
        """Return what the loss traces."""
        return self.loss.trace()


class TargetDistance(Loss):
    r"""Bring new cells to their targets on the map, and keep simulated cells where the old map puts them.

    .. math:: L = \frac{400}{n} \sum_i c^2 \log(1 + d_i^2 / c^2)

    with distances d in widths of the map and c = 0.03. A cell that may be of either of two types goes to one of them.
    With squared distances, it would go between them.

    References
    ----------
    Black & Anandan 1996, The robust estimation of multiple motions (the Lorentzian), CVIU 63(1).
    """

    def __init__(self, targets: np.ndarray, width: float) -> None:
        super().__init__()
        self.width = width
        self.targets: Tensor
        self.register_buffer("targets", torch.from_numpy(targets), persistent=False)

    def forward(self, both: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        m, old = both.chunk(2, dim=1)
        rows, first = rows.to(m.device), len(self.targets)
        wanted = torch.where((rows < first)[:, None], self.targets[rows.clamp(max=first - 1)], old)
        squared = (m - wanted).square().sum(dim=1) / (FAR * self.width) ** 2
        return WEIGHT * FAR**2 * squared.log1p().mean()


def grow_networks(
    problem: FitProblem,
    settings: Settings,
    old: Networks,
    reference: Reference,
    simulated: SimulatedCells | None = None,
    n_tested: int = TESTED,
    report: Report = silent,
) -> Grown:
    """Train copies of the networks of a model on new cells, and on simulated cells in place of the old ones.

    Parameters
    ----------
    problem
        New cells, by the features of the model. Codes are those of `reference`; new types come with codes of their own.
    settings
        Of the fit of the new cells.
    old, reference
        Of the model.
    simulated
        Cells to train on, in place of the old ones; simulated here by default.
    n_tested
        How many other simulated cells say how far old cells moved.
    """
    fabric = devices.start(settings.device, settings.precision)
    old = copy.deepcopy(old).to(fabric.device).eval()
    features, seed = cast(Features, problem.features), settings.seed  # of one modality: see pp.growing
    simulated = simulated or simulate(features, reference, cast(Encoder, old.encoder), seed)
    new = np.flatnonzero(problem.train & (problem.codes >= 0) & (problem.codes < len(problem.classes)))
    codes = np.concatenate([problem.codes[new], simulated.codes])
    x, present = problem.x[new], problem.rows.present
    source = features.source(_stack(x, simulated.x), present)
    cells = (fabric, problem, settings, report)
    encoder, loss, metric = _grow_encoder(cells, cast(Encoder, old.encoder), reference, source, codes, len(new))
    z, first = embed_rows(encoder, source, fabric.device), embed_rows(old.encoder, source, fabric.device)
    seen = np.concatenate([problem.map_pcs[new], features.map_pcs(simulated.x, simulated.pcs)])
    pcs = torch.from_numpy(seen).to(fabric.device)
    before = old.map(first, pcs)
    near, m = (found[: len(new)].cpu().numpy() for found in (z, before))
    targets, width = find_targets(reference, m, near, problem.pcs[new], codes[: len(new)])
    head, history = _grow_map(cells, old.map_head, encoder, (z, pcs, codes), TargetDistance(targets, width))
    networks = Networks(encoder, head)
    shares = reference.sizes / reference.sizes.sum()
    tested = simulate(features, reference, cast(Encoder, old.encoder), seed + 1, np.ceil(n_tested * shares).astype(int))
    seen = features.map_pcs(tested.x, tested.pcs)
    now, then = (coordinates(both, features.source(tested.x), seen) for both in (networks, old))
    moved = np.linalg.norm(now["map"] - then["map"], axis=1) / width
    curves = {"metric": metric, "map": history}
    return Grown(networks, loss, curves, simulated=simulated, tested=tested, z=now["metric"], moved=moved)


Cells = tuple[Any, FitProblem, Settings, Report]  # the first is Fabric


def _grow_encoder(
    cells: Cells, old: Encoder, reference: Reference, source: Memory, codes: np.ndarray, first: int
) -> tuple[Encoder, Loss, dict[str, np.ndarray]]:
    """Return an encoder that started as the old one, its loss and its history; cells from `first` on are simulated."""
    fabric, problem, settings, _ = cells
    loss, seed = copy.deepcopy(settings.loss), settings.seed
    encoder = copy.deepcopy(old)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss.build(settings.metric_dim, len(problem.classes))
    kept = Kept(loss.to(fabric.device), codes, first, reference.spread)
    augment = problem.features.augmentation(settings.augment, loss.views)

    def show(x: Tensor, generator: torch.Generator, rows: Tensor) -> Tensor:
        """Augment all new cells, and about half of the simulated ones."""
        whole = torch.rand(len(x), generator=generator, device=x.device) < WHOLE
        return torch.where((whole & (rows >= first))[:, None], x, augment(x, generator, kept.codes[rows]))

    steps = max(round(ENCODER_STEPS * settings.steps), 1)
    watch = _monitor(cells, "metric", steps, encoder, problem.rows.on(fabric.device))
    curves = train(
        fabric, WithOld(encoder, old), kept, source.on(fabric.device),
        Balanced(codes, settings.batch_size or BATCH_SIZE, seed), torch.arange(len(codes)),
        steps=steps, lr=settings.lr, augment=show, seed=seed, watch=watch,
    )  # fmt: skip
    return encoder.eval(), loss, watch.history(curves)


def _grow_map(
    cells: Cells, old: MapHead, encoder: nn.Module, inputs: tuple[Tensor, Tensor, np.ndarray], loss: TargetDistance
) -> tuple[MapHead, dict[str, np.ndarray]]:
    """Return a map head that started as the old one, and its history; inputs are z, components and codes."""
    fabric, problem, settings, _ = cells
    (z, pcs, codes), head = inputs, copy.deepcopy(old)
    radius = knn.radius(pcs.cpu().numpy(), settings.seed)
    head.blur = PCS_BLUR * PCS_WIDTH * radius / float(head.spread) / head.n_components**0.5
    shown = torch.from_numpy(problem.map_pcs).to(fabric.device)
    own = Memory(head.inputs(shown, embed_rows(encoder, problem.rows, fabric.device)).cpu().numpy())
    steps = max(min(round(MAP_STEPS * settings.steps), max(MAP_MOST, settings.steps)), 1)
    watch = _monitor(cells, "map", steps, head, own.on(fabric.device))
    curves = train(
        fabric, WithOld(head, old), loss, Memory(head.inputs(pcs, z).cpu().numpy()).on(fabric.device),
        Balanced(codes, settings.batch_size or BATCH_SIZE, settings.seed), torch.arange(len(codes)),
        steps=steps, lr=MAP_LR * settings.lr, augment=head.jitter, seed=settings.seed, watch=watch,
    )  # fmt: skip
    return head.eval(), watch.history(curves)


def _monitor(cells: Cells, stage: str, steps: int, network: nn.Module, rows: Memory) -> Monitor:
    """Score held-out new cells among the new ones, for the history."""
    fabric, problem, _, report = cells
    return Monitor(
        stage, steps, report, network, cells=rows, y=problem.codes,
        train_rows=np.flatnonzero(~problem.held_out), held_out_rows=np.flatnonzero(problem.scored), fabric=fabric,
    )  # fmt: skip


def _stack(x: Matrix, simulated: Matrix) -> Matrix:
    """Return the rows of both; if the simulated cells are sparse, as counts are, all become sparse."""
    if sp.issparse(simulated):
        return sp.vstack([sp.csr_matrix(x), simulated], format="csr")
    return np.vstack([dense(x), simulated])
