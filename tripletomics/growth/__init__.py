"""A map that grows: from a model and new cells to networks that know both, without the expression of the old cells."""

from tripletomics.growth.joining import join_calibration, join_catalog, join_reference, join_seen, recode
from tripletomics.growth.networks import TESTED, Grown, grow_networks
from tripletomics.growth.stand_ins import StandIns, draw
