"""How the cost grows: the points, what is measured at each, the exponents."""

import json
from dataclasses import replace

import pytest

from minilora.accounting import predict
from minilora.errors import ConfigError
from minilora.experiments.bench import scaling as room
from minilora.experiments.bench.scaling import Point, axes, scaling, slope
from minilora.experiments.bench.scaling_figure import draw, table
from minilora.model import Transformer

SMALL = Point(batch=2, length=8, rank=2, layers=1, width=32, vocabulary=40)
POINTS = {
    "layers": [replace(SMALL, layers=n) for n in (1, 2)],
    "rank": [replace(SMALL, rank=n) for n in (1, 4)],
}


def measured(**options):
    return scaling(points=POINTS, say=lambda line: None, **options)


@pytest.fixture(scope="module")
def report():
    return measured()


def test_a_row_for_each_point(report):
    assert [(r["axis"], r["value"]) for r in report["rows"]] == [
        ("layers", 1), ("layers", 2), ("rank", 1), ("rank", 4),
    ]  # fmt: skip
    assert report["interrupted"] is False
    for row in report["rows"]:
        point = Point(**row["sizes"])
        foretold = predict(
            point.config, lora=point.lora, batch_size=point.batch, length=point.length
        )
        assert row["predicted_flops"] == foretold.flops.total
        assert row["predicted_bytes"] == foretold.ledger.peak
        assert row["seconds"] > 0
        assert row["rival_seconds"] is None
        assert row["least_seconds"] * report["peak_rate"] == pytest.approx(foretold.flops.total)
    json.dumps(report, allow_nan=False)


def test_what_was_held_grows_with_layers_as_was_foretold(report):
    one, two, *_ = report["rows"]
    assert two["peak_bytes"] > one["peak_bytes"]
    for row in (one, two):
        # The model is tiny, and Python's own objects are in what was measured.
        assert row["predicted_bytes"] <= row["peak_bytes"] <= row["predicted_bytes"] + 500_000


def test_the_exponent_of_a_power_is_the_power():
    assert slope([(x, 3 * x**2) for x in (1, 2, 4, 8)]) == pytest.approx(2)
    assert slope([(x, 5.0) for x in (1, 2, 4)]) == pytest.approx(0, abs=1e-12)
    assert slope([(1, 660.0), *((x, 3.0 * x) for x in (2, 4, 8, 16))]) == pytest.approx(1)
    assert slope([(2, 5.0)]) is slope([]) is slope([(2, 5.0), (2, 6.0)]) is None


def test_exponents_of_the_foretold_are_exact(report):
    layers, rank = report["exponents"]
    assert (layers["axis"], rank["axis"]) == ("layers", "rank")
    flops = [r["predicted_flops"] for r in report["rows"]]
    assert 2 ** layers["predicted_flops"] == pytest.approx(flops[1] / flops[0])
    assert 4 ** rank["predicted_flops"] == pytest.approx(flops[3] / flops[2])
    assert layers["rival_seconds"] is None


def test_only_some(report):
    assert [r["axis"] for r in measured(names=["rank"])["rows"]] == ["rank", "rank"]
    with pytest.raises(ConfigError, match="'colour'; there are: layers, rank"):
        measured(names=["colour"])


def test_full_tuning_holds_more(report):
    full = measured(names=["rank"], method="full")
    assert full["rows"][0]["predicted_bytes"] > report["rows"][2]["predicted_bytes"]


def test_ctrl_c_keeps_the_rows_that_are_finished(monkeypatch, tmp_path):
    one_row, done = room._row, []

    def row(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(one_row(*args))
        return done[-1]

    monkeypatch.setattr(room, "_row", row)
    stopped = measured()
    assert stopped["rows"] == done and stopped["interrupted"] is True
    assert stopped["exponents"][1]["seconds"] is None
    json.dumps(stopped, allow_nan=False)
    assert "layers" in table(stopped)
    draw(stopped, tmp_path / "stopped.svg")
    assert (tmp_path / "stopped.svg").exists()


def test_the_figure_has_both_what_was_measured_and_foretold(report, tmp_path):
    beside = [
        {**row, "rival_seconds": 2 * row["seconds"], "rival_bytes": 3_000_000}
        for row in report["rows"]
    ]
    draw({**report, "rows": beside}, tmp_path / "scaling.svg")
    drawn = (tmp_path / "scaling.svg").read_text()
    for word in ("minilora", "rival", "measured", "foretold", "layers", "rank"):
        assert word in drawn
    text = table({**report, "rows": beside})
    assert "grows as" in text and "foretold" in text
    assert text.count(" 3.0 ") == len(beside)
    assert len({len(line) for line in text.splitlines()[:-1]}) == 1


@pytest.mark.parametrize("quick", [False, True])
def test_each_size_is_varied_by_itself(quick, monkeypatch):
    monkeypatch.setenv("MINILORA_THREADS", "2")
    found = axes(quick=quick)
    assert list(found) == [
        "batch", "length", "rank", "layers", "width", "vocabulary", "threads",
    ]  # fmt: skip
    for name, points in found.items():
        values = [getattr(p, name) for p in points]
        assert values == sorted(set(values)) and len(values) >= 2
        assert len({replace(p, **{name: 1}) for p in points}) == 1
        for point in points:
            assert point.config.n_layers == point.layers
    assert quick or found["length"][-1].length == 2048


def test_without_pytorch_the_rival_is_left_out_with_a_reason(monkeypatch):
    monkeypatch.setattr(room, "missing", lambda job: "torch is not installed")
    said = []
    report = scaling(["rank"], points=POINTS, rival=True, say=said.append)
    assert said == ["the rival is left out: torch is not installed"]
    assert [row["rival_seconds"] for row in report["rows"]] == [None, None]


@pytest.mark.slow
def test_the_real_rival_starts_from_the_same_loss():
    for module in ("torch", "transformers", "peft"):
        pytest.importorskip(module)
    report = scaling(points={"rank": [SMALL]}, rival=True, say=print)
    (row,) = report["rows"]
    assert row["rival_seconds"] > 0
    # Weights, gradients and moments are there in any case; of a step this small hardly more is.
    weights = Transformer(SMALL.config).n_parameters()
    assert 4 * weights < row["rival_bytes"] < 100 * weights
    (full,) = scaling(points={"rank": [SMALL]}, method="full", rival=True)["rows"]
    assert full["rival_bytes"] > 4 * 4 * weights
