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
