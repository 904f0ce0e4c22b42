"""The training loop, and its two uses: the metric space, then the map.

A minibatch is ``(views, y)``. For the metric space there is one view and y holds class codes. For the map y says which
cells the view shows.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tripletomics import metrics, networks, processes
from tripletomics.area import EqualArea
from tripletomics.augment import Augmentation
from tripletomics.checkpoint import Checkpoint, Loop
from tripletomics.losses import neighbours as structure_term
from tripletomics.losses.base import Loss, spec
from tripletomics.modalities import Pair
from tripletomics.networks import MLP, Encoder, MapHead, Networks, PairEncoder, follow, project
from tripletomics.optimizer import make_optimizer
from tripletomics.samplers import Balanced, Neighbourhoods, Sampler, Views, subsample_per_type
from tripletomics.sources import Memory

Augment = Callable[[Tensor, torch.Generator, Tensor], Tensor]  # rows, generator, their y -> another view of them
Report = Callable[[str, int, int, float, float], None]  # stage, step, steps, loss, latest held-out score
History = dict[str, dict[str, np.ndarray]]  # stage -> step, loss, held_out_f1
BATCH_SIZE = 512
TRIED_BATCHES = 20  # batches in which a loss must have something to compare
CHECKS = 6  # times a stage that the held-out cells are scored, for the history alone
CHECK_CELLS = 1000
CHECKED = 10  # steps between two checks of the loss on a GPU
MAP_STEPS = 4  # steps of the map head for one of the encoder: with 2,000 genes one costs 0.6 of it
MAP_MOST = 480  # steps of the map head from 800 cells on
MAP_LR = 30.0
MAP_CELLS = 1024
SHARE = 0.6  # of the way to a map of even density that spread=1 moves the cells after training


def silent(stage: str, step: int, steps: int, loss: float, score: float) -> None:
    """Report nothing."""


def train(
    fabric: Fabric,
    network: nn.Module,
    loss: Loss,
    source: Memory,
    sampler: Sampler,
    targets: Tensor,
    *,
    steps: int,
    lr: float,
    augment: Augment,
    seed: int,
    watch: Callable[[int, Tensor], None],
    checkpoint: Checkpoint | None = None,
) -> dict[str, np.ndarray]:
    """Train `network`, and `loss` where it has parameters, in place; return the loss of each step and its traces.

    Parameters
    ----------
    network, loss
        ``loss(*(network(view) for view in views), y)`` is minimised. A loss of two views is also told which cells they
        show, and how a momentum encoder embeds them, if it has a momentum.
    source, sampler
        The sampler yields row numbers, an array for each view; the source turns them into rows.
    targets
        y of every row of the source.
    augment, seed
        What is done to a view, given a generator and its y, and the seed of the generator.
    watch
        Called after each step with its number and loss.
    checkpoint
        Where the state is saved, and restored after a stop.

    Notes
    -----
    Many processes share a minibatch: see `processes`.
    """
    processes.check_same(len(source), steps, lr, seed, [tuple(p.shape) for p in network.parameters()], targets.numpy())
    processes.share_state(fabric, network, loss.train().to(fabric.device))
    momentum_encoder = copy.deepcopy(network).requires_grad_(False) if loss.momentum else None
    muon = make_optimizer(fabric, network, loss.parameter_groups(lr), lr)
    encoder, optimizer = fabric.setup(network.train(), muon)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_then_decay(step, steps))
    own_draws = processes.rank() if source.contract is not None else 0
    generator = torch.Generator(fabric.device).manual_seed(seed + own_draws)
    loop = Loop(
        network, momentum_encoder, loss, muon, schedule, fabric, generator=generator, sampler=sampler, watch=watch
    )
    minibatches = iter(sampler)
    for step in range(checkpoint.begin(loop) if checkpoint else 0, steps):
        loss.set_progress(step, steps)
        if loss.epochs and loop.seen >= loop.due:  # the loss looks at all cells, and guides the next minibatches
            sampler.batch_guide = loss.refresh(project(encoder, source, fabric.device), fabric.to_device(targets))
            loop.due += loss.epochs * len(source)

        rows = fabric.broadcast(torch.from_numpy(np.stack(next(minibatches))))  # (views, n), of the first process
        y = targets[rows]  # (views, n); it stays on the CPU, where a loss can look at it without waiting for a GPU
        x = augmented_rows(fabric, source, rows, y, augment, generator)  # (views * share of n, columns)
        z = processes.gather(fabric, encoder(x).float(), *rows.shape)  # (views * n, metric_dim)
        known = {"cells": fabric.to_device(rows), "codes": fabric.to_device(y)} if loss.views == 2 else {}
        if momentum_encoder is not None:
            known["momentum_z"] = processes.gather(fabric, momentum_encoder(x).float(), *rows.shape)
        value = loss(*z.chunk(len(rows)), y[0], **known)  # ()

        optimizer.zero_grad()
        fabric.backward(value)
        processes.add_up(fabric, network, loss)
        fabric.clip_gradients(encoder, optimizer, max_norm=1.0, error_if_nonfinite=False)
        optimizer.step()
        schedule.step()
        if momentum_encoder is not None:
            follow(momentum_encoder, network, loss.momentum_at(step, steps))

        if fabric.device.type == "cpu" or step % CHECKED == 0:  # a check waits for the GPU
            check_finite(value.detach(), step, steps)
        loop.record(step, rows.shape[1], value.detach(), loss.trace())
        if checkpoint:
            checkpoint.note(loop, step + 1, last=step + 1 == steps)
    return finish(fabric, loop, steps)


def augmented_rows(
    fabric: Fabric, source: Memory, rows: Tensor, y: Tensor, augment: Augment, generator: torch.Generator
) -> Tensor:
    """Return another view of the rows (views, n) of a minibatch, of which each process has its share.

    Rows that are scaled as they are asked for are augmented by the process that encodes them. All others are augmented
    in every process, which then draws what one process draws.
    """
    own, ready = processes.part(rows.shape[1]), source.contract is None
    shown = slice(None) if ready else own
    x = fabric.to_device(source.rows(rows[:, shown].flatten().numpy()))
    x = augment(x, generator, fabric.to_device(y[:, shown].flatten()))
    return x.unflatten(0, rows.shape)[:, own].flatten(0, 1) if ready else x


def finish(fabric: Fabric, loop: Loop, steps: int) -> dict[str, np.ndarray]:
    """Return the loss of each step and its traces; raise if the training diverged."""
    processes.share_state(fabric, loop.network, loop.loss)
    losses = fabric.broadcast(torch.stack(loop.losses).cpu())
    check_finite(losses, steps - 1, steps)
    check_finite(torch.stack([p.detach().sum() for p in loop.network.parameters()]), steps - 1, steps, "weights")
    return {"loss": losses.numpy()} | {name: values.cpu().numpy() for name, values in loop.stacked_traces().items()}


def check_finite(values: Tensor, step: int, steps: int, what: str = "loss") -> None:
    """Raise a FloatingPointError if values of a training are infinite or NaN, before other libraries get them."""
    if not torch.isfinite(values).all():
        raise FloatingPointError(
            f"The {what} became infinite or NaN by step {step + 1} of {steps}, because steps are too large: lower lr; "
            "0.001 is usual."
        )


def warm_up_then_decay(step: int, steps: int) -> float:
    """Return the share of the learning rate: up over the first tenth of the steps, then down a cosine to 0."""
    warm_up = max(steps // 10, 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def learn_metric(
    fabric: Fabric,
    cells: Memory,
    y: np.ndarray,
    rows: np.ndarray,
    held_out_rows: np.ndarray,
    *,
    groups: np.ndarray | None,
    loss: Loss,
    mlp: MLP,
    augment: Augmentation,
    metric_dim: int,
    batch_size: int | None,
    steps: int,
    lr: float,
    seed: int,
    scores: np.ndarray,
    taught: np.ndarray | None = None,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> tuple[Encoder | PairEncoder, History]:
    """Train the encoder on labels, on views of all cells, or on both.

    Parameters
    ----------
    cells, y
        Scaled rows of all cells and their codes.
    rows, held_out_rows
        Which to train on, and which to score for the history and for nothing else.
    groups
        Codes (cells,) of donors or runs.
    scores
        Principal components (cells, components), for a loss whose second view is that of a neighbour.
    taught
        Codes (cells,) to train on where they are not those to score.
    """
    codes = y if taught is None else taught
    rows = rows[subsample_per_type(codes[rows], seed)] if loss.neighbours else rows
    cells = cells.on(fabric.device)
    source, y_train = cells.subset(rows), codes[rows]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = networks.build(mlp, source, metric_dim).to(fabric.device)
        loss.build(metric_dim, int(y_train.max()) + 1)
    donors = None if groups is None else groups[rows]
    lone = ~source.x.both[source.among] if isinstance(source.x, Pair) else None
    near = structure_term.data_graph(scores[rows])[:, : loss.neighbours] if loss.neighbours else None
    sampler = batches(loss, y_train, batch_size, seed, donors, near, lone)
    watch = Monitor("metric", steps, report, encoder, cells, y, rows, held_out_rows, fabric)
    curves = train(
        fabric, encoder, loss, source, sampler, torch.from_numpy(y_train),
        steps=steps, lr=lr, augment=augment, seed=seed, watch=watch, checkpoint=checkpoint,
    )  # fmt: skip
    return encoder, {"metric": watch.history(curves)}


def learn_map(
    fabric: Fabric,
    encoder: Encoder | PairEncoder,
    cells: Memory,
    y: np.ndarray,
    rows: np.ndarray,
    held_out_rows: np.ndarray,
    *,
    scores: np.ndarray,
    structure: float,
    spread: float,
    dim: int,
    steps: int,
    lr: float,
    seed: int,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> tuple[Networks, History]:
    """Train the map head on what the encoder gives.

    Parameters
    ----------
    encoder
        Trained.
    cells, y, rows, held_out_rows
        As for `learn_metric`.
    scores
        Principal components (cells, components) of all cells.
    spread
        How evenly the cells fill the map, in [0, 1].
    steps
        Of the encoder, for each of which the map head takes four; but 480, or as many as these, are enough.
    """
    rows = rows[subsample_per_type(y[rows] if structure < 1 else np.full(len(rows), -1), seed)]
    watched = np.random.default_rng(seed).permutation(held_out_rows[y[held_out_rows] >= 0])[:CHECK_CELLS]
    used = np.concatenate([rows, watched])
    cells, y, scores = cells.subset(used), y[used], scores[used]
    rows, held_out_rows = np.arange(len(rows)), np.arange(len(rows), len(used))
    z, known = project(encoder, cells, fabric.device), torch.from_numpy(scores).to(fabric.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = MapHead(scores.shape[1], z.shape[1], dim).to(fabric.device)
    train_on = slice(len(rows))
    radius = structure_term.radius(scores[rows], seed)
    head.fit_inputs(known[train_on], z[train_on], structure, radius)
    inputs = Memory(head.inputs(known, z).cpu().numpy()).on(fabric.device)
    neighbours = structure_term.fit(scores[rows], y[rows], structure, seed, spread)
    steps = min(MAP_STEPS * steps, max(MAP_MOST, steps))
    watch = Monitor("map", steps, report, head, inputs, y, rows, held_out_rows, fabric)
    curves = train(
        fabric, head, neighbours, inputs.subset(rows),
        Neighbourhoods(neighbours.graph.numpy(), MAP_CELLS, seed), torch.arange(len(rows)),
        steps=steps, lr=MAP_LR * lr, augment=head.jitter, seed=seed, watch=watch,
        checkpoint=checkpoint,
    )  # fmt: skip
    head.orient(project(head, inputs.subset(rows), fabric.device), known[train_on])
    if spread:
        places = project(head, inputs.subset(rows), fabric.device)
        head.even = EqualArea(dim).to(fabric.device).fit(places, SHARE * spread, seed)
    return Networks(encoder, head), {"map": watch.history(curves)}


def batches(
    loss: Loss,
    y: np.ndarray,
    batch_size: int | None,
    seed: int,
    donors: np.ndarray | None,
    near: np.ndarray | None = None,
    lone: np.ndarray | None = None,
) -> Balanced | Views:
    """Choose the cells of each batch as the loss wants them."""
    size = batch_size or BATCH_SIZE
    if loss.views == 1:
        return Balanced(y, size, seed, donors)
    return Views(y, size, seed, donors, near, lone)


def check_terms(loss: Loss, y: np.ndarray, batch_size: int | None, seed: int) -> None:
    """Refuse batches in which a loss has nothing to compare; `y` are the training cells' codes."""
    sampler = (Balanced if loss.views == 1 else Views)(y, batch_size or BATCH_SIZE, seed)
    if sampler.batch_size < processes.count():
        raise ValueError(
            f"A batch of {sampler.batch_size} cells is too few for {processes.count()} processes: start fewer, or "
            "raise batch_size if there are more cells."
        )
    for rows, *_ in itertools.islice(sampler, TRIED_BATCHES):
        if not loss.has_terms(y[rows]):
            size = np.unique(y[rows], return_counts=True)[1]
            raise ValueError(
                f"batch_size={sampler.batch_size} gives a batch with {len(size)} of {len(sampler.kinds)} types and at "
                f"most {size.max()} cells of one, in which loss={spec(loss)!r} has nothing to compare. Raise "
                f"batch_size, at best to {4 * loss.views * len(sampler.kinds)} or more, 4 for each type."
            )


