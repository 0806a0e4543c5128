"""A write is whole or did not happen: failures, full disks, kills at every step."""

import os
import subprocess
import sys

import pytest

from minilora.errors import ConfigError
from minilora.files.atomic import locate, made_folder, whole_file, whole_folder


def write(path, content):
    with whole_file(path) as file:
        file.write(content)


def fail_in(place, error):
    """Write half of a new file into a place that `whole_file` or `whole_folder` gives, and stop."""
    with place as given:
        if hasattr(given, "write"):
            given.write(b"half")
        else:
            write(given / "a", b"new")
        raise error


def test_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "some" / "folder" / "file"
    write(path, b"old")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "usual").touch()
    write(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(error):
        fail_in(whole_file(path), error)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_takes_back_the_folders_that_were_made(tmp_path):
    with pytest.raises(ValueError):
        fail_in(whole_file(tmp_path / "a" / "b" / "file"), ValueError)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("opened", [made_folder, whole_folder])
def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch, opened):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"''.*give a folder"), opened(""):
        pass
    with opened(".") as folder:  # which can be said
        write(folder / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_fills_up_surfaces(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, b"new")
    with pytest.raises(OSError, match="No space left"), whole_folder(tmp_path) as staging:
        write(staging / "other", b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_limit_in_the_middle_of_writing_surfaces(tmp_path):
    script = f"""
import resource, signal
from minilora.files.atomic import whole_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with whole_file({str(tmp_path / "file")!r}) as file:
        file.write(bytes(1_000_000))
except OSError as error:
    print("surfaced", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.startswith("surfaced"), done.stderr
    assert str(tmp_path / "file") in done.stdout
    assert os.listdir(tmp_path) == []


def test_only_plain_files_are_replaced(tmp_path):
    with pytest.raises(OSError, match="plain file"):
        write(tmp_path, b"")
    with pytest.raises(OSError, match="plain file"):
        write(os.devnull, b"")
    with pytest.raises(OSError):
        write(tmp_path / "file" / "below", write(tmp_path / "file", b"") or b"")


def test_a_link_stays_a_link(tmp_path):
    write(tmp_path / "real", b"old")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_files_of_a_folder_take_their_places_together(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder / "notes.txt", b"kept")
    for content in (b"old", b"new"):
        with whole_folder(folder) as staging:
            write(staging / "a", content)
            write(staging / "b", content)
    assert sorted(os.listdir(folder)) == ["a", "b", "notes.txt"]
    assert locate(folder, "a").read_bytes() == locate(folder, "b").read_bytes() == b"new"


def test_an_error_between_the_files_of_a_folder_changes_none(tmp_path):
    folder = tmp_path / "adapter"
    with whole_folder(folder) as staging:
        write(staging / "a", b"old")
    with pytest.raises(KeyboardInterrupt):
        fail_in(whole_folder(folder), KeyboardInterrupt)
    assert os.listdir(folder) == ["a"]
    assert (folder / "a").read_bytes() == b"old"
    with pytest.raises(ValueError):
        fail_in(whole_folder(tmp_path / "new" / "one"), ValueError)
    assert os.listdir(tmp_path) == ["adapter"]


# Writes an adapter over another, killed right before its k-th dealing with the file system, for
# every k there is; after each, reads what a reader would find.
KILLS = """
import os, signal, sys
from pathlib import Path
import numpy as np
from minilora.files.atomic import locate, whole_folder
from minilora.files.json_files import read_json, write_json
from minilora.files.safetensors import read_tensors, write_tensors

folder, start_empty = Path(sys.argv[1]), sys.argv[2] == "empty"

def save(rank):
    with whole_folder(folder) as staging:
        write_json(staging / "config.json", {"rank": rank})
        write_tensors(staging / "arrays.safetensors", {"A": np.full((rank, 3), rank, "f4")})

def found():
    if not locate(folder, "config.json").exists():
        assert not locate(folder, "arrays.safetensors").exists()
        return 0
    rank = read_json(locate(folder, "config.json"))["rank"]
    A = read_tensors(locate(folder, "arrays.safetensors"))["A"]
    assert A.shape == (rank, 3) and (A == rank).all(), (rank, A)
    return rank

def killed_at(k):
    child = os.fork()
    if child == 0:
        left, sync = [k], os.fsync
        def step():
            left[0] -= 1
            if left[0] == -1:
                os.kill(os.getpid(), signal.SIGKILL)
        def hook(event, arguments):
            if event != "os.kill" and event.startswith(("os.", "open", "shutil.")):
                step()
        def stepping_sync(descriptor):
            step()
            sync(descriptor)
        os.fsync = stepping_sync
        sys.addaudithook(hook)
        try:
            save(8)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0

before = 0 if start_empty else 4
seen = []
for k in range(1000):
    if start_empty:
        import shutil
        shutil.rmtree(folder, ignore_errors=True)
    else:
        save(4)
    was_killed = killed_at(k)
    seen.append(found())
    if not was_killed:
        break
assert seen == sorted(seen) and set(seen) == {before, 8}, seen
save(4)
assert found() == 4 and sorted(os.listdir(folder)) == ["arrays.safetensors", "config.json"]
print(len(seen) - 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("start", ["empty", "full"])
def test_killed_at_any_step_the_old_or_the_new_pair_loads(tmp_path, start):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "adapter"), start],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20
