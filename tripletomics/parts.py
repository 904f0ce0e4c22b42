"""Parts: small dataclasses that a user gives as a name, a name with settings, or an object.

``"triplet"``, ``"triplet:margin=0.3,mining=hard"`` and ``Triplet(margin=0.3, mining="hard")`` say the same thing.
`make` turns text into an object and `spec` turns an object back into text; nothing in between knows the settings of a
part. Every kind of part (loss, encoder, augmentation) has its own registry, a plain ``dict`` from name to dataclass.

Settings are written ``true`` or ``false``, ``3``, ``0.5``, ``none``, a word, or whole numbers joined by ``-`` for a
tuple (``256-128``).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "none"}
_RESERVED = ",=:+*"  # the signs between settings, and between the terms of a sum
_TUPLE = "whole numbers joined by '-' (such as 256-128)"


def did_you_mean(given: object, options: Iterable[object]) -> str:
    """Return a hint at the option that is nearest to what was given, for an error message.

    Returns
    -------
    ``" Did you mean 'cell_type'?"`` with its leading space, or ``""`` if nothing is near.

    Examples
    --------
    >>> did_you_mean("celltype", ["batch", "cell_type"])
    " Did you mean 'cell_type'?"
    """
    by_lower = {str(option).lower(): str(option) for option in options}
    near = difflib.get_close_matches(str(given).lower(), list(by_lower), n=1)
    return f" Did you mean '{by_lower[near[0]]}'?" if near else ""


def register(name: str, registry: dict[str, type[T]]) -> Callable[[type[T]], type[T]]:
    """Decorate a dataclass so that `make` finds it as `name`; the class gets the attribute ``name``.

    Running the same notebook cell twice replaces the class; taking the name of another class is a ValueError.
    """

    def decorate(cls: type[T]) -> type[T]:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"{name!r} cannot name a part: use lower-case letters, digits and '_', a letter first.")
        if not dataclasses.is_dataclass(cls):
            raise TypeError(f"{cls.__qualname__} is not a dataclass: put @dataclass under the registration.")
        other = registry.get(name, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"'{name}' already names {other.__module__}.{other.__qualname__}: choose another name.")
        cls.name = name  # type: ignore[attr-defined]
        registry[name] = cls
        return cls

    return decorate


def make(text: str, registry: Mapping[str, type[T]], kind: str) -> T:
    """Turn ``"name"`` or ``"name:key=value,key=value"`` into a part.

    Parameters
    ----------
    text
        What the user wrote.
    registry
        The parts that may be named.
    kind
        The word for such a part (``"loss"``), used in messages.

    Raises
    ------
    ValueError
        For an unknown name or setting, or a value that is not of the setting's type.
    """
    name, colon, rest = (piece.strip() for piece in text.partition(":"))
    cls = find(name, registry, kind)
    hints = _setting_types(cls)
    settings: dict[str, Any] = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in pair.partition("="))
        if not key or not equals:
            raise ValueError(f"{kind}={text!r} cannot be read: write settings as {name}:key=value,key=value.")
        if key not in hints:
            allowed = ", ".join(hints) or "none"
            raise ValueError(f"{name} has no setting {key!r}.{did_you_mean(key, hints)} Settings: {allowed}.")
        if key in settings:
            raise ValueError(f"{name}: {key} is given twice.")
        settings[key] = read(value, hints[key], f"{name}: {key}")
    lacking = [
        field.name for field in _fields(cls) if _default(field) is dataclasses.MISSING and field.name not in settings
    ]
    if lacking:
        raise ValueError(f"{name} needs a value for {', '.join(lacking)}: write {name}:{lacking[0]}=value.")
    return cls(**settings)


def find(name: str, registry: Mapping[str, type[T]], kind: str) -> type[T]:
    """Return the class of a part; an unknown name is a ValueError, as in `make`."""
    if name not in registry:
        known = ", ".join(sorted(registry))
        raise ValueError(f"{kind}={name!r} is not known.{did_you_mean(name, registry)} Known: {known}.")
    return registry[name]


def read(text: str, hint: Any, what: str) -> Any:
    """Turn text into a value of a type; a ValueError names `what` it is for."""
    try:
        return _read(text, hint)
    except ValueError:
        raise ValueError(f"{what}={text!r} is not {_expected(hint)}.") from None


def defaults(cls: type) -> dict[str, str | None]:
    """List the settings of a part with their defaults as `make` reads them; None if there is none or no text for it."""
    return {field.name: _write(_default(field)) for field in _fields(cls)}


def spec(part: object) -> str:
    """Write a registered part as text: its name and the settings that differ from their defaults.

    ``make(spec(part), ...)`` gives an equal part; a part that no text can express is a ValueError.
    """
    cls = type(part)
    name = vars(cls).get("name")
    if not isinstance(name, str):
        raise ValueError(f"{cls.__qualname__} is not registered, so it has no name to write.")
    hints = _setting_types(cls)
    changed = []
    for field in _fields(cls):
        value = getattr(part, field.name)
        if value == _default(field):
            continue
        text = _write(value)
        if text is None or not _reads_as(text, hints[field.name], value):
            raise ValueError(f"{name}: {field.name}={value!r} cannot be written as text.")
        changed.append(f"{field.name}={text}")
    return name + (":" + ",".join(changed) if changed else "")


def check_number(part: object, setting: str, interval: str, *, whole: bool = False) -> None:
    """Raise a ValueError unless a part's setting is a number in an interval such as ``"[0, inf)"`` or ``"(0, 1]"``."""
    value = getattr(part, setting)
    low, high = (float(end) for end in interval[1:-1].split(","))
    fits = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    fits = fits and (low <= value if interval[0] == "[" else low < value)
    fits = fits and (value <= high if interval[-1] == "]" else value < high)
    if not fits:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{_name(part)}: {setting}={value!r} is not a {kind} in {interval}.")


