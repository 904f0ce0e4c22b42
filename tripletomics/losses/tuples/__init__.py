"""Losses that compare the cells of a minibatch in pairs and triplets.

For an anchor a, a cell p of its class and a cell n of another class, a triplet loss asks d(a, n) to exceed d(a, p) by
a margin. With margin 0.2, d_ap = 1 and d_an = 1.5 the triplet is satisfied and counts nothing; with d_an = 1.1 it
counts 0.1, and its gradient pulls p in and pushes n out with strength 1 each.
"""

from tripletomics.losses.tuples.hierarchy import HierarchicalTriplet
from tripletomics.losses.tuples.relatives import Angular, Contrastive, Quadruplet, RankNet
from tripletomics.losses.tuples.triplet import Triplet

__all__ = ["Angular", "Contrastive", "HierarchicalTriplet", "Quadruplet", "RankNet", "Triplet"]