def default_steps(n: int) -> int:
    """Return the encoder's training steps for `n` training cells: 30 for every doubling beyond 50."""
    return max(100, round(30 * math.log2(max(n, 1) / 50)))


class Monitor:
    """Score held-out cells a few times a stage, for the history and the progress bar and for nothing else."""

    def __init__(
        self,
        stage: str,
        steps: int,
        report: Report,
        network: Callable[[Tensor], Tensor],
        cells: Memory,
        y: np.ndarray,
        train_rows: np.ndarray,
        held_out_rows: np.ndarray,
        fabric: Fabric,
    ) -> None:
        random = np.random.default_rng(0)
        known = random.permutation(train_rows[y[train_rows] >= 0])[:CHECK_CELLS]
        query = random.permutation(held_out_rows[y[held_out_rows] >= 0])[:CHECK_CELLS]
        self.y, self.query_y = y[known], y[query]
        self.cells, self.query = cells.subset(known), cells.subset(query)
        self.stage, self.steps, self.report, self.network = stage, steps, report, network
        self.device = fabric.device
        self.scores = np.full(steps, np.nan)
        self.latest = np.nan

    def __call__(self, step: int, value: Tensor) -> None:
        """Take note of a step."""
        if step % max(self.steps // CHECKS, 1) == 0 and len(self.query):
            z, query = (project(self.network, rows, self.device).cpu().numpy() for rows in (self.cells, self.query))
            check_finite(torch.tensor([z.sum(), query.sum()]), step - 1, self.steps, "coordinates of the cells")
            self.scores[step - 1] = self.latest = metrics.knn_macro_f1(z, self.y, query, self.query_y)
        if step % 10 == 0 or step == self.steps:
            self.report(self.stage, step, self.steps, float(value), self.latest)

    def history(self, curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return step, loss, held-out macro-F1 (NaN where it was not measured) and what the loss traces."""
        return {"step": np.arange(1, self.steps + 1), **curves, "held_out_f1": self.scores}
