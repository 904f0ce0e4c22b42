"""What is on disk: rows that are read, coordinates that are written, and tables that are written anew."""
