"""The training loop, and its two uses: the metric space, then the map.

A batch is ``(views, y)``. For the metric space there is one view and y holds class codes. For the map y says which
cells the view shows.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from tripletomics import metrics, networks, processes
from tripletomics.area import EqualArea
from tripletomics.augment import Augmentation
from tripletomics.checkpoint import Checkpoint, Loop
from tripletomics.embedding import embed_rows
from tripletomics.features import Pair
from tripletomics.losses import neighbours as structure_term
from tripletomics.losses.base import Loss, spec
from tripletomics.networks import MLP, Encoder, MapHead, Networks, PairEncoder, follow
from tripletomics.optimizer import Muon
from tripletomics.parts import did_you_mean
from tripletomics.samplers import Balanced, Neighbourhoods, Views, some
from tripletomics.sources import Memory

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
NARROW = 8  # rows or columns of a layer with too few directions for orthogonal steps
SHARE = 0.6  # of the way to a map of even density that spread=1 moves the cells after training


def silent(stage: str, step: int, steps: int, loss: float, score: float) -> None:
    """Report nothing."""


def train(
    fabric: Fabric,
    network: nn.Module,
    loss: Loss,
    source: Memory,
    sampler: Iterable[tuple[np.ndarray, ...]],
    targets: Tensor,
    *,
    steps: int,
    lr: float,
    augment: Callable[[Tensor, torch.Generator, Tensor], Tensor],
    seed: int,
    watch: Callable[[int, Tensor], None],
    orthogonal: bool = False,
    checkpoint: Checkpoint | None = None,
) -> dict[str, np.ndarray]:
    """Train `network`, and `loss` where it has parameters, in place; return the loss of each step and its traces.

    Parameters
    ----------
    network, loss
        ``loss(*(network(view) for view in views), y)`` is minimised. A loss of two views is also told which cells they
        show, and how a twin that follows the network places them, if it has a momentum.
    source, sampler
        The sampler yields row numbers, an array a view; the source turns them into rows.
    targets
        y of every row of the source.
    augment, seed
        What is done to a view, given a generator and its y, and the seed of the generator.
    watch
        Called after each step with its number and loss.
    orthogonal
        Whether the hidden layers take orthogonal steps, as `Muon` does.
    checkpoint
        Where the state is saved, and restored after a stop.

    Notes
    -----
    Many processes share a batch: see `processes`. What they draw for themselves differs, but all take rows that are
    ready whole, and then draw as one process does.
    """
    processes.check_same(len(source), steps, lr, seed, [tuple(p.shape) for p in network.parameters()], targets.numpy())
    processes.share_state(network, loss.to(fabric.device))
    hidden = [p for p in network.parameters() if orthogonal and p.dim() > 1 and min(p.shape) > NARROW]
    optimizer = Muon(
        [
            {"params": hidden, "weight_decay": 1e-4, "orthogonal": True},
            {
                "params": [p for p in network.parameters() if p.dim() > 1 and not any(p is q for q in hidden)],
                "weight_decay": 1e-4,
            },
            {"params": [p for p in network.parameters() if p.dim() <= 1], "weight_decay": 0.0},
            *loss.train().to(fabric.device).groups(lr),
        ],
        lr=lr,
        # a fused step undoes the scaling of 16-mixed by itself, after which gradients cannot be clipped
        fused=fabric.device.type in ("cpu", "cuda") and getattr(fabric.strategy.precision, "scaler", None) is None,
    )
    twin = copy.deepcopy(network) if loss.momentum else None
    bare, (network, optimizer) = (network, optimizer), fabric.setup(network.train(), optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_then_decay(step, steps))
    ready = source.contract is None
    generator = torch.Generator(fabric.device).manual_seed(seed + (0 if ready else processes.rank()))
    batches = iter(sampler)
    loop = Loop(bare[0], twin, loss, bare[1], schedule, fabric.strategy.precision, generator, sampler, watch)
    values, traces = loop.values, loop.traces
    for step in range(checkpoint.begin(loop) if checkpoint else 0, steps):
        loss.pace(step, steps)
        if loss.epochs and loop.seen >= loop.due:
            loss.survey(embed_rows(network, source, fabric.device), fabric.to_device(targets))
            loop.due += loss.epochs * len(source)
        rows = processes.of_first(np.stack(next(batches)))  # (views, n)
        views, n = rows.shape
        loop.seen += n
        own = processes.part(n)
        taken = slice(None) if ready else own
        shown = source.rows(rows[:, taken].ravel())
        cells = torch.from_numpy(rows)
        y = targets[cells]  # stays here: a loss that looks at it need not wait for the device
        x = augment(fabric.to_device(shown), generator, fabric.to_device(y[:, taken].flatten()))
        x = x.unflatten(0, (views, n))[:, own].flatten(0, 1) if ready else x
        places = processes.gather(network(x).float(), views, n)
        known = {"cells": fabric.to_device(cells), "codes": fabric.to_device(y)} if loss.views == 2 else {}
        if twin is not None:
            with torch.no_grad():
                known["twin"] = processes.gather(twin(x).float(), views, n)
        value = loss(*places.chunk(views), y[0], **known)
        optimizer.zero_grad()
        fabric.backward(value)
        processes.add_up(network, loss)
        fabric.clip_gradients(network, optimizer, max_norm=1.0, error_if_nonfinite=False)
        optimizer.step()
        schedule.step()
        if twin is not None:
            follow(twin, network, loss.keep())
        values.append(value.detach())
        if fabric.device.type == "cpu" or step % CHECKED == 0:  # a check waits for the GPU
            check_finite(values[-1], step, steps)
        traces.append(loss.trace())
        watch(step + 1, values[-1])
        if checkpoint:
            checkpoint.note(loop, step + 1, last=step + 1 == steps)
    processes.share_state(network, loss)
    losses = processes.of_first(torch.stack(values).cpu().numpy())
    check_finite(torch.from_numpy(losses), steps - 1, steps)
    check_finite(torch.stack([p.detach().sum() for p in network.parameters()]), steps - 1, steps, "weights")
    return {"loss": losses} | {name: torch.stack([trace[name] for trace in traces]).cpu().numpy() for name in traces[0]}


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
    rows = rows[some(codes[rows], seed)] if loss.neighbours else rows
    cells = cells.on(fabric.device)
    source, y_train = cells.subset(rows), codes[rows]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = networks.build(mlp, source.widths, metric_dim).to(fabric.device)
        loss.build(metric_dim, int(y_train.max()) + 1)
    donors = None if groups is None else groups[rows]
    lone = ~source.x.both[source.among] if isinstance(source.x, Pair) else None
    near = structure_term.data_graph(scores[rows])[:, : loss.neighbours] if loss.neighbours else None
    sampler = batches(loss, y_train, batch_size, seed, donors, near, lone)
    watch = Watch("metric", steps, report, encoder, cells, y, rows, held_out_rows, fabric)
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
    rows = rows[some(y[rows] if structure < 1 else np.full(len(rows), -1), seed)]
    watched = np.random.default_rng(seed).permutation(held_out_rows[y[held_out_rows] >= 0])[:CHECK_CELLS]
    used = np.concatenate([rows, watched])
    cells, y, scores = cells.subset(used), y[used], scores[used]
    rows, held_out_rows = np.arange(len(rows)), np.arange(len(rows), len(used))
    z, known = embed_rows(encoder, cells, fabric.device), torch.from_numpy(scores).to(fabric.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = MapHead(scores.shape[1], z.shape[1], dim).to(fabric.device)
    train_on = slice(len(rows))
    radius = structure_term.radius(scores[rows], seed)
    head.fit_inputs(known[train_on], z[train_on], structure, radius)
    inputs = Memory(head.inputs(known, z).cpu().numpy()).on(fabric.device)
    neighbours = structure_term.fit(scores[rows], y[rows], structure, seed, spread)
    steps = min(MAP_STEPS * steps, max(MAP_MOST, steps))
    watch = Watch("map", steps, report, head, inputs, y, rows, held_out_rows, fabric)
    curves = train(
        fabric, head, neighbours, inputs.subset(rows),
        Neighbourhoods(neighbours.graph.numpy(), MAP_CELLS, seed), torch.arange(len(rows)),
        steps=steps, lr=MAP_LR * lr, augment=head.jitter, seed=seed, watch=watch, orthogonal=True,
        checkpoint=checkpoint,
    )  # fmt: skip
    head.orient(embed_rows(head, inputs.subset(rows), fabric.device), known[train_on])
    if spread:
        places = embed_rows(head, inputs.subset(rows), fabric.device)
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
        return Balanced(y, size, seed, donors, guide=loss)
    return Views(y, size, seed, donors, guide=loss, graph=near, lone=lone)


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


def start(device: str, precision: str) -> Fabric:
    """Choose the device and the precision, or say which there are."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    allowed = ["auto", *(name for name, there in present.items() if there)]
    if device not in allowed:
        why = "is not on this machine." if device in present else f"is not known.{did_you_mean(device, present)}"
        raise ValueError(f"device={device!r} {why} Allowed here: {', '.join(allowed)}.")
    precisions = ("32-true", "16-mixed", "bf16-mixed")  # weights and kNN graphs are float32 throughout
    if precision not in ("auto", *precisions):
        near = did_you_mean(precision, precisions)
        raise ValueError(f"precision={precision!r} is not known.{near} Allowed: auto, {', '.join(precisions)}.")
    chosen = cast("Literal['32-true']", "32-true" if precision == "auto" else precision)
    here = processes.join()
    alone = LightningEnvironment()  # by itself Fabric would take a job of SLURM without srun for many processes
    if here.size == 1:
        return Fabric(accelerator=device, devices=1, precision=chosen, plugins=[alone])
    kind = device if device != "auto" else "cuda" if present["cuda"] else "cpu"
    if kind == "mps":
        raise ValueError("device='mps' has one GPU, for one process: pass device='cpu' for many.")
    if kind == "cuda":
        check_gpus(here.local, torch.cuda.device_count())
    # processes.py does what a strategy of Fabric would, and the loss's parameters too
    return Fabric(accelerator=kind, devices=[here.local] if kind == "cuda" else 1, precision=chosen, plugins=[alone])


