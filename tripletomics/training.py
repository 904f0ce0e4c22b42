"""The training loop, and its two uses: the metric space, then the map.

A minibatch is ``(views, y)``. For the metric space there is one view, or two for losses that compare views, and y holds
class codes. For the map there is one view, and y says which cells it shows.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tripletomics import adoption, devices, knn, networks, processes
from tripletomics.area import EqualArea
from tripletomics.augment import Augmentation
from tripletomics.checkpoint import Checkpoint, Loop
from tripletomics.embedding import embed_rows
from tripletomics.features import fully_measured
from tripletomics.labels.inference import infer_leaves
from tripletomics.labels.reference import Evidence
from tripletomics.labels.targets import Target
from tripletomics.losses import neighbours
from tripletomics.losses.base import Loss, spec
from tripletomics.losses.columns import Columns
from tripletomics.losses.levels import Levels
from tripletomics.monitor import Monitor, Report, check_finite, sample, silent
from tripletomics.networks import Encoder, MapHead, Networks, PairEncoder, follow
from tripletomics.notices import warn
from tripletomics.optimizer import make_optimizer
from tripletomics.problem import FitProblem, Settings
from tripletomics.samplers import Balanced, Neighbourhoods, Sampler, Shuffled, Views, subsample_per_type
from tripletomics.sources import Memory

Augment = Callable[[Tensor, torch.Generator, Tensor], Tensor]  # rows, generator, their y -> another view of them
History = dict[str, dict[str, np.ndarray]]  # stage -> step, loss, held_out_f1
BATCH_SIZE = 512
TRIED_BATCHES = 20  # batches in which a loss must have something to compare
CHECKED = 10  # steps between two checks of the loss on a GPU
LEAST_STEPS, MOST_STEPS = 100, 480  # of an encoder by default; more than the map head's would change it at structure=1
MAP_STEPS = 4  # most steps of the map head for one of the encoder
MAP_PACE, MAP_LEAST, MAP_MOST = 60, 320, 480  # its steps for every doubling of the cells beyond 50, and their limits
MAP_LR = 30.0
ADOPTED_STEPS, ADOPTED_BLUR = 2, 1.75  # steps and blur for an adopted map, in units of those for a new one
MAP_CELLS = 1024
COLLAPSED = 0.2  # spread of the directions of z below which distances mean little
EXPLODED = 1.05  # times its first value: above this, the loss of a map shows that steps were too large
SHARE = 0.6  # of the way to a map of even density that spread=1 moves the cells after training


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
        ``loss(*(network(view) for view in views), y)`` is minimised. A loss of two views also gets the cells that they
        show, and their embeddings by a momentum encoder, if it has a momentum.
    source, sampler
        The sampler yields row numbers, an array for each view; the source turns them into rows.
    targets
        y of every row of the source.
    augment, seed
        The augmentation of a view, given a generator and its y, and the seed of the generator.
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
    own_draws = processes.rank() if source.scaler is not None else 0
    generator = torch.Generator(fabric.device).manual_seed(seed + own_draws)
    loop = Loop(
        network, momentum_encoder, loss, muon, schedule, fabric, generator=generator, sampler=sampler, watch=watch
    )
    minibatches = iter(sampler)
    for step in range(checkpoint.begin(loop) if checkpoint else 0, steps):
        loss.set_progress(step, steps)
        if loss.epochs and loop.seen >= loop.due:  # the loss looks at all cells, and guides the next minibatches
            codes = fabric.to_device(loss.known_codes(targets))
            sampler.batch_guide = loss.refresh(embed_rows(encoder, source, fabric.device), codes)
            loop.due += loss.epochs * len(source)

        rows = fabric.broadcast(torch.from_numpy(np.stack(next(minibatches))))  # (views, n), of the first process
        y = targets[rows]  # (views, n); it stays on the CPU, where a loss can look at it without waiting for a GPU
        x = augmented_rows(fabric, source, rows, y, augment, generator)  # (views * share of n, columns)
        z = processes.gather(fabric, encoder(*x).float(), *rows.shape)  # (views * n, metric_dim)
        known = (
            {"cells": fabric.to_device(rows), "codes": fabric.to_device(y)} if loss.views == 2 or loss.of_cells else {}
        )
        if momentum_encoder is not None:
            known["momentum_z"] = processes.gather(fabric, momentum_encoder(*x).float(), *rows.shape)
        value = loss(*z.chunk(len(rows)), loss.known_codes(y[0]), **known)  # ()

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
) -> tuple[Tensor, ...]:
    """Return augmented rows (views, n) of a minibatch, of which each process has its share.

    A single view may show only some columns, which are returned next to its rows: see `Augmentation.columns`. Rows that
    are scaled when they are taken are augmented by the process that encodes them. All others are augmented in every
    process, with the same draws as in a single process.
    """
    own, ready = processes.part(rows.shape[1]), source.scaler is None
    if len(rows) == 1 and isinstance(augment, Augmentation):
        columns = augment.columns(source.width, generator)
        if columns is not None:
            columns = columns.roll(-own.start, dims=0)  # the first row of this process has its turn in the minibatch
            return source.rows(rows[0, own].numpy(), columns), columns
    shown = slice(None) if ready else own
    x = fabric.to_device(source.rows(rows[:, shown].flatten().numpy()))
    x = augment(x, generator, fabric.to_device(y[:, shown].flatten()))
    return (x.unflatten(0, rows.shape)[:, own].flatten(0, 1) if ready else x,)


def finish(fabric: Fabric, loop: Loop, steps: int) -> dict[str, np.ndarray]:
    """Return the loss of each step and its traces; raise if the training diverged."""
    processes.share_state(fabric, loop.network, loop.loss)
    losses = fabric.broadcast(torch.stack(loop.losses).cpu())
    check_finite(losses, steps - 1, steps)
    check_finite(torch.stack([p.detach().sum() for p in loop.network.parameters()]), steps - 1, steps, "weights")
    return {"loss": losses.numpy()} | {name: values.cpu().numpy() for name, values in loop.stacked_traces().items()}


def warm_up_then_decay(step: int, steps: int) -> float:
    """Return the share of the learning rate: up over the first tenth of the steps, then down a cosine to 0."""
    warm_up = max(steps // 10, 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


@dataclass(frozen=True)
class EncoderFit:
    """A trained encoder.

    Attributes
    ----------
    encoder, loss, history
        What was trained, and how it went.
    codes
        Codes (cells,) that it was trained on, pseudo-labels included.
    rounds
        How often an encoder like it is trained: twice where pseudo-labels helped, see `crossfit.self_train`.
    answers, summary
        What self-training found: evidence about cells that it was not trained on, and numbers for the model.
    """

    encoder: Encoder | PairEncoder
    loss: Loss
    history: History
    codes: np.ndarray
    rounds: int = 1
    answers: list[tuple[Evidence, np.ndarray]] = field(default_factory=list)
    summary: dict[str, np.ndarray] = field(default_factory=dict)


def train_encoder(
    problem: FitProblem,
    settings: Settings,
    *,
    codes: np.ndarray | None = None,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> EncoderFit:
    """Train an encoder on labels, on views of all cells, or on both; the settings' loss itself stays untrained.

    Parameters
    ----------
    codes
        Codes (cells,) to train on, if they are not those of the problem, by which held-out cells are scored.
    """
    fabric = devices.start(settings.device, settings.precision)
    loss, seed, y = copy.deepcopy(settings.loss), settings.seed, problem.codes
    codes = problem.nodes if codes is None else codes
    rows = np.flatnonzero(problem.train)
    rows = rows[subsample_per_type(codes[rows], seed)] if loss.neighbours else rows
    cells = problem.rows.on(fabric.device)
    source = cells.subset(rows).prepared(settings.steps * (settings.batch_size or BATCH_SIZE))
    y_train, tree = codes[rows], problem.tree
    if tree is not None:  # the encoder learns from the leaf of a coarsely known cell where it is probable
        y_train = infer_leaves(problem.pcs[rows], y_train, tree, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = networks.build(settings.encoder, problem.features.widths, settings.metric_dim).to(fabric.device)
        if tree is not None:
            loss.set_levels(Levels(tree.leaves_below()))
        below = loss.label_levels.below
        loss.build(settings.metric_dim, int(y_train.max()) + 1 if below is None else below.shape[1])
        loss = _with_targets(loss, problem.targets, rows, settings.metric_dim)
    batch_codes, size = problem.batch_codes[rows] if problem.batch_codes is not None else None, settings.batch_size
    sampler: Sampler
    if settings.loss.ordered:
        sampler = Shuffled(len(rows), size or BATCH_SIZE, seed)
    elif loss.views == 1:
        sampler = Balanced(y_train, size or BATCH_SIZE, seed, batch_codes)
    else:
        graph = knn.knn_graph(problem.pcs[rows])[:, : loss.neighbours] if loss.neighbours else None
        alone = ~fully_measured(source.x)[source.among] if problem.modalities else None
        drawn = y_train if tree is None else tree.leaf_codes(y_train)
        sampler = Views(drawn, size or BATCH_SIZE, seed, batch_codes, graph=graph, single_modality=alone)
    watch = Monitor(
        "metric", settings.steps, report, encoder, cells=cells, y=y, train_rows=rows,
        held_out_rows=np.flatnonzero(problem.scored), fabric=fabric,
    )  # fmt: skip
    curves = train(
        fabric, encoder, loss, source, sampler, torch.from_numpy(y_train),
        steps=settings.steps, lr=settings.lr, augment=problem.features.augmentation(settings.augment, loss.views),
        seed=seed, watch=watch, checkpoint=checkpoint,
    )  # fmt: skip
    return EncoderFit(encoder, loss, {"metric": watch.history(curves)}, codes)


def _with_targets(loss: Loss, targets: Sequence[Target], rows: np.ndarray, dim: int) -> Loss:
    """Return a built loss together with those of further columns, of which `rows` are the training cells."""
    if not targets:
        return loss
    others = [copy.deepcopy(target.loss) for target in targets]
    for other, target in zip(others, targets, strict=True):
        other.build(dim, len(target.classes or ()))
    values = [torch.from_numpy(target.y[rows]) for target in targets]
    return Columns(loss, others, [target.weight for target in targets], values)


def train_map(
    problem: FitProblem,
    settings: Settings,
    encoder: EncoderFit,
    *,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> tuple[Networks, History]:
    """Train the map head on what a trained encoder returns for all training cells.

    Return both networks, and the history of both.

    How many steps it takes is said in `map_steps`.
    """
    fabric = devices.start(settings.device, settings.precision)
    seed, y, scored = settings.seed, problem.codes, np.flatnonzero(problem.scored)
    adopts = problem.published is not None
    rows = np.flatnonzero(problem.given if adopts else ~problem.held_out)
    if not adopts:
        rows = rows[subsample_per_type(problem.nodes[rows] if settings.structure < 1 else np.full(len(rows), -1), seed)]
    watched = sample(scored, y)
    used, train_on = np.concatenate([rows, watched]), np.arange(len(rows))
    cells, y, pcs = problem.rows.subset(used), y[used], problem.map_pcs[used]
    z, known = embed_rows(encoder.encoder, cells, fabric.device), torch.from_numpy(pcs).to(fabric.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = MapHead(pcs.shape[1], z.shape[1], settings.dim, adopts).to(fabric.device)
    radius = knn.radius(pcs[train_on], seed) * problem.features.unsure * (ADOPTED_BLUR if adopts else 1)
    head.fit_inputs(known[train_on], z[train_on], settings.structure, radius)
    inputs = Memory(head.inputs(known, z).cpu().numpy()).on(fabric.device)
    map_loss, sampler = _map_loss(problem, settings, rows)
    steps = map_steps(len(rows), settings.steps) * (ADOPTED_STEPS if adopts else 1)
    watch = Monitor(
        "map", steps, report, head, cells=inputs, y=y, train_rows=train_on,
        held_out_rows=np.arange(len(rows), len(used)), fabric=fabric,
    )  # fmt: skip
    curves = train(
        fabric, head, map_loss, inputs.subset(train_on), sampler, torch.arange(len(rows)),
        steps=steps, lr=MAP_LR * settings.lr, augment=head.jitter, seed=seed, watch=watch,
        checkpoint=checkpoint,
    )  # fmt: skip
    if isinstance(map_loss, adoption.Distance):
        head.rescale(map_loss.unit, map_loss.middle)
        return Networks(encoder.encoder, head), encoder.history | {"map": watch.history(curves)}
    head.orient(embed_rows(head, inputs.subset(train_on), fabric.device), known[train_on])
    if settings.spread:
        m = embed_rows(head, inputs.subset(train_on), fabric.device)
        head.even = EqualArea(settings.dim).to(fabric.device).fit(m, SHARE * settings.spread, seed)
    return Networks(encoder.encoder, head), encoder.history | {"map": watch.history(curves)}


def _map_loss(
    problem: FitProblem, settings: Settings, rows: np.ndarray
) -> tuple[neighbours.Neighbours | adoption.Distance, Sampler]:
    """Return the loss of the map of some training cells, and the sampler of its minibatches."""
    if problem.published is not None:
        return adoption.Distance(problem.published[rows]), Shuffled(len(rows), MAP_CELLS, settings.seed)
    codes, tree = problem.nodes[rows], problem.tree
    below = None if tree is None else tree.leaves_below()
    if tree is not None:
        codes = infer_leaves(problem.pcs[rows], codes, tree, settings.seed)
    loss = neighbours.fit(problem.pcs[rows], codes, settings.structure, settings.seed, settings.spread, below)
    return loss, Neighbourhoods(loss.graph.numpy(), MAP_CELLS, settings.seed)


def warn_of_failure(loss: Loss, history: History) -> None:
    """Warn about cells that point in one direction, and about a map whose loss rose."""
    traced = history["metric"].get("spread", np.ones(1))
    spread = float(np.nanmean(traced[-max(len(traced) // 10, 1) :]))
    if spread < COLLAPSED:
        warn(
            f"loss={spec(loss)!r} collapsed: the cells point in nearly one direction (spread "
            f"{spread:.2f}, 1 is all over the sphere), so their distances mean little. Take another loss of "
            "views, such as 'simclr', or smaller steps (lr)."
        )
    values = history["map"]["loss"]
    last = float(values[-max(len(values) // 10, 1) :].mean())
    if last > EXPLODED * values[0]:
        warn(
            f"The map was not learned: its loss rose from {values[0]:.2f} to {last:.2f}, because steps "
            "are too large. Lower lr; 0.001 is usual."
        )


def check_terms(loss: Loss, y: np.ndarray, batch_size: int | None, seed: int) -> None:
    """Raise if a loss has nothing to compare in some batches; `y` are the training cells' codes."""
    sampler = (Balanced if loss.views == 1 else Views)(y, batch_size or BATCH_SIZE, seed)
    if sampler.batch_size < processes.count():
        raise ValueError(
            f"A batch of {sampler.batch_size} cells is too few for {processes.count()} processes: start fewer, or "
            "raise batch_size if there are more cells."
        )
    for rows, *_ in itertools.islice(sampler, TRIED_BATCHES):
        if not loss.has_terms(y[rows]):
            size = np.bincount(y[rows][y[rows] >= 0], minlength=1)
            raise ValueError(
                f"batch_size={sampler.batch_size} gives a batch with {np.count_nonzero(size)} of {len(sampler.kinds)} "
                f"types and at most {size.max()} cells of one, in which loss={spec(loss)!r} has nothing to compare. "
                f"Raise batch_size, at best to {4 * loss.views * len(sampler.kinds)} or more, 4 for each type."
            )


def default_steps(n: int, pace: int = Loss.pace) -> int:
    """Return the encoder's training steps for `n` training cells: `pace` for each doubling beyond 50, 100 to 480."""
    return min(max(round(pace * math.log2(max(n, 1) / 50)), LEAST_STEPS), MOST_STEPS)


def map_steps(n: int, steps: int) -> int:
    """Return the map head's training steps for `n` training cells: four for each of the encoder's `steps`, or enough.

    With default `steps` they follow the number of cells alone. So a map of ``structure=1`` does not depend on the loss.
    """
    enough = min(max(round(MAP_PACE * math.log2(max(n, 1) / 50)), MAP_LEAST), MAP_MOST)
    return min(MAP_STEPS * steps, max(enough, steps))
