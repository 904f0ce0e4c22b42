"""What all losses share: registration, text to object and back, sums, foreign modules."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar, cast, dataclass_transform

import numpy as np
import torch
from torch import Tensor, nn

from tripletomics import parts
from tripletomics.losses.levels import Levels
from tripletomics.losses.minibatch import labelled, zero
from tripletomics.losses.registry import LOSSES
from tripletomics.samplers import BatchGuide

L = TypeVar("L", bound="Loss")

_WEIGHT = "write a sum as 'softmax + 0.003*center', each weight a number in (0, inf)"


class Loss(nn.Module):
    """The base of all losses: a dataclass of settings that is a torch module.

    Subclasses are decorated with `register`, annotate their settings and define ``forward(z, y)``; those with
    parameters define `build`, those with bounds on settings ``__post_init__``. Losses add up.

    Attributes
    ----------
    name
        The registered name.
    collapses
        Whether training on this loss alone moves all cells to one point; see `check`.
    normalised
        Whether only the direction of z counts; see `check`.
    supervised
        Whether it learns only from labelled cells.
    views
        Views of each cell that it compares: 1, ``loss(z, y)``, or 2, ``loss(z1, z2, y)`` (see `losses.views`).
    momentum
        How much a momentum encoder, which gives views without gradient, keeps of itself at each step; 0 for none.
    neighbours
        The second view is that of one of this many nearest cells in the data; 0 for the cell itself.
    predicts
        Whether a network of the loss predicts one view from the other; see `check`.
    mines
        Whether `refresh` chooses rows that come with each cell as further views, ``loss(z, *others, y)``.
    parameter_lr
        Learning rate of the loss's own parameters, in the encoder's; `parameter_eps` is Adam's epsilon for them.
    epochs
        Epochs between two calls of `refresh`; 0 for none.
    coarse
        Whether it learns from cells whose class is known coarsely; others see them as unlabelled. See `set_levels`.
    ordered
        Whether y is a value, float with NaN where it is missing, in place of a class.
    pace
        Training steps for every doubling of the cells beyond 50, see `training.default_steps`.
    of_cells
        Whether it is told which training cells a minibatch shows, ``loss(*views, y, cells=...)``; as of two views.

    Examples
    --------
    >>> (tt.losses.Softmax() + 0.003 * tt.losses.Center()).views
    1
    """

    name: str = ""
    collapses: bool = False
    normalised: bool = False
    supervised: bool = True
    views: int = 1
    momentum: float = 0.0
    predicts: bool = False
    mines: bool = False
    neighbours: int = 0
    pace: int = 30
    parameter_lr: float = 1.0
    parameter_eps: float = 1e-8
    epochs: int = 0
    coarse: bool = False
    ordered: bool = False
    of_cells: bool = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make an empty module, so that the dataclass can set its settings."""
        self = super().__new__(cls)
        Loss.__init__(self)
        return self

    def __init__(self) -> None:
        super().__init__()
        self.label_levels = Levels()

    def set_n_cells(self, n_cells: int) -> None:
        """Record the number of training cells; called before `build`."""

    def set_levels(self, levels: Levels) -> None:
        """Record which classes each code may be; called before `build`."""
        self.label_levels = levels

    def known_codes(self, y: Tensor) -> Tensor:
        """Return codes with -1 for those that this loss cannot learn from."""
        return y if self.coarse else self.label_levels.fine(y)

    def build(self, dim: int, n_classes: int) -> None:
        """Create the parameters for `dim` columns of z and `n_classes` classes, in place; most losses have none."""

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the parameters as groups for torch.optim, given the encoder's learning rate."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": trained, "lr": self.parameter_lr * lr, "eps": self.parameter_eps, "weight_decay": 0.0}]

    def set_progress(self, step: int, steps: int) -> None:
        """Record the progress of training; called before each step."""

    def momentum_at(self, step: int, steps: int) -> float:
        """Return how much the momentum encoder keeps of itself after a step."""
        return self.momentum

    def refresh(self, z: Tensor, y: Tensor) -> BatchGuide:
        """Return what the next minibatches should hold, given all training cells; called every `epochs` epochs."""
        return BatchGuide()

    def has_terms(self, y: np.ndarray) -> bool:
        """Return whether a minibatch with these codes has anything to compare: by default, a labelled cell."""
        return bool((y >= 0).any())

    def trace(self) -> dict[str, Tensor]:
        """Return numbers (0-d) to keep in the history of each step."""
        return {}

    def summary_arrays(self) -> dict[str, np.ndarray]:
        """Return what the trained loss has learned about the classes, by name."""
        return {}

    def __add__(self, other: nn.Module) -> Sum:
        return Sum([self, other])

    def __rmul__(self, weight: float) -> Sum:
        return Sum([self], [weight])

    __mul__ = __rmul__


