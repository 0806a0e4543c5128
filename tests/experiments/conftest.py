from pathlib import Path

import pytest

from minilora import plots

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """What takes a fixture `quick`, an experiment's whole quick run, is a slow test."""
    for item in items:
        varied = getattr(item, "callspec", None)
        if (
            HERE in item.path.parents
            and "quick" in item.fixturenames
            and not (varied and "quick" in varied.params)
        ):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def kept_figures(monkeypatch):
    """Every figure that is saved, with its caption and its words; it is written as well."""
    figures, save = [], plots.save

    def keep(fig, path, caption="", alt=""):
        figures.append({"fig": fig, "caption": caption, "alt": alt})
        save(fig, path, caption, alt)

    monkeypatch.setattr("minilora.plots.save", keep)
    return figures


@pytest.fixture
def drawn_by(kept_figures, tmp_path):
    """drawn_by(draw)(rows): a figure as matplotlib has it, its caption and its words."""

    def of(draw):
        def make(rows):
            draw(rows, tmp_path / "f.png")
            kept_figures[-1]["fig"].canvas.draw()
            return kept_figures[-1]

        return make

    return of
