"""Losses that compare two views of the same cells, and need no label.

Row i of z1 and row i of z2 show one cell: twice with other genes hidden, or once by its RNA and once by its proteins.
The losses pull the two together and differ in what keeps all cells from falling into one point. `InfoNCE`, `SimCLR`,
`MoCo` and `CLIP` push other cells away (but not those with a label of the same type). `BYOL` and
`SimSiam` follow a view that gives no gradient, through a predictor. `VICReg` and `BarlowTwins` keep the columns of z
spread and unlike each other.

Take two cells whose views agree, z1 = z2 = (1, 0) and (0, 1). The cosine to the own other view is 1 and to the other
cell 0, so at temperature 1 `InfoNCE` is log(1 + exp(-1)) = 0.31; at 0.07 it is 6e-7, and nothing is left to learn.
"""

from tripletomics.losses.views.agreement import BYOL, BarlowTwins, SimSiam, VICReg
from tripletomics.losses.views.base import ViewLoss, spread
from tripletomics.losses.views.contrast import CLIP, InfoNCE, MoCo, SimCLR

__all__ = ["BYOL", "CLIP", "BarlowTwins", "InfoNCE", "MoCo", "SimCLR", "SimSiam", "VICReg", "ViewLoss", "spread"]
