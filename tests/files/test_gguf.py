"""GGUF: as llama.cpp's own reader reads it, and safe with whatever is damaged."""

import contextlib
import os
import struct
import sys
import time
import tracemalloc

import numpy as np
import pytest

from minilora.errors import FormatError, MissingExtraError
from minilora.files.gguf import GGUFFile

gguf = pytest.importorskip("gguf", reason="needs the extra llm: pip install 'minilora[llm]'")


@pytest.fixture
def path(tmp_path):
    """A small file with a value of every type, and arrays quantized in several ways."""
    rng = np.random.default_rng(0)
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60_000)
    writer.add_int32("i32", -70_000)
    writer.add_uint64("u64", 2**40)
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("flag", True)
    writer.add_string("text", "naïve 東京\n")
    writer.add_array("texts", ["Ġa", "", "b"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("floats", [0.5, 0.25])
    kinds = gguf.GGMLQuantizationType
    x = rng.normal(size=(6, 64)).astype(np.float32)
    for kind in (kinds.Q4_1, kinds.Q8_0, kinds.Q4_0, kinds.BF16):
        writer.add_tensor(kind.name, gguf.quants.quantize(x, kind), raw_dtype=kind)
    writer.add_tensor("F32", x)
    writer.add_tensor("F16", x.astype(np.float16))
    writer.add_tensor("row", x[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_the_package_reads(path):
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    said = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata == said
    assert list(ours.shapes) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        x = ours.read(tensor.name)
        assert x.dtype == np.float32
        assert x.shape == ours.shapes[tensor.name] == tuple(reversed(tensor.shape.tolist()))
        assert np.array_equal(x, gguf.quants.dequantize(tensor.data, tensor.tensor_type))


def test_large_arrays_are_undone_in_parts(tmp_path):
    x = np.random.default_rng(0).normal(size=(5_000, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "llama")
    writer.add_tensor("x", gguf.quants.quantize(x, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "large.gguf")
    tracemalloc.start()
    y = file.read("x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.abs(x - y).max() < 0.05
    assert peak < y.nbytes + 10 * 2**20


def test_unknown_names_and_missing_files(path, tmp_path):
    with pytest.raises(FormatError, match="no array 'x'"):
        GGUFFile(path).read("x")
    with pytest.raises(FormatError, match="No such file"):
        GGUFFile(tmp_path / "missing.gguf")
    with pytest.raises(FormatError, match="cannot be read"):
        GGUFFile(tmp_path)


def read_all(path):
    file = GGUFFile(path)
    for name in file.shapes:
        file.read(name)


def test_every_truncation_is_found_at_once(path):
    # What is behind the last array only fills up to the alignment.
    last = GGUFFile(path)._entries["row"]
    for length in reversed(range(last.start + last.n_bytes)):
        os.truncate(path, length)
        with pytest.raises(FormatError, match=r"small\.gguf"):
            GGUFFile(path)


def test_flipped_bytes_never_surface_from_the_depths(path):
    whole = path.read_bytes()
    header = min(entry.start for entry in GGUFFile(path)._entries.values())
    rng = np.random.default_rng(0)
    slowest = 0.0
    with np.errstate(all="ignore"):
        for at in range(header):
            flipped = bytearray(whole)
            flipped[at] ^= int(rng.integers(1, 256))
            path.write_bytes(flipped)
            start = time.perf_counter()
            with contextlib.suppress(FormatError):
                read_all(path)
            slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 1


def head(n_arrays, n_settings, rest=b"", version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, n_arrays, n_settings) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value


def array(name, shape, kind, offset):
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


SPACE = bytes(4096)
DAMAGED = {
    "other letters": head(0, 0, magic=b"GGML"),
    "version 1": head(0, 0, version=1),
    "absurd counts": head(2**60, 2**60, SPACE),
    "absurd list": head(0, 1, text(b"a") + struct.pack("<IIQ", 9, 0, 2**60) + SPACE),
    "long list": head(0, 1, text(b"a") + struct.pack("<IIQ", 9, 5, 10**6) + SPACE),
    "list of lists": head(0, 1, text(b"a") + struct.pack("<IIQ", 9, 9, 2) + SPACE),
    "absurd text": head(0, 1, struct.pack("<Q", 2**50) + SPACE),
    "no utf-8": head(0, 1, text(b"\xff") + SPACE),
    "unknown type": head(0, 1, text(b"a") + struct.pack("<I", 77) + SPACE),
    "setting twice": head(0, 2, (text(b"a") + struct.pack("<IB", 0, 1)) * 2),
    "array twice": head(2, 0, array(b"a", (4,), 0, 0) * 2 + SPACE),
    "overlapping": head(2, 0, array(b"a", (32,), 0, 0) + array(b"b", (4,), 0, 32) + SPACE),
    "outside": head(1, 0, array(b"a", (4,), 0, 2**40) + SPACE),
    "unaligned": head(1, 0, array(b"a", (4,), 0, 4) + SPACE),
    "absurd shape": head(1, 0, array(b"a", (2**40, 2**40), 0, 0) + SPACE),
    "too many axes": head(1, 0, array(b"a", (1,) * 9, 0, 0) + SPACE),
    "rows that are no blocks": head(1, 0, array(b"a", (33,), 3, 0) + SPACE),
    "unknown kind": head(1, 0, array(b"a", (4,), 999, 0) + SPACE),
    "alignment": head(0, 1, text(b"general.alignment") + struct.pack("<II", 4, 24)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_a_typed_error_at_once(tmp_path, damage):
    path = tmp_path / "bad.gguf"
    path.write_bytes(DAMAGED[damage])
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"bad\.gguf"):
        read_all(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert time.perf_counter() - start < 1


def test_a_kind_that_cannot_be_undone_is_named(tmp_path):
    path = tmp_path / "ints.gguf"
    int32 = int(gguf.GGMLQuantizationType.I32)
    path.write_bytes(head(1, 0, array(b"a", (4,), int32, 0) + SPACE))
    with pytest.raises(FormatError, match="I32"):
        GGUFFile(path).read("a")


@pytest.mark.parametrize("kind", ["Q8_1", "Q8_K", "F64", "I8", 99])
def test_a_kind_that_is_not_read_is_no_damage_and_others_are_named(tmp_path, kind):
    path = tmp_path / "other.gguf"
    number = kind if isinstance(kind, int) else int(gguf.GGMLQuantizationType[kind])
    path.write_bytes(head(1, 0, array(b"blk.0.up", (256,), number, 0) + SPACE))
    with pytest.raises(FormatError) as raised:
        read_all(path)
    said = str(raised.value)
    called = f"kind {kind}, which is unknown," if kind == 99 else kind
    assert f"other.gguf: 'blk.0.up' is quantized as {called} and is not read" in said
    listed = said.partition("read are ")[2].partition(". ")[0].split(", ")
    assert {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"} <= set(listed)
    assert not {"Q8_1", "Q8_K", "F64", "I8"} & set(listed)
    assert said.endswith("Take a file in another quantization")
    assert "damaged" not in said and "again" not in said


def test_rows_that_are_no_whole_blocks_are_named_with_their_kind(tmp_path):
    path = tmp_path / "rows.gguf"
    kind = int(gguf.GGMLQuantizationType.Q4_K)
    path.write_bytes(head(1, 0, array(b"a", (576,), kind, 0) + SPACE))
    with pytest.raises(FormatError, match="'a' is Q4_K, in blocks of 256, and its rows of 576 are"):
        GGUFFile(path)


def test_without_the_package_the_pip_command_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'minilora\[llm\]'"):
        GGUFFile(path)