class Sum(Loss):
    r"""A weighted sum of losses.

    .. math:: L = \sum_k w_k L_k

    Parameters
    ----------
    members
        The losses, each as text or object; a sum among them is split into its members.
    weights
        One number in (0, inf) per member; 1 by default.

    Examples
    --------
    >>> tt.losses.spec(tt.losses.Sum(["softmax", "center"], weights=[1, 0.003]))
    'softmax + 0.003*center'
    """

    name = "sum"
    weights: tuple[float, ...]
    members: nn.ModuleList

    def __init__(self, members: Iterable[str | nn.Module], weights: Iterable[float] | None = None) -> None:
        super().__init__()
        losses = [make(member) for member in members]
        factors = [1.0] * len(losses) if weights is None else list(weights)
        if not losses or len(losses) != len(factors):
            raise ValueError(f"A sum needs at least one loss and a weight for each: got {len(losses)}, {len(factors)}.")
        for weight in factors:
            if isinstance(weight, str) or not 0 < weight < math.inf:
                raise ValueError(f"The weight {weight!r} is not a number in (0, inf).")
        terms = [
            (weight * inner, member)
            for weight, loss in zip(factors, losses, strict=True)
            for inner, member in (loss.terms() if isinstance(loss, Sum) else [(1.0, loss)])
        ]
        self.weights = tuple(float(weight) for weight, _ in terms)
        self.members = nn.ModuleList(losses := [member for _, member in terms])
        self.collapses = all(loss.collapses for loss in losses)
        for trait in ("normalised", "supervised", "predicts", "ordered"):
            setattr(self, trait, any(getattr(loss, trait) for loss in losses))
        self.epochs = min((loss.epochs for loss in losses if loss.epochs), default=0)
        self.views, self.pace = max(loss.views for loss in losses), max(loss.pace for loss in losses)
        with_encoder = [loss for loss in losses if loss.momentum]
        if len(with_encoder) > 1:
            named = " and ".join(loss.name for loss in with_encoder)
            raise ValueError(f"{named} would each need a momentum encoder, and there is only one: keep one of them.")
        self.momentum = sum((loss.momentum for loss in with_encoder), 0.0)
        near = {loss.neighbours for loss in losses if loss.views == 2}
        if len(near) > 1:
            raise ValueError(
                f"Losses of two views share these views, but ask for {sorted(near)} neighbours: give all the same."
            )
        self.neighbours = max(near, default=0)
        self.coarse = True  # each member has its own way with coarse codes

    def terms(self) -> list[tuple[float, Loss]]:
        """List the weights with their losses."""
        return list(zip(self.weights, cast("Iterable[Loss]", self.members), strict=True))

    def _each(self, hook: str, *given: Any) -> list[Any]:
        """Call a method of every member, and return what they return."""
        return [getattr(member, hook)(*given) for member in self.members]

    def set_n_cells(self, n_cells: int) -> None:
        """Pass the number of training cells to every member."""
        self._each("set_n_cells", n_cells)

    def set_levels(self, levels: Levels) -> None:
        """Pass the levels to every member."""
        super().set_levels(levels)
        self._each("set_levels", levels)

    def build(self, dim: int, n_classes: int) -> None:
        """Build every member."""
        self._each("build", dim, n_classes)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return every member's groups."""
        return [group for groups in self._each("parameter_groups", lr) for group in groups]

    def set_progress(self, step: int, steps: int) -> None:
        """Pass the progress of training to every member."""
        self._each("set_progress", step, steps)

    def momentum_at(self, step: int, steps: int) -> float:
        """Return how much the one momentum encoder keeps of itself."""
        return float(sum(self._each("momentum_at", step, steps)))

    def refresh(self, z: Tensor, y: Tensor) -> BatchGuide:
        """Refresh the members that need it; the first that asks for certain minibatches gets them."""
        asked_for = [member.refresh(z, member.known_codes(y)) for _, member in self.terms() if member.epochs]
        mined, distances = zip(*asked_for, strict=True)
        first = [next((asked for asked in found if asked is not None), None) for found in (mined, distances)]
        # two views leave no room for mined rows: offline triplets are then chosen within the minibatch
        return BatchGuide(first[0] if self.views == 1 else None, first[1])

    def has_terms(self, y: np.ndarray) -> bool:
        """Return whether every member has something to compare."""
        return all(member.has_terms(member.known_codes(torch.from_numpy(y)).numpy()) for _, member in self.terms())

    def trace(self) -> dict[str, Tensor]:
        """Return what all members trace."""
        return {name: value for found in self._each("trace") for name, value in found.items()}

    def summary_arrays(self) -> dict[str, np.ndarray]:
        """Return what all members have learned."""
        return {name: value for found in self._each("summary_arrays") for name, value in found.items()}

    def forward(self, z: Tensor, *others: Tensor, **known: Tensor) -> Tensor:
        """Return the weighted sum. Mined rows go to the losses that mine, and a second view to those of two views."""
        values = [weight * self._value_of(member, z, *others, **known) for weight, member in self.terms()]
        return torch.stack(values).sum()

    def _value_of(self, member: Loss, z: Tensor, *others: Tensor, **known: Tensor) -> Tensor:
        *views, y = z, *others
        codes = member.known_codes(y)
        if member.views == 2:
            return member(*views, codes, **known)
        return member(*views, codes) if member.mines and self.views == 1 else member(z, codes)

    def extra_repr(self) -> str:
        """Return the sum as text."""
        return spec(self)


