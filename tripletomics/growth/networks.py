"""The networks of a model go on learning: new cells by their labels, drawn cells as the old networks saw them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from tripletomics import devices
from tripletomics.embedding import coordinates, embed_rows
from tripletomics.features import Features
from tripletomics.growth.places import place
from tripletomics.growth.stand_ins import StandIns, draw
from tripletomics.labels.reference import Reference
from tripletomics.losses import neighbours
from tripletomics.losses.base import Loss
from tripletomics.networks import PCS_BLUR, PCS_WIDTH, Encoder, MapHead, Networks
from tripletomics.problem import FitProblem, Settings
from tripletomics.samplers import Balanced
from tripletomics.sources import Matrix, Memory, dense
from tripletomics.training import BATCH_SIZE, MAP_LR, History, Monitor, Report, silent, train

ENCODER_STEPS = 0.5  # of the steps of a fit
MAP_STEPS, MAP_MOST = 1.5, 160  # of them, for the map; 160, or as many as these, are enough
KEPT = 30.0  # weight of the distance to the old coordinates in the metric space, in units of its variance
WHOLE = 0.5  # share of the drawn cells that are shown without augmentation
PLACED = 400.0  # weight of the squared distance on the map, in units of its width
TESTED = 500  # drawn cells that say how far old cells moved
FAR = 0.03  # of this width: beyond it, a distance counts less and less


@dataclass(frozen=True)
class Grown:
    """Networks that know old and new cells.

    Attributes
    ----------
    networks, loss, history
        What was trained, and how it went.
    drawn
        The cells in place of the old ones that they were trained on.
    tested, z
        Other cells drawn in place of the old ones, as many of each type as its share: no network was trained on them.
        And their metric space.
    moved
        How far they moved on the map, in widths of it (cells,).
    """

    networks: Networks
    loss: Loss
    history: History
    drawn: StandIns
    tested: StandIns
    z: np.ndarray
    moved: np.ndarray


class Beside(nn.Module):
    """A network and the one that it was: (cells, columns) -> what both say, next to each other."""

    def __init__(self, network: nn.Module, old: nn.Module) -> None:
        super().__init__()
        self.network, self.old = network, (old,)  # in a tuple: it is neither trained nor saved
        self.orthogonal_steps = getattr(network, "orthogonal_steps", False)

    def forward(self, x: Tensor) -> Tensor:
        """Return both."""
        with torch.no_grad():
            old = _say(self.old[0], x)
        return torch.cat([_say(self.network, x), old], dim=1)


def _say(network: nn.Module, x: Tensor) -> Tensor:
    """Return what a network says; a map head with the even map that comes after it."""
    m: Tensor = network(x)
    return network.even(m) if isinstance(network, MapHead) and network.even is not None else m


class Kept(Loss):
    """A loss on the labels, while the drawn cells stay where the old encoder puts them.

    Called with what `Beside` says and the numbers of the cells. From `first` on they are drawn ones.

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
        drawn = (rows >= self.first).to(z.dtype)[:, None]
        away = ((z - old).square() * drawn).sum() / (drawn.sum() * z.shape[1]).clamp(min=1)
        value: Tensor = self.loss(z, self.codes[rows]) + self.weight * away
        return value

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return those of the loss."""
        return self.loss.parameter_groups(lr)

    def set_progress(self, step: int, steps: int) -> None:
        """Tell the loss."""
        self.loss.set_progress(step, steps)

    def trace(self) -> dict[str, Tensor]:
        """Return what the loss traces."""
        return self.loss.trace()


class Placed(Loss):
    r"""The distance on the map: of new cells to their places, of drawn ones to where the old map puts them.

    .. math:: L = \frac{400}{n} \sum_i c^2 \log(1 + d_i^2 / c^2)

    with distances d in widths of the map and c = 0.03. A cell that may be of either of two types goes to one of them:
    with squared distances it would go between them.

    References
    ----------
    Black & Anandan 1996, The robust estimation of multiple motions (the Lorentzian), CVIU 63(1).
    """

    def __init__(self, places: np.ndarray, width: float) -> None:
        super().__init__()
        self.width = width
        self.places: Tensor
        self.register_buffer("places", torch.from_numpy(places), persistent=False)

    def forward(self, both: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        m, old = both.chunk(2, dim=1)
        rows, first = rows.to(m.device), len(self.places)
        wanted = torch.where((rows < first)[:, None], self.places[rows.clamp(max=first - 1)], old)
        squared = (m - wanted).square().sum(dim=1) / (FAR * self.width) ** 2
        return PLACED * FAR**2 * squared.log1p().mean()


def grow_networks(
    problem: FitProblem,
    settings: Settings,
    old: Networks,
    reference: Reference,
    drawn: StandIns | None = None,
    n_tested: int = TESTED,
    report: Report = silent,
) -> Grown:
    """Train copies of the networks of a model on new cells, and on cells drawn in place of the old ones.

    Parameters
    ----------
    problem
        New cells, in the features of the model; codes are those of `reference`, and of types that it lacks.
    settings
        Of the fit of the new cells.
    old, reference
        Of the model.
    drawn
        Cells in place of the old ones to train on; drawn here by default.
    n_tested
        How many other drawn cells to test it on.
    """
    fabric = devices.start(settings.device, settings.precision)
    old = copy.deepcopy(old).to(fabric.device).eval()
    features, seed = cast(Features, problem.features), settings.seed  # of one modality: see pp.growing
    drawn = drawn or draw(features, reference, cast(Encoder, old.encoder), seed)
    new = np.flatnonzero(problem.train & (problem.codes >= 0) & (problem.codes < len(problem.classes)))
    codes = np.concatenate([problem.codes[new], drawn.codes])
    x, present = problem.x[new], problem.rows.present
    source = features.source(_stack(x, drawn.x), present)
    cells = (fabric, problem, settings, report)
    encoder, loss, metric = _grow_encoder(cells, cast(Encoder, old.encoder), reference, source, codes, len(new))
    z, first = embed_rows(encoder, source, fabric.device), embed_rows(old.encoder, source, fabric.device)
    pcs = torch.from_numpy(np.concatenate([problem.pcs[new], drawn.pcs])).to(fabric.device)
    before = old.map(first, pcs)
    places, width = place(reference, before[: len(new)].cpu().numpy(), z[: len(new)].cpu().numpy(),
                          problem.pcs[new], codes[: len(new)])  # fmt: skip
    head, history = _grow_map(cells, old.map_head, encoder, (z, pcs, codes), Placed(places, width))
    networks = Networks(encoder, head)
    shares = reference.sizes / reference.sizes.sum()
    tested = draw(features, reference, cast(Encoder, old.encoder), seed + 1, np.ceil(n_tested * shares).astype(int))
    now, then = (coordinates(both, features.source(tested.x), tested.pcs) for both in (networks, old))
    moved = np.linalg.norm(now["map"] - then["map"], axis=1) / width
    return Grown(
        networks, loss, {"metric": metric, "map": history}, drawn=drawn, tested=tested, z=now["metric"], moved=moved
    )


Cells = tuple[Any, FitProblem, Settings, Report]  # the first is Fabric


def _grow_encoder(
    cells: Cells, old: Encoder, reference: Reference, source: Memory, codes: np.ndarray, first: int
) -> tuple[Encoder, Loss, dict[str, np.ndarray]]:
    """Return an encoder that started as the old one, its loss and its history; cells from `first` on are drawn."""
    fabric, problem, settings, _ = cells
    loss, seed = copy.deepcopy(settings.loss), settings.seed
    encoder = copy.deepcopy(old)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss.build(settings.metric_dim, len(problem.classes))
    kept = Kept(loss.to(fabric.device), codes, first, reference.spread)
    augment = problem.features.augmentation(settings.augment, loss.views)

    def show(x: Tensor, generator: torch.Generator, rows: Tensor) -> Tensor:
        """Augment all new cells, and about half of the drawn ones."""
        whole = torch.rand(len(x), generator=generator, device=x.device) < WHOLE
        return torch.where((whole & (rows >= first))[:, None], x, augment(x, generator, kept.codes[rows]))

    steps = max(round(ENCODER_STEPS * settings.steps), 1)
    watch = _monitor(cells, "metric", steps, encoder, problem.rows.on(fabric.device))
    curves = train(
        fabric, Beside(encoder, old), kept, source.on(fabric.device),
        Balanced(codes, settings.batch_size or BATCH_SIZE, seed), torch.arange(len(codes)),
        steps=steps, lr=settings.lr, augment=show, seed=seed, watch=watch,
    )  # fmt: skip
    return encoder.eval(), loss, watch.history(curves)


def _grow_map(
    cells: Cells, old: MapHead, encoder: nn.Module, inputs: tuple[Tensor, Tensor, np.ndarray], loss: Placed
) -> tuple[MapHead, dict[str, np.ndarray]]:
    """Return a map head that started as the old one, and its history; inputs are z, components and codes."""
    fabric, problem, settings, _ = cells
    (z, pcs, codes), head = inputs, copy.deepcopy(old)
    radius = neighbours.radius(pcs.cpu().numpy(), settings.seed)
    head.blur = PCS_BLUR * PCS_WIDTH * radius / float(head.spread) / head.n_components**0.5
    shown = torch.from_numpy(problem.pcs).to(fabric.device)
    own = Memory(head.inputs(shown, embed_rows(encoder, problem.rows, fabric.device)).cpu().numpy())
    steps = max(min(round(MAP_STEPS * settings.steps), max(MAP_MOST, settings.steps)), 1)
    watch = _monitor(cells, "map", steps, head, own.on(fabric.device))
    curves = train(
        fabric, Beside(head, old), loss, Memory(head.inputs(pcs, z).cpu().numpy()).on(fabric.device),
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


def _stack(x: Matrix, drawn: Matrix) -> Matrix:
    """Return rows of both: drawn counts are sparse, and so are then all."""
    if sp.issparse(drawn):
        return sp.vstack([sp.csr_matrix(x), drawn], format="csr")
    return np.vstack([dense(x), drawn])
