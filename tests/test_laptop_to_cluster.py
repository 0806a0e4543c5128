"""The page on going from the laptop to the cluster: what it shows to type works, in its order."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "notebooks/laptop_to_cluster.md").read_text(encoding="utf-8")


def blocks():
    """(language, text) of the page's blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_it_has_what_it_is_about():
    assert [language for language, _ in blocks()] == [
        *("sh", "sh", "sh", "python", "text", "console", "sh")
    ]


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(find_spec, ("torch", "transformers", "peft", "accelerate"))) or os.name != "posix",
    reason="needs torch, transformers, peft, accelerate and a shell",
)
def test_it_works_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": here, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    said = ""
    for language, text in blocks():
        if language == "sh":
            done = subprocess.run(
                [shutil.which("bash"), "-e", "-c", text], env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            said = done.stdout
        elif language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, "laptop_to_cluster.md", "exec"), {})
            said = out.getvalue()
        elif language == "text":
            assert said == text
    (promised,) = re.findall(r"^minilora generate .*# (\w+)$", PAGE, re.MULTILINE)
    assert said.startswith(f"{promised}\n")
