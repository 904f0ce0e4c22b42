"""What a comparison writes: one self-contained HTML page, and what a paper needs."""

from tripletomics.report.page import write

__all__ = ["write"]