def check_gpus(local: int, gpus: int) -> None:
    """Refuse, in all processes, to have more of them on a machine than it has GPUs."""
    short = [i for i, left in enumerate(processes.said_by_all(gpus - local)) if left < 1]
    if short:
        raise ValueError(
            f"Each process needs a GPU of its own, and there is none for process {', '.join(map(str, short))}: start "
            "as many on a machine as GPUs can be seen there (srun: with --gpus-per-node, not --gpus-per-task), or pass "
            "device='cpu'."
        )


def default_steps(n: int) -> int:
    """Return the encoder's training steps for `n` training cells: 30 for every doubling beyond 50."""
    return max(100, round(30 * math.log2(max(n, 1) / 50)))


class Watch:
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
            z, query = (embed_rows(self.network, rows, self.device).cpu().numpy() for rows in (self.cells, self.query))
            check_finite(torch.tensor([z.sum(), query.sum()]), step - 1, self.steps, "coordinates of the cells")
            self.scores[step - 1] = self.latest = metrics.knn_macro_f1(z, self.y, query, self.query_y)
        if step % 10 == 0 or step == self.steps:
            self.report(self.stage, step, self.steps, float(value), self.latest)

    def history(self, curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return step, loss, held-out macro-F1 (NaN where it was not measured) and what the loss traces."""
        return {"step": np.arange(1, self.steps + 1), **curves, "held_out_f1": self.scores}
