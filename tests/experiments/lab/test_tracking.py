"""What TensorBoard and MLflow are told, where they are installed."""

import sys

import pytest

from minilora.errors import ConfigError, MissingExtraError
from minilora.experiments.lab.tracking import scalars, tracker

ROW = {
    "config_hash": "abc",
    "method": "lora",
    "lr": 0.5,
    "steps": 2,
    "losses": [[1, 2.0], [2, 1.0]],
    "curve": [{"step": 0, "new": 0.25, "old": None}, {"step": 2, "new": 0.75, "old": 1.0}],
    "new": 0.5,
    "old": None,
    "init": True,
}


def test_scalars_of_a_row():
    found = list(scalars(ROW))
    assert ("loss", 2.0, 1) in found and ("loss", 1.0, 2) in found
    assert ("validation/new", 0.75, 2) in found
    assert ("row/new", 0.5, 2) in found and ("row/lr", 0.5, 2) in found
    assert not [each for each in found if each[1] is None or each[0] == "row/init"]
    assert list(scalars({"new": 1.0})) == [("row/new", 1.0, 0)]


def test_nobody_is_told():
    with tracker(None, "toy") as note:
        note(ROW)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.event_file_writer import EventsWriter  # noqa: F401

    with tracker(str(tmp_path / "board"), "toy") as note:
        note(ROW)
    (file,) = (tmp_path / "board/toy/abc").iterdir()
    assert file.name.startswith("events.out.tfevents")
    assert b"validation/new" in file.read_bytes()


@pytest.mark.parametrize("prefix", ["file:", "mlflow:"])
def test_mlflow(tmp_path, prefix):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    place = tmp_path / "runs"
    with tracker(f"{prefix}{place}", "toy") as note:
        note(ROW)
    client = MlflowClient(str(place))
    home = client.get_experiment_by_name("toy")
    (run,) = client.search_runs([home.experiment_id])
    assert run.data.params["method"] == "lora"
    assert run.data.metrics["row/new"] == 0.5
    assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [2.0, 1.0]


def test_a_server_that_is_not_there():
    pytest.importorskip("mlflow")
    with (
        pytest.raises(ConfigError, match=r"--track 'http://127.0.0.1:9'"),
        tracker("http://127.0.0.1:9", "toy"),
    ):
        pass


@pytest.mark.parametrize(
    ("place", "module"), [("board", "tensorboardX"), ("file:runs", "mlflow.tracking")]
)
def test_without_the_library(monkeypatch, place, module):
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(MissingExtraError, match=r"--track.*pip install 'minilora\[track\]'"),
        tracker(place, "toy"),
    ):
        pass


def test_a_tracker_that_fails_does_not_stop_the_run(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "board").touch()  # a file where a folder should be
    with tracker(str(tmp_path / "board"), "toy") as note, pytest.warns(UserWarning, match="abc"):
        note(ROW)