def check_word(part: object, setting: str, options: Iterable[str]) -> None:
    """Raise a ValueError unless a part's setting is one of the options."""
    value, options = getattr(part, setting), list(options)
    if value not in options:
        near = did_you_mean(value, options)
        raise ValueError(f"{_name(part)}: {setting}={value!r} is not known.{near} Allowed: {', '.join(options)}.")


def check_flag(part: object, setting: str) -> None:
    """Raise a ValueError unless a part's setting is True or False."""
    value = getattr(part, setting)
    if not isinstance(value, bool):
        raise ValueError(f"{_name(part)}: {setting}={value!r} is not True or False.")


def _name(part: object) -> str:
    return getattr(part, "name", "") or type(part).__name__


def _fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _setting_types(cls: type) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # a notebook class may use names that live only inside a function
        hints = {}
    return {field.name: hints.get(field.name, type(_default(field))) for field in _fields(cls)}


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, text last because it accepts everything."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    order = [type(None), bool, int, float]
    return tuple(sorted(options, key=lambda o: order.index(o) if o in order else len(order) + (o is str)))


def _is_tuple(hint: Any) -> bool:
    return hint is tuple or typing.get_origin(hint) is tuple


def _expected(hint: Any) -> str:
    return " or ".join(
        _TUPLE if _is_tuple(o) else _EXPECTED.get(o, "something that text can express") for o in _choices(hint)
    )


def _read(text: str, hint: Any) -> Any:
    for option in _choices(hint):
        if option is type(None) and text.lower() == "none":
            return None
        if option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if option is str:
            return text
        if _is_tuple(option) and re.fullmatch(r"(\d+(-\d+)*)?", text):
            return tuple(int(piece) for piece in text.split("-")) if text else ()
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
    raise ValueError(text)


def _write(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, tuple):
        return "-".join(str(piece) for piece in value)
    if isinstance(value, str) and value == value.strip() and not set(value) & set(_RESERVED):
        return value
    return None


def _reads_as(text: str, hint: Any, value: Any) -> bool:
    try:
        return bool(_read(text, hint) == value)
    except ValueError:
        return False
