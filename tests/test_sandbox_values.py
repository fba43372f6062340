"""Values that travel: round trips, lies, hostile data, digests."""

import collections
import enum
import json
import math
import re
from typing import Any

import numpy as np
import pytest

from fnsft.evaluation.sandbox.values import decode, digest, encode

VALUES: list[Any] = [
    None,
    True,
    0,
    -(2**63),
    2**63 - 1,
    10**5_000,
    [1, -(2**80), 3],
    1.5,
    -0.0,
    math.inf,
    1 - 2j,
    "plain",
    "\udc80 and \x00 and 𝄞",
    b"\x00\xff",
    [],
    [1, 2],
    [1, True, 1.0, None, "x"],
    [[1], (2,), {3}],
    (),
    (1, (2, [3])),
    set(),
    {1, "a", (2, 3)},
    frozenset({frozenset({1})}),
    {},
    {1: "a", "1": "b", (1, 2): {None: [0.1]}},
    {"int": "0x10"},
]


class Lies(str):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "a lie"

    __repr__ = __str__


class Empty(list):
    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def travelled(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


def types_in(value: Any) -> Any:
    """The types of a value and of all inside, in an order that equal values share."""
    if isinstance(value, dict):
        return dict, sorted(str((types_in(k), types_in(v), k)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value), [types_in(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(str(types_in(item)) for item in value)
    return type(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: re.sub(r"\W", "", ascii(type(value))))
def test_a_value_arrives_as_it_left_with_every_type_inside(value: Any) -> None:
    found = travelled(value)
    assert found == value
    assert types_in(found) == types_in(value)
    assert math.copysign(1, found) == math.copysign(1, value) if value == 0.0 else True


def test_a_nan_arrives_as_one() -> None:
    assert math.isnan(travelled([math.nan])[0])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "complex64"])
def test_an_array_arrives_with_its_type_shape_and_bits(dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 2, (2, 3, 0, 1)[:2]).astype(dtype).T
    found = travelled((array, array[0, 0], np.array(array[0, 0])))
    np.testing.assert_array_equal(found[0], array, strict=True)
    assert (found[1], type(found[1])) == (array[0, 0], type(array[0, 0]))
    np.testing.assert_array_equal(found[2], np.array(array[0, 0]), strict=True)


def test_an_instance_of_a_subclass_arrives_as_its_base_whatever_it_says_of_itself() -> None:
    point = collections.namedtuple("point", "x y")
    colour = enum.IntEnum("colour", "RED")
    given = [Lies("truth"), Empty([1, 2]), point(1, 2), colour.RED, collections.Counter("aab")]
    given += [np.str_("s")]
    expected = ["truth", [1, 2], (1, 2), 1, {"a": 2, "b": 1}, "s"]
    found = travelled(given)
    assert list(map(type, found)) == list(map(type, expected))
    assert [found[0].encode(), *found[1:]] == [b"truth", *expected[1:]]


def test_a_scalar_of_numpy_arrives_with_its_type_and_has_the_digest_of_its_number() -> None:
    given = [np.float64(0.5), np.float32(0.1), np.int32(-3), np.uint64(2**64 - 1), np.bool_(True)]
    given += [np.complex64(1 - 2j), np.longdouble(2), np.float64("nan")]
    found = travelled(given)
    assert list(map(type, found)) == list(map(type, given))
    assert found[:-1] == given[:-1] and np.isnan(found[-1])
    assert digest({np.int64(1): (np.float64(0.5), 2)}) == digest({1: (0.5, 2)})


@pytest.mark.parametrize(
    "value", [object(), iter([]), re.match("a", "a"), [{1: range(3)}], np.array(["text"]), len]
)
def test_what_is_no_plain_value_does_not_travel(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tuple": [], "list": []},
        {"unknown": 1},
        {"set": [[1]]},
        {"dict": [[1]]},
        {"int": 5},
        {"bytes": "no base64!"},
        {"complex": ["1", "2"]},
        {"ndarray": ["O", [1], "AAAAAAAAAAA="]},
        {"numpy": ["O", 1]},
        {"numpy": ["<f8", "0.5"]},
        {"numpy": ["<f8", [0.5]]},
        {"numpy": ["|i1", 300]},
        {"ndarray": ["<f8", [2], "AAAAAAAAAAA="]},
        {"set": [i * (2**61 - 1) for i in range(3_000)]},
        {"dict": [[{"int": hex(i * (2**61 - 1))}, 0] for i in range(3_000)]},
    ],
    ids=lambda data: json.dumps(data)[:40],
)
def test_data_that_nobody_encoded_are_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, OverflowError)):
        decode(data)


def test_digests_agree_exactly_where_values_do_whatever_the_order_of_sets_and_dicts() -> None:
    digests = {}
    for value in VALUES:
        digests.setdefault(digest(value), []).append(value)
    assert all(len(alike) == 1 for alike in digests.values())
    assert digest({1: {"b", "a"}, 2: ()}) == digest({2: (), 1: {"a", "b"}})
    assert digest({8, 0}) == digest({0, 8})
    assert [*{8, 0}] == [*{0, 8}][::-1]  # the order in which a set's items come differs here
    assert digest([8, 0]) != digest([0, 8])
