"""Safetensors: written for everyone, read strictly, one array at a time."""

import contextlib
import json
import time
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minilora.errors import FormatError
from minilora.files.safetensors import (
    checkpoint_files,
    iterate_checkpoint,
    read_checkpoint,
    read_metadata,
    read_shapes,
    read_tensors,
    write_tensors,
)

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a
    )


def test_round_trip_in_every_type_and_with_the_library(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {f"x{code}": (rng.random((3, 5)) * 100).astype(code) for code in DTYPES}
    tensors["scalar"] = np.float32(3)
    tensors["nothing"] = np.zeros((0, 4), "f4")
    path = tmp_path / "file.safetensors"
    write_tensors(path, tensors, {"format": "pt"})
    assert same(read_tensors(path), tensors)
    assert same(load_file(path), {k: np.asarray(v) for k, v in tensors.items()})
    assert read_metadata(path) == {"format": "pt"}
    assert read_shapes(path)["xf8"] == (3, 5)
    save_file({k: np.asarray(v) for k, v in tensors.items()}, path)
    assert same(read_tensors(path), tensors)
    assert read_metadata(path) == {}


def test_arrays_lie_in_memory_in_any_way(tmp_path):
    x = np.arange(24, dtype="f4").reshape(4, 6)
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"t": x.T, "strided": x[:, ::2], "big": x.astype(">f4")})
    read = read_tensors(path)
    assert np.array_equal(read["t"], x.T)
    assert np.array_equal(read["strided"], x[:, ::2])
    assert np.array_equal(read["big"], x)


def test_the_same_arrays_give_the_same_bytes_and_start_aligned(tmp_path):
    tensors = {"b": np.ones(3, "f2"), "a": np.ones(3, "f8"), "c": np.ones(1, "i1")}
    metadata = {str(i): "x" for i in range(9)}
    write_tensors(tmp_path / "1", tensors, metadata)
    write_tensors(tmp_path / "2", dict(reversed(tensors.items())), metadata)
    first = (tmp_path / "1").read_bytes()
    assert first == (tmp_path / "2").read_bytes()
    assert (8 + int.from_bytes(first[:8], "little")) % 8 == 0


def test_bfloat16_is_widened_exactly(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], "<u2")
    path = tmp_path / "file"
    path.write_bytes(raw({"x": entry("BF16", (2, 2))}, bits.tobytes()))
    x = read_tensors(path)["x"]
    assert x.dtype == np.float32
    assert np.array_equal(x, [[1, -2], [np.inf, 2.0**-133]])


def test_types_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(FormatError, match="'x' is of type complex64"):
        write_tensors(tmp_path / "file", {"x": np.zeros(2, np.complex64)})
    (tmp_path / "file").write_bytes(raw({"x": entry("F8_E4M3", (8,))}, bytes(8)))
    with pytest.raises(FormatError, match="'x' is of type F8_E4M3"):
        read_tensors(tmp_path / "file")


TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
DAMAGED = {
    "empty": b"",
    "short": b"123",
    "absurd header": (2**60).to_bytes(8, "little") + b"{}",
    "no json": raw(b"hello"),
    "hole": raw({"a": entry(offsets=(4, 12))}, bytes(12)),
    "too long": raw({"a": entry()}, bytes(9)),
    "unknown type": raw({"a": entry("X32")}, bytes(8)),
    "wrong type": raw({"a": entry("F64")}, bytes(8)),
    "wrong shape": raw({"a": entry(shape=(3,))}, bytes(8)),
    "absurd shape": raw({"a": entry(shape=(2**62, 2**62))}, bytes(8)),
    "negative": raw({"a": entry(shape=(-1, -2))}, bytes(8)),
    "backwards": raw({"a": entry(offsets=(8, 0))}, bytes(8)),
    "overlapping": raw({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "twice": raw(TWICE + TWICE[1:-1] + b"}", bytes(4)),
    "metadata": raw({"__metadata__": {"a": 1}}, b""),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_a_typed_error_at_once(tmp_path, damage):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(DAMAGED[damage])
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"bad\.safetensors"):
        read_tensors(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert time.perf_counter() - start < 1


def test_every_truncation_is_found(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, {"a": np.ones((2, 3), "f4"), "b": np.ones(3, "i1")}, {"k": "v"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            read_tensors(path)


def test_flipped_bytes_in_the_header_never_surface_from_the_depths(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, {"a": np.ones((2, 3), "f4"), "b": np.ones(3, "i1")}, {"k": "v"})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in range(len(whole) - 27):
        flipped = bytearray(whole)
        flipped[at] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        with contextlib.suppress(FormatError):
            read_tensors(path)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FormatError, match="no such file"):
            read_tensors(path)


def sharded(folder, weight_map=None):
    write_tensors(folder / "m-1.safetensors", {"a": np.ones(2, "f4")})
    write_tensors(folder / "m-2.safetensors", {"b": np.ones(3, "f2")})
    weight_map = weight_map or {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_checkpoint_in_one_file_or_in_shards(tmp_path):
    with pytest.raises(FormatError, match=r"model\.safetensors and model\.safetensors\.index"):
        checkpoint_files(tmp_path)
    sharded(tmp_path)
    assert read_checkpoint(tmp_path).keys() == {"a", "b"}
    assert [name for name, _ in iterate_checkpoint(tmp_path)] == ["a", "b"]
    write_tensors(tmp_path / "model.safetensors", {"c": np.ones(2)})
    assert read_checkpoint(tmp_path).keys() == {"c"}


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "missing.safetensors"},
        {"a": "../m-1.safetensors"},
        {"a": 3},
        {"a": "."},
        ["m-1.safetensors"],
    ],
)
def test_an_index_leads_to_files_beside_it_only(tmp_path, weight_map):
    folder = tmp_path / "model"
    sharded(folder, weight_map)
    write_tensors(tmp_path / "m-1.safetensors", {"a": np.ones(2, "f4")})
    with pytest.raises(FormatError, match="index"):
        read_checkpoint(folder)


def test_an_array_in_two_shards_is_refused(tmp_path):
    sharded(tmp_path)
    write_tensors(tmp_path / "m-2.safetensors", {"a": np.ones(2, "f4")})
    with pytest.raises(FormatError, match="'a' lies in another shard"):
        read_checkpoint(tmp_path)
