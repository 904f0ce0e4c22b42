"""Figures: maps with held-out cells marked, scores beside their null, confusions, training curves, genes, new cells.

Nothing here computes an embedding or changes ``adata`` or matplotlib's settings. Held-out cells are drawn on top in
full colour with a dark edge, training cells pale beneath them: only the former show how good a supervised map is. A map
or score without signal says so in words.
"""

from tripletomics.pl.confusions import confusion
from tripletomics.pl.dial import dial
from tripletomics.pl.draw import save
from tripletomics.pl.genes import genes
from tripletomics.pl.look import PALETTE
from tripletomics.pl.mapping import mapping
from tripletomics.pl.maps import compare, embedding
from tripletomics.pl.panel import scores
from tripletomics.pl.training import history, tree

__all__ = [
    "PALETTE",
    "compare",
    "confusion",
    "dial",
    "embedding",
    "genes",
    "history",
    "mapping",
    "save",
    "scores",
    "tree",
]
