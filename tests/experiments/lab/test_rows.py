"""Results files: rows come back as they went in, and what does not belong is refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.errors import ConfigError, FormatError
from minilora.experiments.lab.experiment import Experiment, Plan
from minilora.experiments.lab.rows import (
    ENVELOPE,
    append,
    config_hash,
    locked,
    make_row,
    read_rows,
)

TOY = Experiment("toy", "?", lambda rows, plan: [], dict, lambda rows, path: None, str)
ABOUT = {"command": "c", "seconds": 1.0, "versions": {}, "machine": {}, "finished": "now"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def row(experiment=TOY, plan=Plan(), *, seed=0, **result):  # noqa: B008
    return make_row(experiment, plan, {"seed": seed}, result, **ABOUT)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "rows.jsonl"


@given(JSON)
def test_rows_come_back_as_they_went_in(tmp_path_factory, value):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    there = [row(seed=seed, result=value) for seed in range(3)]
    for each in there:
        append(file, each)
    assert read_rows(file, TOY, plan=Plan()) == read_rows(file) == there


def test_a_row_is_a_line_with_the_point_the_result_and_the_envelope(file):
    made = row(seed=3, new=0.5, targets=("q", "v"))
    append(file, made)
    assert json.loads(file.read_text()) == made
    assert file.read_text().count("\n") == 1
    assert set(made) == {"seed", "new", "targets", *ENVELOPE}
    assert made["targets"] == ["q", "v"]  # at once as it will be read again


def test_the_hash_is_of_what_the_point_says():
    def of(experiment=TOY, **point):
        return config_hash(experiment, point)

    assert of(a=1, b=(2, 3)) == of(b=[2, 3], a=1.0)
    different = [of(a=1), of(a=2), of(a=True), of(a="1"), of(b=1), of(a=None)]
    different += [of(replace(TOY, name="other"), a=1), of(replace(TOY, version=2), a=1)]
    assert len(set(different)) == len(different)
    assert of(a=1) == "e1da20b95ae078f4"  # files are years old


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), np.float32(1)])
def test_what_json_has_not_is_no_row(value):
    with pytest.raises(FormatError, match="cannot be written as JSON"):
        row(new=value)


def test_a_result_cannot_say_otherwise_what_the_row_says():
    assert row(seed=4)["seed"] == 4
    assert row(format=1)["format"] == 1
    with pytest.raises(ConfigError, match="its result has 'machine'"):
        row(machine={"other": 1})
    with pytest.raises(ConfigError, match="'seed'"):
        make_row(TOY, Plan(), {"seed": 1}, {"seed": 2}, **ABOUT)


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_torn_last_line_does_not_count(file, cut):
    for seed in range(3):
        append(file, row(seed=seed))
    whole = file.read_bytes()
    torn = whole[:-cut]
    file.write_bytes(torn)
    with pytest.warns(UserWarning, match=r"rows\.jsonl: the last line is unfinished"):
        assert [r["seed"] for r in read_rows(file)] == [0, 1]
    assert file.read_bytes() == torn  # reading alone changes nothing
    with pytest.warns(UserWarning, match="unfinished"):
        read_rows(file, mend=True)
    append(file, row(seed=2))
    assert file.read_bytes() == whole


def test_zeros_at_the_end_as_after_a_loss_of_power(file):
    append(file, row())
    with open(file, "ab") as f:
        f.write(bytes(100))
    with pytest.warns(UserWarning, match="unfinished"):
        assert len(read_rows(file)) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"seed": 1, "exp', "line 2.*malformed JSON"),
        (b"", "line 2"),
        (b"[1, 2]", "line 2: no row of an experiment"),
        (b'{"seed": 1}', "line 2: no row of an experiment, it has no 'experiment'"),
        (b"\xff\xfe", "line 2: broken UTF-8"),
        (b'{"seed": NaN}', "line 2.*NaN"),
    ],
)
def test_another_line_that_is_no_row_is_an_error(file, line, said):
    append(file, row(seed=0))
    with open(file, "ab") as f:
        f.write(line + b"\n")
    append(file, row(seed=1))
    with pytest.raises(FormatError, match=said):
        read_rows(file)


@pytest.mark.parametrize(
    ("other", "plan", "said"),
    [
        (replace(TOY, name="game"), Plan(), "experiment is game there and toy here"),
        (replace(TOY, version=2), Plan(), "experiment_version is 2 there and 1 here"),
        (TOY, Plan(steps=5), "steps is 5 there and as usual here"),
        (TOY, Plan(quick=True), "quick is True there and False here"),
    ],
)
def test_rows_of_something_else_are_refused(file, other, plan, said):
    append(file, row())
    append(file, row(other, plan, seed=1))
    with pytest.raises(ConfigError, match=f"line 2: {said}.*choose another file"):
        read_rows(file, TOY, plan=Plan())
    with pytest.raises(ConfigError, match="line 2"):
        read_rows(file)


def test_rows_of_another_format_are_refused(file):
    append(file, {**row(), "format": 0})
    with pytest.raises(ConfigError, match="line 1: format is 0 there and 1 here"):
        read_rows(file, TOY)


def test_a_point_that_is_there_twice_counts_once(file):
    for new in (0.1, 0.2):
        append(file, row(new=new))
    with pytest.warns(UserWarning, match="line 2: the point .* is there already"):
        assert [r["new"] for r in read_rows(file)] == [0.1]


def test_only_one_run_writes(file):
    with locked(file):
        with pytest.raises(ConfigError, match="is being written by another run"), locked(file):
            pass
        code = f"from minilora.experiments.lab.rows import locked\nwith locked({str(file)!r}): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "is being written by another run" in done.stderr
        append(file, row())
    with locked(file):
        assert len(read_rows(file)) == 1


def test_a_lock_leaves_no_empty_file(file):
    with locked(file):
        assert file.exists()
    assert not file.exists()


def test_a_full_disk_leaves_the_rows_of_before(file, monkeypatch):
    append(file, row(seed=0))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            append(file, row(seed=1))
    assert caught.value.filename == str(file)
    assert read_rows(file)[0]["seed"] == 0
