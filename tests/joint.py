"""What one process does and two do together; run as a script, it is one of the two."""

import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from tripletomics import augment, cli, devices, features, losses, networks, processes, training
from tripletomics.features import Pair
from tripletomics.losses import neighbours
from tripletomics.networks import MLP, MapHead
from tripletomics.samplers import Balanced, Neighbourhoods, Views
from tripletomics.sources import Memory

N, GENES, TYPES = 90, 30, 3
# with parameters, a queue and a momentum encoder, a predictor and one, a temperature, mined rows, a tree, a scale
TEXTS = (
    "softmax + 0.1*center", "softmax + moco:queue=40", "byol", "clip", "triplet:mining=offline,every=1",
    "hierarchical_triplet", "adacos",
)  # fmt: skip

FIT = ("--label", "kind", "--steps", "2", "--augment", "mask:p=0", "--hold-out", "0.3")
LOSSES = ("softmax + 0.1*center", "softmax + clip", "byol")


def table():
    random = np.random.default_rng(0)
    y = np.arange(N) % TYPES
    return sp.csr_matrix(random.poisson(1 + 3 * (np.arange(GENES) % TYPES == y[:, None])).astype(np.float32)), y


def source():
    x, _ = table()
    return features.fit(x, [f"g{i}" for i in range(GENES)], counts=True, seed=0).source(x)


def gradients(n, text):
    """The loss of a batch of n cells, and its gradients, before they are clipped."""
    torch.manual_seed(1)
    encoder, loss = networks.build(MLP((16, 8)), source().widths, 4), losses.make(text)
    loss.build(4, TYPES)
    _, y = table()
    rows = np.random.default_rng(n).permutation(N)[: n * loss.views].reshape(loss.views, n)
    x = torch.cat([source().rows(view[processes.part(n)]) for view in rows])
    fabric = devices.start("cpu", "auto")
    z = processes.gather(fabric, encoder(x), loss.views, n)
    value = loss(*z.chunk(loss.views), torch.from_numpy(y[rows[0]]))
    value.backward()
    processes.add_up(fabric, encoder, loss)
    return {"value": value, "z": z} | {
        name: p.grad
        for module in (encoder, loss)
        for name, p in module.named_parameters()
        if p.grad is not None  # a batch of one cell has no views to tell apart
    }


def train(network, loss, cells, y, sampler, **given):
    """Three steps of training, so short that Adam makes nothing of gradients that are rounding; the last gradients."""
    last = {}

    def watch(step, value):
        for name, p in (*network.named_parameters(), *loss.named_parameters()):
            last[f"gradient {name}"] = torch.zeros(()) if p.grad is None else p.grad.clone()

    options = {"steps": 3, "lr": 1e-6, "augment": augment.make(None), "seed": 0, "watch": watch} | given
    fabric = devices.start("cpu", "auto")
    curves = training.train(fabric, network, loss, cells, sampler, torch.from_numpy(y), **options)
    state = {**network.state_dict(), **{f"loss {name}": value for name, value in loss.state_dict().items()}}
    return last | state | {f"curve {name}": torch.from_numpy(curve) for name, curve in curves.items()}


def metric(text):
    """A short training of the encoder, from rows that are scaled as they are asked for."""
    torch.manual_seed(2)
    loss, (_, y) = losses.make(text), table()
    encoder = networks.build(MLP((16, 8)), source().widths, 4)
    loss.set_n_cells(N)
    loss.build(4, TYPES)
    y = np.where(np.arange(N) % 5 == 0, -1, y) if loss.views == 2 else y
    sampler = (Balanced if loss.views == 1 else Views)(y, 25, 0)
    return train(encoder, loss, source(), y, sampler)


def pair():
    """Two modalities, of which some cells have one, and whose views are drawn for a whole batch."""
    torch.manual_seed(3)
    random, (_, y) = np.random.default_rng(3), table()
    measured = np.ones((N, 2), dtype=bool)
    measured[::4, 1] = False
    x = Pair(tuple(random.normal(size=(N, k)).astype(np.float32) for k in (6, 3)), measured)
    encoder, loss = networks.build(MLP((8,)), Memory(x).widths, 4), losses.make("clip")
    loss.build(4, TYPES)
    views = augment.Modalities(augment.make("mask:p=0.3"), (6, 3), 2)
    return train(encoder, loss, Memory(x), y, Views(y, 25, 0), augment=views)


def place():
    """The map head, blurred."""
    torch.manual_seed(4)
    random, (_, y) = np.random.default_rng(4), table()
    known, z = (torch.from_numpy(random.normal(size=(N, k)).astype(np.float32)) for k in (5, 4))
    head = MapHead(5, 4, 2)
    head.fit_inputs(known, z, 0.5, 0.3)
    graph = neighbours.fit(known.numpy(), y, 0.5, 0)
    sampler = Neighbourhoods(graph.graph.numpy(), 41, 0)
    return train(head, graph, Memory(head.inputs(known, z).numpy()), np.arange(N), sampler, augment=head.jitter)


def results():
    found = {f"batch of {n}, {text}": gradients(n, text) for n in (1, 7, 24) for text in LOSSES}
    found |= {text: metric(text) for text in TEXTS} | {"pair": pair(), "map": place()}
    return {
        f"{what}: {name}": value.detach().numpy() for what, values in found.items() for name, value in values.items()
    }


def register_deadly():
    """Only here: the tests go through all losses that are registered."""

    @losses.register("deadly")
    class Deadly(losses.Loss):
        """The second process is killed in its third batch."""

        batches = 0

        def forward(self, z, y):
            self.batches += 1
            if self.batches == 3 and processes.rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return z.square().mean()


def refused(*call):
    """What a call raises."""
    try:
        call[0](*call[1:])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def typed(*arguments):
    """The status and the stderr of a command line."""
    out, err, status = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as leave:
            status = leave.code
    return f"{status}|{out.getvalue()}|{err.getvalue()}"


def work(folder, cells):
    devices.start("cpu", "auto")
    here, out = processes.rank(), ("--out", folder / "out.h5ad")
    np.savez(folder / f"{here}.npz", **results())
    said = {
        "same": refused(processes.check_same, 5, np.arange(3 + here)),
        "gpus": refused(devices.check_gpus, here, 1),
        "batch": refused(training.check_terms, losses.make("softmax"), np.zeros(1, dtype=int), None, 0),
        "evaluate": typed("evaluate", cells, "--label", "kind"),
        "losses": typed("losses", "clip"),
        "column": typed("fit", cells, "--label", "kinds", *out),
        "device": typed("fit", cells, "--label", "kind", *out, "--device", "cuda"),
        "own": typed("fit", cells, "--label", f"label {here}", *out),
        "fit": typed("fit", cells, *FIT, *out),
        "fitted": ",".join(sorted(path.name for path in folder.glob("*.h5ad"))),
    }
    np.savez(folder / f"said {here}.npz", **said)
    register_deadly()
    cli.main(["fit", str(cells), "--label", "kind", "--loss", "deadly + softmax", "--out", str(folder / "never.h5ad")])


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
