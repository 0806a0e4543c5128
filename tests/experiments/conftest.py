import pytest

from minilora import plots


@pytest.fixture
def kept_figures(monkeypatch):
    """Every figure that is saved, with its caption and its words; it is written as well."""
    figures, save = [], plots.save

    def keep(fig, path, caption="", alt=""):
        figures.append({"fig": fig, "caption": caption, "alt": alt})
        save(fig, path, caption, alt)

    monkeypatch.setattr("minilora.plots.save", keep)
    return figures
