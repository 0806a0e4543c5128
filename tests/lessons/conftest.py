import pytest

from minilora.lessons import checking, language


@pytest.fixture(autouse=True)
def _reader(tmp_path, monkeypatch):
    """A reader of one's own, who has seen no hint yet and reads English."""
    monkeypatch.setenv("MINILORA_HOME", str(tmp_path / "home"))
    checking.forget()
    yield
    language.language("en")
