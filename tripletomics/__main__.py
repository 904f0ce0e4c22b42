"""The command line, also as ``python -m tripletomics``."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C during its imports, too, ends with one line."""
    try:
        from tripletomics.cli import main as run

        run()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
