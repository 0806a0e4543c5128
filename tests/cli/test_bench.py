"""`minilora bench`: what is skipped, what is refused, what is printed."""

import pytest

from minilora.experiments.bench import pairs, scaling
from minilora.experiments.bench.scaling import Point

ROW = {
    "name": "skills-lora-step", "ours_seconds": 0.08, "rival_seconds": 0.125, "ratio": 0.64,
    "ratio_low": 0.5, "ratio_high": 0.9, "ratio_middle": [0.6, 0.7], "pairs": 5,
    "ours_rss": 128_000_000, "rival_rss": 400_000_000, "rival": "torch 2.13", "ours": "minilora",
    "target": 0.65,
}  # fmt: skip


@pytest.fixture
def taken(monkeypatch):
    """Every row is the same, and taken at once; a list of (job's name, pairs)."""
    calls = []

    def row(job, n):
        calls.append((job.name, n))
        return {**ROW, "name": job.name, "pairs": n}

    monkeypatch.setattr(pairs, "missing", lambda job: None)
    monkeypatch.setattr(pairs, "_row", row)
    return calls


def test_json_has_the_rows_by_their_names(run, taken):
    outcome = run("bench", "--only", "skills-lora-step", "--json")
    assert outcome.status == 0
    report = outcome.json()
    (row,) = report["rows"]
    assert row.keys() >= {
        "name", "ours_seconds", "rival_seconds", "ratio", "ratio_low", "ratio_high", "pairs",
        "ours_rss", "rival_rss", "rival",
    }  # fmt: skip
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert report["skipped"] == []


@pytest.mark.parametrize(
    ("options", "n"), [((), 15), (("--quick",), 5), (("--quick", "--pairs", "2"), 2)]
)
def test_pairs(run, taken, options, n):
    assert run("bench", "--only", "merge", *options).status == 0
    assert taken == [("merge", n)]


def test_a_table_and_a_figure(run, taken, here):
    outcome = run("bench", "--quick", "--only", "merge", "--only", "skills-full-step",
                  "--figure", "bench.svg")  # fmt: skip
    assert outcome.status == 0
    assert [line.split()[0] for line in outcome.out.splitlines()[:3]] == [
        "job", "skills-full-step", "merge",
    ]  # fmt: skip
    assert "0.64" in outcome.out and "0.50 to 0.90" in outcome.out
    assert outcome.said == ["wrote bench.svg"]
    assert "merge" in (here / "bench.svg").read_text()


@pytest.mark.parametrize("json", [False, True])
def test_what_cannot_be_done_is_skipped_and_that_is_no_failure(run, monkeypatch, here, json):
    monkeypatch.setattr(pairs, "missing", lambda job: "torch is not installed")
    options = ("--figure", "bench.svg", *(["--json"] if json else []))
    outcome = run("bench", "--only", "merge", *options)
    assert outcome.status == 0
    assert outcome.said == ["merge: skipped, torch is not installed"]
    assert not (here / "bench.svg").exists()  # there is nothing to draw
    if json:
        report = outcome.json()
        assert report["rows"] == []
        assert report["skipped"] == [{"name": "merge", "reason": "torch is not installed"}]
    else:
        assert outcome.out == ""


def test_ctrl_c_prints_what_is_finished(run, taken, monkeypatch):
    one_row = pairs._row

    def row(job, n):
        if taken:
            raise KeyboardInterrupt
        return one_row(job, n)

    monkeypatch.setattr(pairs, "_row", row)
    outcome = run("bench")
    assert outcome.status == 130
    assert "skills-lora-step" in outcome.out
    assert "stopped early" in outcome.said[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "fast"), "no benchmark is called 'fast'; there are: skills-lora-step, "),
        (("--pairs", "0"), "'0' must be a whole number from 1"),
        (("--figure", "bench.txt"), "must end in .png, .svg, .pdf"),
        (("--scaling", "--only", "merge"), "no size is called 'merge'; there are: batch, "),
        (("--scaling", "--pairs", "3"), "--pairs"),
        (("--rival",), "--scaling"),
        (("--method", "full"), "--scaling"),
    ],
)
def test_mistakes(mistake, options, said):
    assert said in mistake("bench", *options)


class TestScaling:
    @pytest.fixture(autouse=True)
    def _two_small_points(self, monkeypatch):
        small = [
            Point(batch=n, length=8, rank=2, layers=1, width=32, vocabulary=40) for n in (1, 2)
        ]
        monkeypatch.setattr(scaling, "axes", lambda quick: {"batch": small})

    def test_json(self, run):
        outcome = run("bench", "--scaling", "--method", "full", "--json")
        assert outcome.status == 0
        report = outcome.json()
        assert [row["value"] for row in report["rows"]] == [1, 2]
        assert report["method"] == "full"
        assert report["exponents"][0]["axis"] == "batch"

    def test_a_table_and_a_figure(self, run, here):
        outcome = run("bench", "--scaling", "--quick", "--only", "batch", "--figure", "s.png")
        assert outcome.status == 0
        assert "grows as" in outcome.out
        assert outcome.said == ["wrote s.png"]
        assert (here / "s.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
