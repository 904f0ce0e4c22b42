"""What is on disk: rows that are read, coordinates that are written, and datasets that are converted."""
