"""What a run wrote down: each fault is planted and found."""

import numpy as np
import pytest

from minilora.diagnosing import examine_folder
from minilora.errors import FormatError


def losses(*values):
    return [{"loss": v} for v in values]


FALLING = [2.0 * 0.95**i + 0.01 * (i % 3) for i in range(40)]


def test_a_run_that_went_well(folder):
    assert examine_folder(folder(log=losses(*FALLING))) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_loss_that_is_not_finite(folder, value):
    (one,) = examine_folder(folder(log=losses(*FALLING[:20], value, *FALLING[20:])))
    assert one.diagnosis == "loss_not_finite" and "step 21" in one.reason


def test_a_loss_that_never_fell(folder, names):
    noise = np.random.default_rng(0).normal(0, 0.01, 40)
    for curve in (np.full(40, 3.2), 3.2 + noise, 3.2 + noise + np.linspace(0, 1, 40)):
        assert names(examine_folder(folder(log=losses(*curve)))) == ["loss_never_fell"]
    assert examine_folder(folder(log=losses(3.2, 3.2, 3.2))) == []  # too few to say


def test_a_loss_that_jumps(folder):
    (one,) = examine_folder(folder(log=losses(*FALLING[:30], 6.0, *FALLING[30:])))
    assert one.diagnosis == "loss_jumps"
    assert "step 31" in one.reason and "to 6" in one.reason
    small = [v * 1e-3 for v in (*FALLING[:30], 6.0, *FALLING[30:])]
    assert examine_folder(folder(log=losses(*small))) == []  # from nothing to next to nothing


def test_a_learning_rate_that_stays_zero(folder, names):
    rows = [{"loss": v, "lr": 0.0} for v in FALLING]
    assert names(examine_folder(folder(log=rows))) == ["learning_rate_stays_zero"]


def test_a_log_that_is_none(folder):
    place = folder(log=losses(*FALLING))
    for line in ("{", "[]", '{"step": 1}', '{"step": 1, "loss": "high"}'):
        (place / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n' + line)
        with pytest.raises(FormatError, match=r"log\.jsonl, line 2"):
            examine_folder(place)


def test_a_run_that_was_stopped(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    (one,) = examine_folder(tmp_path)
    assert one.diagnosis == "unfinished" and "--resume" in one.way_out
