"""`minilora budget`: the sum of a fine-tune, its verdict, its check, and what it refuses."""

import json

import pytest

from minilora.accounting import check as checking
from minilora.config import ModelConfig
from minilora.method_names import METHODS

TINY = ModelConfig(31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64)
KINDS = ["weights", "gradients", "optimizer", "activations", "buffers", "total"]


@pytest.fixture
def tiny_json(here):
    """tiny.json, in the folder where commands are run."""
    (here / "tiny.json").write_text(json.dumps(TINY.to_hf()))
    return "tiny.json"


def rows(outcome):
    """kind → bytes of the table."""
    lines = (line.split() for line in outcome.out.splitlines())
    return {w[0]: int(w[1].replace(",", "")) for w in lines if len(w) > 2 and "," in w[1]}


class TestText:
    def test_the_64_gb(self, run):
        outcome = run("budget", "llama-3-8b", "--accounting", "tutorial", "--gpu", 24)
        assert (outcome.status, outcome.err) == (0, "")
        assert rows(outcome)["total"] == 64_242_089_984
        assert "8,030,261,248 of 8,030,261,248 parameters trained (100 %)" in outcome.out
        assert "does NOT fit on 24 GiB (25.77 GB): needs 64.24 GB" in outcome.out
        assert "in the way: optimizer 32.12 GB" in outcome.out
        assert outcome.out.count("would fit with --") == 3

    @pytest.mark.slow
    def test_the_estimate_says_that_it_is_one(self, run):
        said = run("budget", "llama-3-8b", "--method", "lora", "--gpu", 24).out
        assert "≈ activations" in said and "an estimate" in said
        assert "arXiv 2205.05198" in said and "left out:" in said and "B·T·" in said
        assert "fits on 24 GiB" in said
        assert "3,407,872 of 8,033,669,120" in said
        assert "trained 6.82 MB" in said

    def test_an_exact_step_has_all_kinds_and_a_peak(self, run):
        outcome = run("budget", "skills", "--accounting", "exact")
        assert [kind for kind in KINDS if kind not in (*rows(outcome), "buffers")] == []
        assert "peak" in rows(outcome)
        assert "estimate" not in outcome.out

    def test_cards_that_share(self, run):
        argv = ("--gpus", 4, "--shard", "zero2", "--offload", "optimizer")
        said = run("budget", "llama-3-8b", *argv).out
        assert "on each card" in said
        assert "offloaded: 24.09 GB in the processor's memory" in said
        assert "over the network 24.09 GB a step" in said

    @pytest.mark.slow
    def test_all_methods_side_by_side(self, run):
        outcome = run("budget", "llama-3-8b", "--compare", "--rank", 16, "--gpu", 24)
        table = [line.split() for line in outcome.out.splitlines()[3:12]]
        assert [line[0] for line in table] == list(METHODS)
        assert [line[-1] for line in table] == ["no", *8 * ["yes"]]
        assert table[1][1] == "6,815,744"
        exact = run("budget", "skills", "--compare", "--accounting", "exact").out
        known = [line.split()[0] for line in exact.splitlines()[3:] if line]
        assert known[: len(METHODS)] == list(METHODS)

    def test_what_freezing_spares_of_a_step(self, run):
        out = run("budget", "llama-3-8b", "--compare").out
        head, full, lora, *rest = out[out.index("FLOPs") :].splitlines()[2:]
        assert head.split("  ")[-1].strip() == "of full"
        full, lora = (line.replace(" T", "T").replace(" G", "G").split() for line in (full, lora))
        assert (full[0], lora[0]) == ("full", "lora")
        assert full[-2:] == ["100.0", "%"]
        assert 65 < float(lora[-2]) < 69  # two thirds
        assert full[2].endswith("T") and lora[2].endswith("T")  # dx: both pay it
        assert lora[3].endswith("G")  # dW: spared
        shares = {line.split()[0]: float(line.split()[-2]) for line in rest}
        assert list(shares) == list(METHODS[2:])
        assert all(67 < share < 69 for share in shares.values())  # two products of three, and some
        assert "FLOPs" not in run("budget", "gpt3-175b", "--compare").out


class TestJson:
    def test_its_shape(self, run):
        said = run("budget", "llama-3-8b", "--rank", 8, "--json").json()
        assert (said["method"], said["accounting"]) == ("lora", "mixed")
        assert said["trainable_parameters"] == 3_407_872
        assert said["total_parameters"] == 8_030_261_248 + 3_407_872
        assert list(said["bytes"]) == KINDS
        flops = said["flops"]
        assert flops["backward"] == flops["backward_through"] + flops["backward_weights"]
        assert all(flops[kind] > 0 for kind in ("forward", "backward", "update"))
        assert said["estimate"]["activations"] + said["bytes"]["total"] == said["needed"]
        assert said["fit"] is None

    def test_the_verdict(self, run):
        argv = ("--method", "lora", "--length", 4096, "--gpu", 24)
        fit = run("budget", "llama-3-8b", *argv, "--json").json()["fit"]
        assert (fit["card"], fit["fits"]) == (24 * 2**30, False)
        assert set(fit["largest"]) == {"batch_size", "length", "rank"}
        assert fit["changes"][0]["change"] == "--checkpointing"

    def test_gpt3_is_counted(self, run):
        said = run("budget", "gpt3-175b", "--rank", 4, "--json").json()
        assert said["trainable_parameters"] == 18_874_368
        assert (said["flops"], said["estimate"]) == (None, None)

    @pytest.mark.slow
    def test_a_list_of_methods(self, run):
        said = run("budget", "smollm2-135m", "--compare", "--gpu", 8, "--json").json()
        assert [row["method"] for row in said["methods"]][:2] == ["full", "lora"]
        assert said["methods"][1]["trainable_parameters"] == 460_800
        assert said["methods"][0]["fit"]["fits"]

    def test_every_option_arrives(self, run, tiny_json):
        argv = ("--method=lora", "--rank=3", "--alpha=4", "--target-modules=all-linear")
        argv += ("--batch-size=5", "--length=33", "--dtype=float64", "--accounting=exact")
        said = run("budget", tiny_json, *argv, "--json").json()
        assert (said["batch_size"], said["length"], said["dtype"]) == (5, 33, "float64")
        attention = 3 * (48 + 36 + 36 + 48)
        assert said["trainable_parameters"] == 2 * (attention + 3 * 3 * 64)
        assert said["bytes"]["gradients"] == 8 * said["trainable_parameters"]


