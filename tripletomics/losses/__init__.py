"""The losses, and what makes them from text.

A loss is a small torch module, called ``loss(z, y)`` with embeddings z (n, dim) and class codes y (n,), that returns
one number. Write your own in a notebook::

    @tt.losses.register("spread")
    class Spread(tt.losses.Loss):
        weight: float = 1.0

        def forward(self, z, y):
            z, y = tt.losses.labelled(z, y)
            return -self.weight * z.var()

and ``tt.fit(adata, label="cell_type", loss="softmax + 0.1*spread:weight=2")`` knows it. The annotated names are its
settings.
"""

from tripletomics.losses.base import (
    Foreign,
    Loss,
    Sum,
    make,
    register,
    spec,
)
from tripletomics.losses.batch import NCA, SupCon
from tripletomics.losses.centers import HardTriple, SoftTriple
from tripletomics.losses.checks import check
from tripletomics.losses.minibatch import labelled, zero
from tripletomics.losses.ordered import Coral, RankNContrast
from tripletomics.losses.proxies import (
    AdaCos,
    ArcFace,
    Center,
    CosFace,
    NormSoftmax,
    ProxyLoss,
    ProxyNCA,
    Softmax,
)
from tripletomics.losses.registry import family, names
from tripletomics.losses.tuples import Angular, Contrastive, HierarchicalTriplet, Quadruplet, RankNet, Triplet
from tripletomics.losses.views import (
    BYOL,
    CLIP,
    BarlowTwins,
    InfoNCE,
    MoCo,
    SimCLR,
    SimSiam,
    VICReg,
    ViewLoss,
)

__all__ = [
    "BYOL",
    "CLIP",
    "NCA",
    "AdaCos",
    "Angular",
    "ArcFace",
    "BarlowTwins",
    "Center",
    "Contrastive",
    "Coral",
    "CosFace",
    "Foreign",
    "HardTriple",
    "HierarchicalTriplet",
    "InfoNCE",
    "Loss",
    "MoCo",
    "NormSoftmax",
    "ProxyLoss",
    "ProxyNCA",
    "Quadruplet",
    "RankNContrast",
    "RankNet",
    "SimCLR",
    "SimSiam",
    "SoftTriple",
    "Softmax",
    "Sum",
    "SupCon",
    "Triplet",
    "VICReg",
    "ViewLoss",
    "check",
    "family",
    "labelled",
    "make",
    "names",
    "register",
    "spec",
    "zero",
]
