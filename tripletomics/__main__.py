"""The command line, also as ``python -m tripletomics``."""

import sys


def main() -> None:
    """Run the command line; its imports take a moment, in which Ctrl-C is no bug either."""
    try:
        from tripletomics.cli import main as run

        run()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
