"""Where a step's time goes: nothing lost, nothing counted twice, and the step stays what it is."""

import numpy as np
import pytest

from minilora.accounting import predict
from minilora.autograd import Function
from minilora.bases import load_base
from minilora.errors import ConfigError, DataError
from minilora.experiments.profile_figure import draw, table
from minilora.experiments.profile_step import (
    BETWEEN,
    LORA,
    UPDATE,
    Meter,
    _timed_weights,
    metered,
    peak_rate,
    profile_step,
)
from minilora.ops import CrossEntropy
from minilora.optim import AdamW
from minilora.training import train_step


@pytest.fixture(scope="module", params=["lora", "full"])
def report(request):
    return profile_step(
        method=request.param, batch_size=2, length=12, steps=3, progress=None
    )  # fmt: skip


def test_the_parts_are_the_whole(report):
    rows = {row["op"]: row for row in report["rows"]}
    assert sum(row["seconds"] for row in rows.values()) == pytest.approx(report["step_seconds"])
    for name, row in rows.items():
        inside = row["forward_seconds"] + row["backward_seconds"]
        if name in (UPDATE, BETWEEN):
            assert inside == 0 < row["seconds"]
        else:
            assert inside == pytest.approx(row["seconds"])
    expected = {"Linear", "Attention", "RMSNorm", "SwiGLU", "LinearCrossEntropy", "Rotary"}
    assert expected | {UPDATE, BETWEEN} <= set(rows)
    assert ("LoRALinear" in rows) == (report["method"] == "lora")
    assert (
        rows["Embedding"]["calls"] == 1
    )  # frozen, it stands on no tape, and takes time all the same


def test_the_multiplications_are_those_foretold(report):
    """Counted as the arrays meet, against the shadows' books of the same step."""
    lora = LORA if report["method"] == "lora" else None
    config = load_base("skills").config
    foretold = predict(config, lora=lora, batch_size=2, length=12).flops
    assert report["flops"] == foretold.total - foretold.update
    assert report["flops"] == sum(row["flops"] for row in report["rows"])
    assert report["product_seconds"] == pytest.approx(
        sum(row["product_seconds"] for row in report["rows"])
    )
    for row in report["rows"]:
        assert (row["product_rate"] is None) == (row["flops"] == 0)


def test_table_and_figure(report, tmp_path):
    text = table(report)
    assert all(row["op"] in text for row in report["rows"])
    assert "GFLOP/s" in text and BETWEEN in text
    draw(report, tmp_path / "profile.svg")
    drawn = (tmp_path / "profile.svg").read_text()
    assert "Linear" in drawn and "backward" in drawn


def test_time_inside_of_an_operation_inside_is_its_own(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter()
    for part in (
        ("outer", "backward"),
        ("inner", "forward"),
        None,
        ("inner", "forward"),
        None,
        None,
    ):
        meter.switch(part)
    assert meter.seconds == {("outer", "backward"): 3, ("inner", "forward"): 2}
    assert meter.calls == {("outer", "backward"): 1, ("inner", "forward"): 2}


def test_metering_changes_no_bit_and_is_gone_afterwards(tiny, tiny_batch, fingerprint):
    def after(measure):
        model = tiny()
        optimizer = AdamW(model.parameters())
        if measure:
            with metered(Meter()), _timed_weights(model):
                train_step(model, optimizer, *tiny_batch, threads=1)
        else:
            train_step(model, optimizer, *tiny_batch, threads=1)
        assert all(type(p.data) is np.ndarray for p in model.parameters())
        return fingerprint({n: p.data for n, p in model.named_parameters()})

    methods = [(c, dict(vars(c))) for c in (*Function.__subclasses__(), AdamW)]
    assert after(measure=True) == after(measure=False)
    for owner, before in methods:
        assert {k: v for k, v in vars(owner).items() if callable(v)} == {
            k: v for k, v in before.items() if callable(v)
        }


def test_a_step_that_fails_leaves_no_meter_behind(tiny, tiny_batch):
    model, (ids, labels) = tiny(), tiny_batch
    optimizer = AdamW(model.parameters())
    before = CrossEntropy.forward, CrossEntropy.backward, AdamW.step
    meter = Meter()
    labels[0, -1] = 10**6  # found out inside of an operation
    with pytest.raises(DataError, match="label 1000000"), metered(meter):
        train_step(model, optimizer, ids, labels, threads=1)
    assert (CrossEntropy.forward, CrossEntropy.backward, AdamW.step) == before
    assert meter.within == []


def test_the_peak_is_a_rate():
    assert 0 < peak_rate(64, 2) < float("inf")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "prefix"}, "method 'prefix' must be lora or full"),
        ({"length": 10**6}, "length 1000000 must be from 2 to"),
        ({"length": 1}, "length 1 must be from 2"),
    ],
)
def test_what_cannot_be_is_said(options, said):
    with pytest.raises(ConfigError, match=said):
        profile_step(progress=None, **options)
