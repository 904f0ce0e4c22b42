"""Figures: maps with held-out cells marked, scores next to their null, confusions, training curves, genes, new cells.

Nothing here computes an embedding or changes matplotlib's settings; of ``adata`` only the colours of types are written,
into ``uns``, as scanpy does. Held-out cells are drawn on top in full colour with a darker edge, training cells pale
beneath them: only the former show how good a supervised map is. The words "no signal" are written on a map or score
without any.

``tt.pl.PALETTE`` holds the default colours of types, as hexadecimal codes. A type has the colour at its rank among the
types of the model. The first ten lie furthest apart, also for those who hardly tell red from green.

>>> tt.pl.PALETTE[0].startswith("#")
True
"""

from tripletomics.pl.confusions import confusion
from tripletomics.pl.curves import history
from tripletomics.pl.explanation import genes
from tripletomics.pl.maps import embedding
from tripletomics.pl.new_cells import mapping
from tripletomics.pl.palette import PALETTE
from tripletomics.pl.relation import relate
from tripletomics.pl.score_panel import scores
from tripletomics.pl.side_by_side import compare
from tripletomics.pl.structure_dial import dial
from tripletomics.pl.text import save
from tripletomics.pl.type_tree import tree

__all__ = [
    "PALETTE",
    "compare",
    "confusion",
    "dial",
    "embedding",
    "genes",
    "history",
    "mapping",
    "relate",
    "save",
    "scores",
    "tree",
]


def __dir__() -> list[str]:
    return __all__
