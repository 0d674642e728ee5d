"""
Frozen dataclasses ⇄ the plain values that JSON has, each read as its field's type says.

Pure; knows none of the classes.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Final, Literal, TypeVar

#: Types of values that JSON has.
_JSON: Final = frozenset({str, int, float, bool, dict, type(None)})

_T = TypeVar("_T")


def plain(value: Any) -> Any:
    """
    A value in the plain ones that JSON has, without the fields that have their default; the version is always told.

    Args:
        value: A dataclass of dataclasses, tuples, dicts, times and what JSON has.
    """
    kind: Any = type(value)
    if kind in _JSON:
        return value
    if kind is tuple:
        return [plain(part) for part in value]
    if kind is datetime:
        return value.isoformat(timespec="microseconds")
    names, defaults, parts_of = _fields(kind)
    parts = zip(names, parts_of(value), defaults, strict=True)
    return {name: plain(part) for name, part, default in parts if part != default or name == "version"}


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, ...], tuple[Any, ...], Callable[[Any], tuple[Any, ...]]]:
    """The names of a class's fields, what they are when nobody says, and what reads them all."""
    fields = dataclasses.fields(kind)
    names = tuple(one.name for one in fields)
    defaults = (one.default if one.default_factory is dataclasses.MISSING else one.default_factory() for one in fields)
    return names, tuple(defaults), operator.attrgetter(*names)


def revive(kind: type[_T], value: Any) -> _T:
    """
    The value that `plain` was given.

    Args:
        kind: Its class.

    Raises:
        KeyError: A field is missing.
        TypeError: A value has not the type that its field wants.
        ValueError: A time or a choice is none.
    """
    read: Callable[[Any], _T] = _reader(kind)  # type: ignore[arg-type]
    return read(value)


@functools.cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """What reads a value of that type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin is Literal:
        return functools.partial(_choice, arguments)
    if origin is types.UnionType:
        [inner] = (_reader(part) for part in arguments if part is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is dict:
        key, inner = (_reader(part) for part in arguments)
        return lambda value: {key(name): inner(part) for name, part in value.items()}
    return {datetime: _time, float: _number}.get(kind) or functools.partial(_simple, kind)


def _dataclass_reader(kind: Any) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind)
    readers = {one.name: _reader(hints[one.name]) for one in dataclasses.fields(kind)}

    def read(value: Any) -> Any:
        return kind(**{name: readers[name](part) for name, part in value.items() if name in readers})

    return read


def _tuple_reader(arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    if arguments[-1] is Ellipsis:
        each = _reader(arguments[0])
        return lambda value: tuple(each(part) for part in _simple(list, value))
    parts = tuple(_reader(part) for part in arguments)
    return lambda value: tuple(read(part) for read, part in zip(parts, _simple(list, value), strict=True))


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    return value


def _time(value: Any) -> datetime:
    return datetime.fromisoformat(_simple(str, value)).astimezone(timezone.utc)


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _simple(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
