"""GGUF files written here: read back here, and refused where GGUF has no word."""

import sys

import numpy as np
import pytest

from minilora.errors import FormatError, MissingExtraError, NonFiniteError
from minilora.files.gguf import GGUFFile
from minilora.files.gguf_writing import write_gguf

SETTINGS = {
    "a.flag": False,
    "a.count": 2**32 - 1,
    "a.share": 0.5,
    "a.text": "ü\n",
    "a.texts": ["one", ""],
    "a.numbers": [3, 1, 4],
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "vector": rng.normal(size=5).astype(np.float32),
        "matrix": rng.normal(size=(3, 7)).astype(np.float32),
        "turned": rng.normal(size=(2, 6)).astype(np.float32).T,
    }


@pytest.mark.parametrize("half", [False, True])
def test_settings_and_arrays_come_back(tmp_path, arrays, half):
    pytest.importorskip("gguf", reason="needs the extra llm")
    write_gguf(tmp_path / "x.gguf", "llama", SETTINGS, arrays, half=half)
    file = GGUFFile(tmp_path / "x.gguf")
    assert file.metadata == {"general.architecture": "llama", **SETTINGS}
    assert file.shapes == {name: array.shape for name, array in arrays.items()}
    for name, array in arrays.items():
        kept = array.astype(np.float16) if half and array.ndim == 2 else array
        np.testing.assert_array_equal(file.read(name), kept.astype(np.float32))


@pytest.mark.parametrize("value", [None, [], ["a", 1], [0.5], {"a": 1}, np.float32(1)])
def test_a_setting_that_gguf_has_no_type_for(tmp_path, value):
    pytest.importorskip("gguf", reason="needs the extra llm")
    with pytest.raises(FormatError, match=r"'a\.setting'"):
        write_gguf(tmp_path / "x.gguf", "llama", {"a.setting": value}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_not_there(tmp_path, arrays):
    pytest.importorskip("gguf", reason="needs the extra llm")
    (tmp_path / "x.gguf").write_bytes(b"before")
    arrays["matrix"][0, 0] = 1e5
    with pytest.raises(NonFiniteError, match="matrix goes up to"):
        write_gguf(tmp_path / "x.gguf", "llama", SETTINGS, arrays, half=True)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.gguf", b"before")]


def test_no_gguf_names_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'minilora\[llm\]'"):
        write_gguf(tmp_path / "x.gguf", "llama", {}, {})
