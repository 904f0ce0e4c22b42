"""A map that grows: from a model and new cells to networks that know old and new cells, without old expression."""

from tripletomics.growth.joining import join_calibration, join_catalog, join_reference, join_seen, recode
from tripletomics.growth.networks import TESTED, Grown, grow_networks
from tripletomics.growth.simulation import SimulatedCells, simulate
