"""Methods to compare with: each is fitted on training cells alone, and then embeds query cells.

`METHODS` lists them by the names that ``tt.compare`` takes. The libraries are imported inside: one of them takes
seconds, and nobody needs all. The same cells and seed give the same coordinates, and no global generator is moved.
"""

from tripletomics.baselines.inputs import Cells, Coordinates, prepare
from tripletomics.baselines.methods import METHODS, Method

__all__ = ["METHODS", "Cells", "Coordinates", "Method", "prepare"]
