"""Values that travel to a program and back: typed JSON, never pickled.

Both sides import this module, the inner one too: it needs the standard library alone, and numpy
only where an array travels.

None, bool, str, float, lists and ints below 2⁶³ are JSON itself (with NaN and Infinity); every
other value is an object with one key, its type: ``{"tuple": [1, 2]}``, ``{"numpy": ["<f8", 0.5]}``.
"""

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable
from typing import Any

PLAIN = {type(None), bool, str, float}
NESTED = {list, dict}
SMALL = 2**63  # larger integers travel as hexadecimal: Python refuses decimals of 4,300 digits
MOST_ALIKE = 1_000  # items of one hash, in one set or dict
DTYPE = re.compile(r"[<>|][biufc]\d{1,2}")


def encode(value: Any) -> Any:
    """Return what ``json.dumps`` can write of a value.

    A subclass travels as its base, taken with the base's own methods: a ``str`` that lies about
    its ``__eq__`` arrives as plain text. NumPy's scalars of numbers stay what they are.

    Raises
    ------
    TypeError
        When the value, or one inside, has another type; it is named.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    encoder = ENCODERS.get(kind)
    return encoder(value) if encoder else _encode_other(value)


def decode(data: Any) -> Any:
    """Return the value that :func:`encode` wrote; the data may be anybody's.

    Raises
    ------
    ValueError, TypeError, KeyError, RecursionError, OverflowError
        When it is nobody's value.
    """
    kind = type(data)
    if kind is list:
        return data if NESTED.isdisjoint(map(type, data)) else [decode(item) for item in data]
    if kind is not dict:
        return data
    ((tag, content),) = data.items()
    return DECODERS[tag](content)


def digest(value: Any) -> str:
    """Return the sha256 of a value's typed JSON, its sets and dicts in a fixed order."""
    return digest_of(encode(value))


def digest_of(data: Any) -> str:
    """Return the digest of the value that was encoded as ``data``; NumPy's scalars as Python's."""
    return hashlib.sha256(json.dumps(_ordered(data)).encode()).hexdigest()


def _encode_int(value: int) -> Any:
    return value if -SMALL < value < SMALL else {"int": hex(value)}


def _encode_list(value: list) -> list:
    kinds = set(map(type, value))
    whole = kinds <= PLAIN or (kinds == {int} and min(value) > -SMALL and max(value) < SMALL)
    return value if whole else [encode(item) for item in value]


def _encode_dict(value: dict) -> dict:
    return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}


ENCODERS: dict[type, Callable[[Any], Any]] = {
    int: _encode_int,
    list: _encode_list,
    dict: _encode_dict,
    tuple: lambda value: {"tuple": _encode_list(list(value))},
    set: lambda value: {"set": _encode_list(list(value))},
    frozenset: lambda value: {"frozenset": _encode_list(list(value))},
    complex: lambda value: {"complex": [value.real, value.imag]},
    bytes: lambda value: {"bytes": base64.b64encode(value).decode()},
}
# How an instance of a subclass becomes its base, whatever the subclass overrides.
BASES: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    bytes: bytes.__bytes__,
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
}
DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda content: int(content, 16),
    "tuple": lambda content: tuple(decode(content)),
    "set": lambda content: set(_hashed_apart(decode(content))),
    "frozenset": lambda content: frozenset(_hashed_apart(decode(content))),
    "dict": lambda content: _decode_dict(content),
    "complex": lambda content: complex(*content),
    "bytes": lambda content: base64.b64decode(content, validate=True),
    "ndarray": lambda content: _decode_array(*content),
    "numpy": lambda content: _decode_scalar(*content),
}


def _encode_other(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _encode_array(numpy.ascontiguousarray(value).reshape(value.shape))
    if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biufc":
        item = value.item()  # of a long double it is itself
        item = float(value) if isinstance(item, numpy.generic) else item
        return {"numpy": [value.dtype.str, encode(item)]}
    for base, plain in BASES.items():
        if isinstance(value, base):
            return encode(plain(value))
    raise TypeError(type(value).__name__)


def _decode_dict(content: list) -> dict:
    keys = _hashed_apart([decode(key) for key, _ in content])
    return dict(zip(keys, [decode(item) for _, item in content], strict=True))


def _hashed_apart(items: list) -> list:
    """Return the items; refuse many of one hash, whose set would take the square of their number.

    Integers that differ by a multiple of 2⁶¹ − 1 are such: a program could stop its caller.
    """
    hashes = sorted(map(hash, items))
    if any(map(int.__eq__, hashes, hashes[MOST_ALIKE:])):
        raise ValueError("many items of one hash")
    return items


def _encode_array(array: Any) -> dict:
    if not DTYPE.fullmatch(array.dtype.str):
        raise TypeError(f"ndarray of {array.dtype}")
    content = base64.b64encode(array.tobytes()).decode()
    return {"ndarray": [array.dtype.str, list(array.shape), content]}


def _decode_scalar(dtype: str, item: Any) -> Any:
    import numpy

    if not DTYPE.fullmatch(dtype) or type(value := decode(item)) not in (bool, int, float, complex):
        raise ValueError(f"a scalar of {dtype!r}")
    with numpy.errstate(all="ignore"):
        return numpy.dtype(dtype).type(value)


def _decode_array(dtype: str, shape: list[int], content: str) -> Any:
    import numpy

    if not DTYPE.fullmatch(dtype):
        raise ValueError(f"an array of {dtype!r}")
    flat = numpy.frombuffer(base64.b64decode(content, validate=True), dtype)
    return flat.reshape([int(length) for length in shape]).copy()


def _ordered(data: Any) -> Any:
    """Return encoded data with the entries of sets and dicts sorted by their text."""
    if type(data) is list:
        return [_ordered(item) for item in data]
    if type(data) is not dict:
        return data
    ((tag, content),) = data.items()
    content = _ordered(content)
    if tag == "numpy":
        return content[1]
    return {
        tag: sorted(content, key=json.dumps) if tag in ("set", "frozenset", "dict") else content
    }
