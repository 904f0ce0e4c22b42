"""Methods to compare with: each is fitted on training cells alone, and then embeds query cells.

`METHODS` lists them by the names that ``tt.compare`` takes. A library is imported only when
its method runs, because that takes seconds. The same cells and seed give the same coordinates, and the global random
generators stay as they were.
"""

from tripletomics.baselines.inputs import Cells, Coordinates, prepare
from tripletomics.baselines.methods import METHODS, Method, title_of

__all__ = ["METHODS", "Cells", "Coordinates", "Method", "prepare", "title_of"]
