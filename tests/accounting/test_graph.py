"""The tape as a graph: held against the ledger, and against what is known of backward."""

import numpy as np
import pytest

from minilora.accounting import ledger
from minilora.accounting.graph import ABOVE, BELOW, step_graph, tape_graph
from minilora.autograd import Tensor, tape
from minilora.errors import ConfigError, TapeError
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import train_step


def lora(base, targets=("q_proj", "v_proj"), dropout=0.0):
    return get_peft_model(base, LoraConfig(4, 8, targets, dropout))


@pytest.fixture
def make(tiny):
    makers = {
        "full": tiny,
        "lora": lambda: lora(tiny()),
        "all": lambda: lora(tiny(), "all-linear"),
        "mlp": lambda: lora(tiny(), ["up_proj"]),
        "dropout": lambda: lora(tiny(), dropout=0.5),
    }
    return lambda method: makers[method]()


def kept_by_ledger(model, batch, block):
    """Bytes of the activations that belong to a block, as the ledger of a real step has them."""
    optimizer = AdamW(model.parameters())
    with ledger(model, optimizer) as books:
        train_step(model, optimizer, *batch)
    rows = [e for e in books.entries if e.kind == "activations"]
    return sum(e.nbytes for e in rows if f"layers.{block}." in f"{e.owner}.")


def counted(graph):
    return sum(kept.nbytes for box in graph.boxes for kept in box.keeps if not kept.same_as)


def added(graph):
    return sum(kept.nbytes for box in graph.boxes for kept in box.adds)


