"""Arrays and names that the methods of a model are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp

from tripletomics.features import Features
from tripletomics.labels import is_missing
from tripletomics.modalities import Pair, PairFeatures
from tripletomics.sources import Matrix


def check_cells(contract: Features | PairFeatures, x: Matrix, modalities: Mapping[str, Matrix] | None) -> Matrix | Pair:
    """Return cells as one table, or raise; `modalities` is None where a method has no room for names."""
    if modalities:
        if x is not None:
            raise TypeError(f"Pass x or {', '.join(modalities)}, not both.")
        return pair(contract, modalities)
    if isinstance(contract, PairFeatures) and not isinstance(x, Pair):
        a, b = contract.names
        way = f"say which x is, as in embed({a}=x) or embed({b}=x)"
        if modalities is None:
            way = f"pass what model.table({a}=x) or model.table({b}=x) returns"
        raise TypeError(f"This model has two modalities: {way}.")
    return x


def check_new_types(names: str | Sequence[str], n_cells: int, types: Sequence[str]) -> list[str]:
    """Return the new type of each cell as text, or raise if one is among `types` or means unlabelled."""
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    if not names or len(names) != n_cells:
        raise ValueError(f"{len(names)} names for {n_cells} cells: pass one for each, and at least one.")
    for name in sorted(set(names)):
        if name in types:
            raise ValueError(f"{name!r} is a type of the model already: enroll new types alone, or fit again.")
        if is_missing(name):
            raise ValueError(f"{name!r} means unlabelled: give the new type a name of its own.")
    return names


def pair(contract: Features | PairFeatures, modalities: Mapping[str, Matrix]) -> Pair:
    """Put the arrays of one or both modalities of some cells together, after checking them."""
    if isinstance(contract, Features):
        raise TypeError("This model has one modality: pass its array alone, as in embed(x).")
    unknown = [name for name in modalities if name not in contract.names]
    if unknown or not modalities:
        what = f"{unknown[0]!r} is not a modality of this model" if unknown else "No modality was given"
        raise TypeError(f"{what}: pass {contract.names[0]}=, {contract.names[1]}=, or both.")
    for name, part in zip(contract.names, contract.parts, strict=True):
        if name in modalities:
            check_table(modalities[name], part, name)
    sizes = {name: x.shape[0] for name, x in modalities.items()}
    if len(set(sizes.values())) > 1:
        given = " and ".join(f"{n} of {name}" for name, n in sizes.items())
        raise ValueError(f"Row i must be the same cell in both modalities: got {given}.")
    n = next(iter(sizes.values()))
    a, b = (
        modalities.get(name, sp.csr_matrix((n, len(part.genes)), dtype=np.float32))
        for name, part in zip(contract.names, contract.parts, strict=True)
    )
    return Pair((a, b), np.tile([name in modalities for name in contract.names], (n, 1)))


def check_table(x: Matrix, part: Features, modality: str = "") -> None:
    """Refuse what are not cells by the genes of a model or of one of its modalities."""
    name, whose = (modality, f"{modality}'s") if modality else ("x", "the model's")
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"{name} is {type(x).__name__}, not an array: tripletomics.transform and predict take AnnData.")
    n_genes = len(part.genes)
    if x.ndim != 2 or x.shape[1] != n_genes:
        where = f"model.part({modality!r}).genes" if modality else "model.features.genes"
        raise ValueError(f"{name} has shape {x.shape}: pass cells by {whose} {n_genes} genes, in the order of {where}.")


def check_places(*spaces: np.ndarray) -> None:
    """Raise if coordinates are NaN or infinite, so that no verb writes them."""
    lost = ~np.all([np.isfinite(z).all(axis=1) for z in spaces], axis=0)
    if lost.any():
        raise ValueError(
            f"{lost.sum():,} of {len(lost):,} cells have coordinates that are NaN or infinite (first: row "
            f"{int(lost.argmax())}). Their values may be too large, or the model may be damaged: check both."
        )


def check_present(present: object, contract: Features | PairFeatures) -> None:
    """Refuse what does not say of each gene, or of each gene of some modalities, whether it was measured."""
    if present is None:
        return
    if isinstance(contract, Features):
        _check_genes(present, contract, "the model's")
        return
    if not isinstance(present, Mapping) or not set(present) <= set(contract.names):
        given = ", ".join(map(repr, present)) if isinstance(present, Mapping) else type(present).__name__
        raise TypeError(
            f"present is {given}: pass a dict with True or False for each gene of "
            f"{' or '.join(map(repr, contract.names))}."
        )
    for name, part in zip(contract.names, contract.parts, strict=True):
        if present.get(name) is not None:
            _check_genes(present[name], part, f"{name}'s")


def _check_genes(present: object, part: Features, whose: str) -> None:
    n_genes = len(part.genes)
    if not isinstance(present, np.ndarray) or present.dtype != bool or present.shape != (n_genes,):
        what = (
            f"{present.dtype} of shape {present.shape}" if isinstance(present, np.ndarray) else type(present).__name__
        )
        raise ValueError(f"present is {what}: pass True or False for each of {whose} {n_genes} genes.")