class TestCheck:
    @pytest.mark.parametrize("method", ["full", "lora"])
    def test_equal_by_kind(self, run, tiny_json, method):
        argv = ("budget", tiny_json, "--method", method, "--batch-size", 3, "--check")
        said = run(*argv, "--json").json()
        assert list(said["predicted"]) == list(said["measured"]) == KINDS
        assert said["predicted"] == said["measured"]
        assert said["equal"] is True
        assert said["peak"]["measured"] > 0
        outcome = run(*argv)
        assert outcome.status == 0
        assert "DIFFERENT" not in outcome.out

    def test_status_1_where_they_differ(self, run, tiny_json, monkeypatch):
        right = checking.Check
        monkeypatch.setattr(
            checking, "Check", lambda p, m, *peaks: right({**p, "weights": 1}, m, *peaks)
        )
        outcome = run("budget", tiny_json, "--check")
        assert outcome.status == 1
        assert "DIFFERENT" in outcome.out

    def test_refused_where_it_would_not_fit(self, mistake):
        line = mistake("budget", "llama-3-8b", "--check")
        assert "three quarters" in line and "GB" in line


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_figure(run, here, ending):
    for argv in (("--compare", "--gpu", 24), ("--accounting", "tutorial")):
        outcome = run("budget", "llama-3-8b", *argv, "--figure", f"bars.{ending}")
        assert outcome.status == 0
        assert outcome.said == [f"wrote bars.{ending}"]
        assert (here / f"bars.{ending}").stat().st_size > 5000
        (here / f"bars.{ending}").unlink()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("llama3-8b",), ("'llama3-8b'", "llama-3-8b?", "config.json")),
        (("bert",), ("'bert'", "smollm2-135m", "gpt3-175b")),
        (("nowhere/config.json",), ("nowhere/config.json",)),
        (("llama-3-8b", "--gpu", "0"), ("'0'", "above 0")),
        (("llama-3-8b", "--gpu", "-24"), ("'-24'", "above 0")),
        (("llama-3-8b", "--gpu", "nan"), ("'nan'",)),
        (("llama-3-8b", "--batch-size", "-1"), ("'-1'", "from 1")),
        (("llama-3-8b", "--length", "1"), ("'1'", "from 2")),
        (("llama-3-8b", "--length", "8193"), ("8193", "8192")),
        (("llama-3-8b", "--batch-size", "99999999999"), ("99999999999",)),
        (("llama-3-8b", "--rank", "0"), ("'0'", "from 1")),
        (("llama-3-8b", "--rank", "1025"), ("1025", "1024")),
        (("llama-3-8b", "--target-modules", "c_attn"), ("'c_attn'", "q_proj", "all-linear")),
        (("llama-3-8b", "--method", "half"), ("'half'", "qlora")),
        (("llama-3-8b", "--method", "full", "--rank", "4"), ("--rank", "lora")),
        (("llama-3-8b", "--method", "lora", "--tokens", "4"), ("--tokens", "prompt or prefix")),
        (("llama-3-8b", "--gpus", "0"), ("'0'", "from 1")),
        (("llama-3-8b", "--shard", "zero1"), ("zero1", "gpus 2")),
        (("llama-3-8b", "--shard", "zero4", "--gpus", "2"), ("'zero4'", "zero3")),
        (("skills", "--accounting", "exact", "--optimizer", "sgd"), ("sgd",)),
        (("skills", "--accounting", "mixed", "--check"), ("accounting exact",)),
        (("gpt3-175b", "--accounting", "exact"), ("no Llama",)),
        (("skills", "--check", "--compare"), ("--check", "--compare")),
        (("skills", "--check", "--gpu", "24"), ("--gpu",)),
        (("skills", "--compare", "--method", "lora"), ("--method",)),
        (("skills", "--figure", "bars.txt"), ("bars.txt", ".png")),
        ((), ("MODEL",)),
    ],
)
def test_mistakes_are_one_line(mistake, argv, named):
    line = mistake("budget", *argv)
    assert [each for each in named if each not in line] == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "gpt2"}, ("'gpt2'", "llama, mistral, qwen2")),
        ({"hidden_size": -1}, ("hidden_size", "-1")),
        ({"num_hidden_layers": None}, ("num_hidden_layers",)),
        ({"vocab_size": 1e30}, ("vocab_size",)),
    ],
)
def test_a_config_of_no_llama(mistake, here, fields, named):
    (here / "other.json").write_text(json.dumps(TINY.to_hf() | fields))
    line = mistake("budget", "other.json")
    assert [each for each in named if each not in line] == []
