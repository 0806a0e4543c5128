"""`minilora quantize`: errors by kind and layer, bytes, skills before and after, and files."""

import numpy as np
import pytest

import minilora
from minilora.bases import save_base
from minilora.cli.quantize import FORMATS
from minilora.experiments.quantize import code_counts
from minilora.quant import DATA_TYPES, bits_per_parameter, dequantize, quantize
from minilora.quant.levels import levels

pytestmark = pytest.mark.usefixtures("few_examples")


def test_the_formats_are_those_of_the_library():
    assert tuple(DATA_TYPES) == FORMATS


def test_the_table(run):
    outcome = run("quantize")
    assert outcome.status == 0
    assert outcome.said[-1] == "asking it again"
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[0] == ["parameters", "MAE", "SNR,", "dB", "bits"]
    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert [line[0] for line in lines[1:8]] == kinds
    assert [line[:2] for line in lines[8:12]] == [["layer", str(n)] for n in range(4)]
    assert lines[12][:2] == ["all", "790,528"] and 19 < float(lines[12][3]) < 21
    assert lines[16][:3] == ["bytes:", "model", "3,182,080"]
    assert lines[17][0] == "copy" and len(lines) == 25


@pytest.mark.parametrize("name", FORMATS)
def test_the_report_is_what_the_library_finds(run, name):
    said = run("quantize", "--format", name, "--block-size", 32, "--no-double-quant", "--json")
    report = said.json()
    assert report["settings"] == {
        "base": "skills",
        "data_type": name,
        "block_size": 32,
        "double_quant": False,
    }
    assert report["bits_by_formula"] == bits_per_parameter(name, 32, False)
    # All rows are of whole blocks here, so that the formula is exact.
    assert report["total"]["bits"] == report["bits_by_formula"]
    assert sum(report["code_shares"]) == pytest.approx(1)

    W = minilora.load_base("skills").model.layers[1].mlp.down_proj.weight.data
    noise = dequantize(quantize(W, name, 32, False)).astype(float) - W
    row = next(r for r in report["matrices"] if (r["layer"], r["kind"]) == (1, "down_proj"))
    assert row["mae"] == pytest.approx(np.abs(noise).mean(), rel=1e-9)
    snr = 10 * np.log10((W.astype(float) ** 2).sum() / (noise**2).sum())
    assert row["snr"] == pytest.approx(snr, rel=1e-9)
    held = report["bytes"]
    assert held["matrices_after"] * 8 == report["total"]["bits"] * 790_528
    floats_left = held["model_before"] - held["matrices_before"]
    assert held["model_after"] - held["matrices_after"] == floats_left


def test_more_bits_lose_less(run):
    snr = {n: run("quantize", "--format", n, "--json").json()["total"]["snr"] for n in FORMATS}
    assert snr["fp4"] < snr["int4"] < snr["nf4"] + 1 < 25 < 35 < snr["int8-dynamic"] < snr["int8"]


def test_skills_are_asked_of_the_quantized_model(run, monkeypatch):
    asked = []

    def share(model, examples):
        asked.append(model.model.layers[0].mlp.up_proj.weight.data)
        return 1.0

    monkeypatch.setattr("minilora.experiments.quantize.exact_match", share)
    run("quantize", "--format", "int4")
    kinds = [getattr(W, "data_type", "floats") for W in asked]
    assert kinds == ["floats"] * 8 + ["int4"] * 8


def test_files(run, here):
    outcome = run("quantize", "--out", "made", "--format", "int8")
    assert outcome.status == 0
    assert outcome.said[-1] == "wrote made/quantize.json, made/quantize.png"
    assert {p.name for p in (here / "made").iterdir()} == {
        "quantize.json",
        "quantize.png",
        "quantize.txt",
    }
    assert "down_proj: " in (here / "made" / "quantize.txt").read_text()


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_the_model_that_is_written_is_a_base(run, mistake, name):
    outcome = run("quantize", "--out", "made", "--format", name)
    assert outcome.said[-1].endswith("made/model; it is a base: --base made/model")
    again = minilora.load_base("made/model")
    expected = minilora.load_base("skills", quantize=name)
    ids = np.arange(8)[None]
    np.testing.assert_array_equal(again(ids).data, expected(ids).data)
    line = mistake("quantize", "--base", "made/model")
    assert "already" in line and name in line


def test_blocks_that_other_programs_have_not(run):
    outcome = run("quantize", "--out", "made", "--block-size", 48)
    assert outcome.status == 0
    assert outcome.said[-2].startswith("only minilora opens the model: blocks of bitsandbytes have")
    assert minilora.load_base("made/model").model.layers[0].mlp.up_proj.weight.data.nbytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("constants", [(), ("--no-double-quant",)])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_transformers_opens_the_model(run, name, constants):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    functional = pytest.importorskip("bitsandbytes.functional")
    run("quantize", "--out", "made", "--format", name, *constants)
    opened = transformers.AutoModelForCausalLM.from_pretrained("made/model", dtype=torch.float32)
    ours = minilora.load_base("made/model")
    theirs = opened.model.layers[2].mlp.up_proj.weight
    np.testing.assert_array_equal(
        functional.dequantize_4bit(theirs.data, theirs.quant_state).numpy(),
        np.asarray(ours.model.layers[2].mlp.up_proj.weight.data),
    )
    ids = np.arange(12)[None]
    # With gradients on: without, bitsandbytes takes a kernel that matrices of these sizes break.
    logits = opened(torch.from_numpy(ids)).logits.detach().numpy()
    np.testing.assert_allclose(ours(ids).data, logits, rtol=0, atol=1e-4)


def test_a_base_without_tokenizer_has_nothing_to_be_asked(run, here):
    model = minilora.load_base("skills")
    model.tokenizer = None
    save_base(model, here / "mute")
    report = run("quantize", "--base", "mute", "--json").json()
    assert (report["before"], report["after"]) == ({}, {})
    assert "MAE" in run("quantize", "--base", "mute").out


def test_counts_are_in_the_order_of_the_levels():
    w = np.array([-1, 1, 1, 0.5, 0.5, 0.5, 0, 0, 0, 0], np.float32)
    for name in ("nf4", "fp4", "int8"):
        counts = code_counts(quantize(w, name))
        rising = np.sort(levels(name))
        assert counts.sum() == 10 and counts[-1] == 2
        assert counts[rising == 0].sum() == 4
        assert counts[np.isclose(rising, -1)].sum() == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--format", "nf3"), ["nf3", "int4-minmax"]),
        (("--block-size", "0"), ["'0'", "whole number from 1"]),
        (("--block-size", "2.5"), ["'2.5'"]),
        (("--base", "gpt"), ["'gpt'", "skills", "smollm2"]),
    ],
)
def test_mistakes(mistake, argv, words):
    line = mistake("quantize", *argv)
    assert all(word in line for word in words)
