"""The wire format: what openpi's own packer packs is read and the other way round; nothing harmful passes."""

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from openpi_client import msgpack_numpy

from vine_vla.core.errors import VineError
from vine_vla.system1.adapters.openpi_wire import WireLimits, pack_message, unpack_message

DTYPES = st.sampled_from(["uint8", "int16", "int64", "float32", "float64", "bool", ">f4"])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
VALUES = st.one_of(
    arrays.arrays(DTYPES, SHAPES),
    st.floats(allow_nan=False),
    st.integers(-(2**31), 2**31),
    st.text(max_size=20),
    st.lists(st.text(max_size=5), max_size=4),
    st.none(),
    st.booleans(),
)


def equal(a, b):
    if isinstance(a, np.ndarray):
        return (
            a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
    return a == b


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_openpis_packer_and_ours_understand_each_other(message):
    theirs = msgpack_numpy.unpackb(pack_message(message))
    ours = unpack_message(msgpack_numpy.packb(message))
    for found in (theirs, ours, unpack_message(pack_message(message))):
        assert found.keys() == message.keys() and all(equal(message[k], found[k]) for k in message)


def test_scalars_and_nesting():
    message = {"a": {"b": [np.float32(0.5), {"c": np.arange(3)}]}, "n": np.int64(7)}
    found = unpack_message(msgpack_numpy.packb(message))
    assert found["a"]["b"][0] == np.float32(0.5) and found["n"] == 7
    assert found["a"]["b"][1]["c"].tolist() == [0, 1, 2]


def array(data=b"\0" * 4, dtype="<f4", shape=(1,)):
    return msgpack.packb(
        {"x": {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}}, use_bin_type=True
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("hello", "text frame"),
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (msgpack.packb([1, 2]), "not a map"),
        (msgpack.packb({1: 2}), "not a map"),
        (msgpack.packb({"a": 1}) + b"\x01", "not msgpack"),
        (array(dtype="O"), "dtype"),
        (array(dtype="V4"), "dtype"),
        (array(dtype="<c8", data=b"\0" * 8), "dtype"),
        (array(dtype="S400"), "dtype"),
        (array(dtype="f4,f4", data=b"\0" * 8), "dtype"),
        (array(dtype="m8[s]", data=b"\0" * 8), "dtype"),
        (array(dtype=7), "dtype"),
        (array(shape=(2,)), "4 bytes for an array"),
        (array(shape=(-1, -1)), "shape"),
        (array(shape=(1 << 40, 0)), "shape"),
        (array(shape=(1, 1, 1, 1, 1)), "at most 4 axes"),
        (array(data="text"), "needs bytes"),
        (array(shape=(True,)), "shape"),
        (msgpack.packb({"x": {b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}}), "no number"),
        (msgpack.packb({"x": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}}), "no uint8"),
        (msgpack.packb({"x": "y" * 10_001}), "not msgpack"),
        (msgpack.packb({"x": list(range(300))}), "not msgpack"),
        (msgpack.packb({"x": msgpack.ExtType(1, b"abc")}), "not msgpack"),
        (b"\x81\xa1x" + b"\x91" * 5000 + b"\x01", "not msgpack"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(data, message):
    with pytest.raises(VineError, match=message) as caught:
        unpack_message(data)
    assert "\n" not in str(caught.value)


def test_size_is_limited_before_memory_is_taken():
    limits = WireLimits(message_bytes=1000, array_bytes=500)
    with pytest.raises(VineError, match="1000 are taken"):
        unpack_message(b"\0" * 1001, limits)
    with pytest.raises(VineError, match="not msgpack"):
        unpack_message(array(data=b"\0" * 600, shape=(150,)), limits)


def test_objects_are_not_sent():
    with pytest.raises(VineError, match="cannot be sent"):
        pack_message({"x": object()})
    with pytest.raises(VineError, match="cannot be sent"):
        pack_message({"x": np.array([object()])})
    assert unpack_message(pack_message({"x": np.array(1.5)}))["x"] == 1.5


@given(st.binary(max_size=200))
def test_noise_never_gets_further_than_an_error(data):
    with contextlib.suppress(VineError):
        unpack_message(data)