def named(graph, op, module=""):
    """The one box of that operation in that module, and its place."""
    found = [
        (i, box)
        for i, box in enumerate(graph.boxes)
        if box.op == op and box.module.endswith(module)
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("method", ["full", "lora", "all", "mlp"])
def test_bytes_are_the_ledgers(make, tiny_batch, threads, method, block):
    threads(1)
    graph = step_graph(make(method), *tiny_batch, block=block)
    assert graph.held == counted(graph) == kept_by_ledger(make(method), tiny_batch, block)
    if method == "full":
        assert graph.held_full is None and added(graph) == 0
    else:
        assert graph.held_full == kept_by_ledger(make("full"), tiny_batch, block)


# Not block 1 of "mlp", which is the first to keep the angles; full tuning keeps them before.
@pytest.mark.parametrize(
    ("method", "block"), [("lora", 0), ("lora", 1), ("all", 0), ("all", 1), ("mlp", 0)]
)
def test_what_is_added_makes_up_the_difference(make, tiny_batch, method, block):
    graph = step_graph(make(method), *tiny_batch, block=block)
    own = sum(
        k.nbytes for b in graph.boxes if b.op == "LoRALinear" for k in b.keeps if k.name == "u"
    )
    assert graph.held - own + added(graph) == graph.held_full


@pytest.mark.parametrize("method", ["full", "lora", "all", "mlp", "dropout"])
def test_every_operation_of_every_block_once(make, tiny_batch, method):
    model = make(method)
    in_blocks = [b for block in (0, 1) for b in step_graph(model, *tiny_batch, block=block).boxes]
    loss = model.loss(*tiny_batch, training=True)
    outside = {"Embedding": method == "full", "RMSNorm": True, "LinearCrossEntropy": True}
    assert sum(b.on_tape for b in in_blocks) == len(list(tape(loss))) - sum(outside.values())


def test_weights_and_who_trains_them(make, tiny_batch):
    model = make("lora")
    graph = step_graph(model, *tiny_batch)
    weights = [w for box in graph.boxes for w in box.weights]
    real = [p for name, p in model.named_parameters() if ".layers.0." in name]
    assert sorted(w.shape for w in weights) == sorted(p.shape for p in real)
    assert {w.name for w in weights if w.trainable} == {"lora_A.weight", "lora_B.weight"}
    _, box = named(graph, "LoRALinear", "q_proj")
    assert [(w.name, w.trainable) for w in box.weights] == [
        ("q_proj.weight", False),
        ("lora_A.weight", True),
        ("lora_B.weight", True),
    ]


def test_backward_stops_below_the_lowest_trained_weight(make, tiny_batch):
    graph = step_graph(make("lora"), *tiny_batch)
    norm, box = named(graph, "RMSNorm", "input_layernorm")
    assert not box.on_tape and {k.name for k in box.adds} == {"x", "s"}
    assert not named(graph, "Linear", "k_proj")[1].on_tape
    into = {
        "q": named(graph, "LoRALinear", "q_proj")[0],
        "v": named(graph, "LoRALinear", "v_proj")[0],
    }
    stopped = {(a.start, a.end) for a in graph.arrows if a.kind == "stopped"}
    assert {(into["q"], norm), (into["v"], norm)} <= stopped
    flows = [a for a in graph.arrows if a.kind == "gradient"]
    assert not any(a.start in into.values() or a.end in (norm, BELOW) for a in flows)
    assert all(a.start == ABOVE or graph.boxes[a.start].on_tape for a in flows)
    assert all(graph.boxes[a.end].on_tape for a in flows)


def test_above_an_adapter_the_gradient_goes_through(make, tiny_batch):
    graph = step_graph(make("lora"), *tiny_batch, block=1)
    assert {a.kind for a in graph.arrows} == {"gradient"}
    assert sum(a.end == BELOW for a in graph.arrows) == 2  # the stream, and the norm beside it
    assert all(box.on_tape for box in graph.boxes)


def test_an_adapter_of_several_operations(make, tiny_batch):
    """With dropout the bypass is composed: what reads the frozen weight stands for the Linear."""
    graph = step_graph(make("dropout"), *tiny_batch, block=1)
    parts = [b for b in graph.boxes if b.module.endswith("q_proj")]
    assert sorted(b.op for b in parts) == ["Add", "Dropout", "Linear", "Linear", "Linear", "Mul"]
    assert sorted(w.name for b in parts for w in b.weights) == [
        "lora_A.weight",
        "lora_B.weight",
        "q_proj.weight",
    ]
    assert {a.kind for a in graph.arrows} == {"gradient"}


def test_a_block_below_all_that_is_trained(tiny, tiny_batch):
    model = tiny()
    model.requires_grad_(False)
    model.model.layers[1].requires_grad_(True)
    graph = step_graph(model, *tiny_batch)
    assert graph.held == 0 and added(graph) == graph.held_full > 0
    assert {a.kind for a in graph.arrows} == {"absent"}
    assert not any(box.on_tape for box in graph.boxes)


def test_the_model_is_as_it_was(make, tiny_batch):
    model = make("lora")
    before = [(p.requires_grad, p.data.copy()) for p in model.parameters()]
    step_graph(model, *tiny_batch)
    for p, (wanted, data) in zip(model.parameters(), before, strict=True):
        assert p.requires_grad == wanted and p.grad is None
        assert np.array_equal(p.data, data)


def test_a_tape_that_nobody_watched(make, tiny_batch):
    """From the parameters alone one knows the block, if not each module."""
    model = make("lora")
    watched = step_graph(model, *tiny_batch, block=1)
    graph = tape_graph(model.loss(*tiny_batch), model, block=1)
    assert graph.held == watched.held and graph.held_full is None
    assert [b.op for b in graph.boxes] == [b.op for b in watched.boxes]
    assert sorted(graph.arrows) == sorted(watched.arrows)


def test_a_few_operations_without_a_model():
    x, y = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0])
    graph = tape_graph((x * y + x.exp()).sum())
    assert [box.op for box in graph.boxes] == ["Sum", "Add", "Exp", "Mul"]
    assert [(box.op, box.stops) for box in graph.boxes if box.stops] == [("Mul", ["y"])]
    assert graph.held == 16
    assert [w.trainable for box in graph.boxes for w in box.weights] == [True, True]


@pytest.mark.parametrize("block", [2, -1, True, 0.0, "0"])
def test_a_block_that_there_is_not(make, tiny_batch, block):
    model = make("lora")
    for graph in (
        lambda: step_graph(model, *tiny_batch, block=block),
        lambda: tape_graph(model.loss(*tiny_batch), model, block=block),
    ):
        with pytest.raises(ConfigError, match=r"blocks 0 to 1"):
            graph()


def test_mistakes(make, tiny_batch):
    model = make("lora")
    loss = model.loss(*tiny_batch)
    loss.backward()
    with pytest.raises(TapeError, match="before backward"):
        tape_graph(loss, model)
    with pytest.raises(TapeError, match="nothing was recorded"):
        tape_graph(Tensor(1.0), model)
    model.gradient_checkpointing_enable()
    with pytest.raises(ConfigError, match="checkpointing"):
        step_graph(model, *tiny_batch)
    x = Tensor(1.0, requires_grad=True)
    for _ in range(100):
        x = x * 2.0
    with pytest.raises(ConfigError, match="100 operations are too many"):
        tape_graph(x)
