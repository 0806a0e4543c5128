"""float16 and bfloat16: rounded as PyTorch rounds, written so that others read it."""

import numpy as np
import pytest

from minilora.errors import NonFiniteError
from minilora.files.narrow import bfloat16_bits, rounded, stored, widened
from minilora.files.safetensors import read_metadata, read_tensors, write_rounded


def floats(*values):
    return np.array(values, np.float32)


def test_bfloat16_is_the_nearest_and_a_tie_goes_to_even():
    step = 2.0**-7  # between 1 and 2 bfloat16 counts in these
    near = floats(1 + 0.49 * step, 1 + 0.5 * step, 1 + 0.51 * step, 1 + 1.5 * step)
    assert rounded(near, "bfloat16").tolist() == [1, 1, 1 + step, 1 + 2 * step]
    assert rounded(-near, "bfloat16").tolist() == [-1, -1, -1 - step, -1 - 2 * step]


def test_what_is_no_usual_number_stays_what_it_is():
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    assert np.isnan(rounded(bits.view(np.float32), "bfloat16")).all()
    largest = np.finfo(np.float32).max
    kept = rounded(floats(np.inf, -np.inf, largest, 0.0, -0.0), "bfloat16")
    assert kept.tolist() == [np.inf, -np.inf, np.inf, 0, 0]
    assert np.signbit(kept).tolist() == [False, True, False, False, True]


def test_every_pattern_of_bits_is_rounded_as_pytorch_does():
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    upper = np.arange(2**16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        array = (upper | lower).view(np.float32)
        theirs = torch.from_numpy(array).bfloat16().float().numpy()
        ours = widened(bfloat16_bits(array))
        np.testing.assert_array_equal(ours, theirs)
        theirs = torch.from_numpy(array).half().float().numpy()
        np.testing.assert_array_equal(rounded(array, "float16"), theirs)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_file_is_read_back_as_it_was_rounded(tmp_path, dtype):
    rng = np.random.default_rng(0)
    arrays = {"b": rng.normal(size=(3, 5)), "a": rng.normal(size=7), "c": np.zeros((0, 2))}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays["turned"] = arrays["b"].T  # its memory does not lie as its shape says
    write_rounded(tmp_path / "x.safetensors", arrays, dtype, {"format": "pt"})
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    assert read_metadata(tmp_path / "x.safetensors") == {"format": "pt"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), rounded(array, dtype))


def test_pytorch_reads_bfloat16(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    from safetensors.torch import load_file

    array = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    write_rounded(tmp_path / "x.safetensors", {"w": array}, "bfloat16")
    found = load_file(tmp_path / "x.safetensors")["w"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.from_numpy(array).bfloat16())


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (1e5, "float16", r"w goes up to 1e\+05, and float16 ends at 65,504"),
        (3.4e38, "bfloat16", "w goes up to 3.4e.38, and bfloat16"),
        (np.nan, "float16", "w holds numbers that are not finite"),
        (np.inf, "bfloat16", "w holds numbers that are not finite"),
        (np.nan, "float32", "w holds numbers that are not finite"),
    ],
)
def test_what_a_type_cannot_hold_is_refused(tmp_path, value, dtype, said):
    array = floats(1, value)
    with pytest.raises(NonFiniteError, match=said):
        stored("w", array, dtype)
    with pytest.raises(NonFiniteError, match=said):
        write_rounded(tmp_path / "x.safetensors", {"v": floats(1), "w": array}, dtype)
    assert list(tmp_path.iterdir()) == []
