"""What a comparison leaves behind: one self-contained HTML page, and what a paper needs of it."""

from tripletomics.report.page import write

__all__ = ["write"]
