"""What `uns` says of a map's held-out cells: their score, that there is no signal, or that nothing can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tripletomics import keys
from tripletomics.labels import verdict

if TYPE_CHECKING:
    from anndata import AnnData


def no_signal_remark(adata: AnnData, basis: str) -> str | None:
    """Return what ``uns`` says against a map whose held-out labels are found no better than permuted ones, or None."""
    record, space, said = _tested(adata, basis)
    return no_signal_text(*_scores(record, space)) if said == "no signal" else None


def score_remark(adata: AnnData, basis: str, color: str | None) -> str:
    """Return the score of held-out cells and that of permuted labels where a map has the colours of its labels."""
    record, space, said = _tested(adata, basis)
    settings, (held, null) = record.get("settings"), _scores(record, space)
    known = isinstance(settings, Mapping) and settings.get("label") == color and np.isfinite([held, null]).all()
    return f"held-out F1 {held:.2f}, permuted labels {null:.2f}" if known and said == "signal" else ""


def untested_remark(adata: AnnData, basis: str) -> str:
    """Return a remark where ``uns`` says that a test of the held-out labels could not tell; else an empty text."""
    record, space, said = _tested(adata, basis)
    if not isinstance(record.get("p_value"), Mapping) or space not in record["p_value"]:
        return ""
    return {"too few": ", too few to tell", "not tested": ", not tested"}.get(said, "")


def _scores(record: Mapping[str, Any], space: str) -> tuple[float, float]:
    """Return the score of held-out cells, and that of permuted labels; NaN where they are not known."""
    scores = record.get("scores")
    scores = keys.named_groups(scores) if isinstance(scores, Mapping) else None
    return _number(scores, "held-out", space), _number(scores, "permuted", space)


def _tested(adata: AnnData, basis: str) -> tuple[Mapping[str, Any], str, str]:
    """Return what `fit` wrote of a basis, which of its spaces that is, and the verdict on its held-out labels."""
    space, found = keys.space_of(basis), getattr(adata, "uns", {}).get(keys.map_key(basis))
    record = found if isinstance(found, Mapping) else {}
    return record, space, verdict(_number(record, "p_value", space), reachable_by(record.get("findings")))


def reachable_by(findings: Any) -> float:
    """Return the `metrics.reachable_p` that `fit` recorded; 0 where it is not known."""
    tested = findings.get("tested") if isinstance(findings, Mapping) else None
    return 0.0 if tested is None else float(tested[2])


def no_signal_text(held: float, null: float) -> str:
    """Return the words that there is no signal, with both scores where they are known."""
    if not np.isfinite([held, null]).all():
        return "no signal: held-out cells score no better than permuted labels"
    return f"no signal: held-out F1 {held:.2f}, permuted\u00a0labels\u00a0{null:.2f}"


def _number(record: Any, *keys: str) -> float:
    """Return the number at the end of some keys; NaN if there is none."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return float(record) if isinstance(record, (int, float, np.number)) else float("nan")