class Foreign(Loss):
    """Any torch module called as ``module(z, y)``, such as a loss of pytorch-metric-learning.

    It never sees unlabelled cells and must return a 0-d tensor. Its parameters are trained like those of
    other losses.

    Examples
    --------
    >>> from pytorch_metric_learning.losses import NCALoss
    >>> model = tt.fit(adata, "cell_type", loss=tt.losses.Foreign(NCALoss()))  # or loss=NCALoss()
    """

    name = "foreign"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the module's value on the labelled cells, 0 if there are none."""
        cells, codes = labelled(z, y)
        if not len(codes):
            return zero(z)
        value = self.module(cells, codes)
        if not isinstance(value, Tensor) or value.dim() != 0:
            shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"{type(self.module).__name__} returned {shape}, not a 0-d tensor: let it reduce over the minibatch."
            )
        return value.to(z.dtype) + zero(z)


@dataclass_transform(eq_default=False)
def register(name: str) -> Callable[[type[L]], type[L]]:
    """Decorate a subclass of `Loss` so that ``"name:setting=value"`` makes one; its annotated names become settings.

    The class becomes a ``dataclass(eq=False)``. Names are lower-case letters, digits and ``_``; another class's name
    is a ValueError.

    Examples
    --------
    >>> @tt.losses.register("pull")
    ... class Pull(tt.losses.Loss):
    ...     weight: float = 1.0
    ...     def forward(self, z, y):
    ...         return self.weight * z.square().mean()
    >>> tt.losses.spec(tt.losses.make("softmax + 0.1*pull:weight=2"))
    'softmax + 0.1*pull:weight=2.0'
    """

    def decorate(cls: type[L]) -> type[L]:
        if not issubclass(cls, Loss):
            raise TypeError(f"{cls.__qualname__} is not a subclass of Loss.")
        cls = dataclasses.dataclass(eq=False)(cls)
        parts.register(name, LOSSES)(cls)
        return cls

    return decorate


def make(loss: str | nn.Module) -> Loss:
    """Return the loss for what a user gives as ``loss=``.

    Parameters
    ----------
    loss
        A name (``"triplet"``), a name with settings (``"triplet:margin=0.3,mining=hard"``), a sum (``"softmax +
        0.003*center"``), a loss object (returned as it is), or any torch module called as ``module(z, y)`` (wrapped
        in `Foreign`).

    Raises
    ------
    ValueError
        For text that names no loss or setting, a setting out of its range, or a weight that is not in (0, inf).
    TypeError
        For anything else that is not a torch module.

    Examples
    --------
    >>> tt.losses.make("contrastive:margin=2")
    Contrastive(margin=2.0, distance='euclidean')
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, nn.Module):
        return Foreign(loss)
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        raise TypeError(f"loss={loss.__name__} is a class: pass an object, {loss.__name__}().")
    if not isinstance(loss, str):
        raise TypeError(f"loss={loss!r} is neither text such as 'triplet:margin=0.2' nor a torch module.")
    terms = [_read_term(term, loss) for term in re.split(r"(?<![\d.]e)\+", loss)]  # not at the + of 1e+20
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]
    return Sum([member for _, member in terms], [weight for weight, _ in terms])


def spec(loss: Loss) -> str:
    """Write a loss as text: ``make(spec(loss))`` makes an equal one.

    One without a registered name, such as a foreign module, is written as its class, which `make` cannot read.

    Examples
    --------
    >>> tt.losses.spec(tt.losses.Softmax() + 0.003 * tt.losses.Center())
    'softmax + 0.003*center'
    """
    if isinstance(loss, Sum):
        terms = loss.terms()
        return " + ".join(spec(member) if weight == 1 else f"{weight!r}*{spec(member)}" for weight, member in terms)
    if LOSSES.get(loss.name) is type(loss):
        return parts.spec(loss)
    cls = type(loss.module) if isinstance(loss, Foreign) else type(loss)
    return f"{cls.__module__}.{cls.__qualname__}"


def _read_term(term: str, text: str) -> tuple[float, Loss]:
    before, star, after = term.rpartition("*")
    if not after.strip():
        raise ValueError(f"loss={text!r} has a term without a loss: {_WEIGHT}.")
    try:
        weight = float(before) if star else 1.0
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ValueError(f"loss={text!r}: {before.strip()!r} is not a weight: {_WEIGHT}.")
    return weight, parts.make(after, LOSSES, "loss")
