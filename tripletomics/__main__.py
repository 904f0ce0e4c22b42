"""``python -m tripletomics`` is the command line."""

from tripletomics.cli import main

if __name__ == "__main__":
    main()
