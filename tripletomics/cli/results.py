"""How a command ends: what was written when another file could not be, and how to continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def hinting(hint: str) -> Iterator[None]:
    """Add to the message after Ctrl-C how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hint) from None


class Written:
    """The files that were written, and the errors of those that were not."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.errors: list[Exception] = []

    def try_to(self, path: Path, write: Callable[[], Any]) -> Any:
        """Write a file and return what `write` returns, or record the error."""
        try:
            result = write()
        except Exception as error:
            self.errors.append(error)
            return None
        self.paths.append(path)
        return result

    def check(self) -> None:
        """Raise if a file was not written, and name those that were."""
        if not self.errors:
            return
        if len(self.errors) == 1 and not self.paths:
            raise self.errors[0]
        for error in self.errors:
            if not isinstance(error, OSError):
                raise error
        names = " and ".join(repr(str(path)) for path in self.paths)
        there = f"{names} {'was' if len(self.paths) == 1 else 'were'} written."
        raise OSError(" ".join([*map(str, self.errors), *[there] * bool(self.paths)])) from self.errors[0]
