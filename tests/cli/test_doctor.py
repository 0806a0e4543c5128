"""`minilora doctor`: findings a line each and status 1, or "nothing found" and 0."""

import json

import pytest

import minilora


@pytest.fixture
def adapter(here):
    """adapter(b=0.01): a folder `adapter`, every B as given."""

    def make(b=0.01):
        model = minilora.get_peft_model(minilora.load_base("skills"), minilora.LoraConfig(r=2))
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.data[...] = b
        model.save_pretrained(here / "adapter")
        return here / "adapter"

    return make


def test_a_healthy_adapter(run, adapter):
    adapter()
    outcome = run("doctor", "adapter", "--base", "skills")
    assert (outcome.status, outcome.out, outcome.err) == (0, "nothing found\n", "")


def test_without_the_base_it_says_so(run, adapter):
    adapter()
    outcome = run("doctor", "adapter")
    assert (outcome.status, outcome.out) == (0, "nothing found\n")
    (line,) = outcome.said
    assert "--base" in line


def test_findings_are_a_line_each(run, adapter):
    place = adapter(b=0)
    rows = ({"step": n, "loss": 2.0, "lr": 0.001} for n in range(1, 21))
    (place / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = run("doctor", "adapter", "--base", "skills")
    assert outcome.status == 1
    found = [line.split(":")[0] for line in outcome.out.splitlines()]
    assert found == ["loss_never_fell", "b_still_zero"]


def test_json(run, adapter):
    adapter(b=0)
    outcome = run("doctor", "adapter", "--json")
    assert outcome.status == 1
    (one,) = outcome.json()["findings"]
    assert one.keys() == {"diagnosis", "reason", "way_out"}
    assert one["diagnosis"] == "b_still_zero"
    adapter()
    assert run("doctor", "adapter", "--json").json() == {"findings": []}


def test_the_type_that_is_merged_into(run, adapter):
    adapter(b=1e-5)
    assert run("doctor", "adapter", "--base", "skills").status == 0
    outcome = run("doctor", "adapter", "--base", "skills", "--merge-dtype", "bfloat16")
    assert outcome.status == 1
    assert outcome.out.startswith("merge_swallowed: merged in bfloat16, ")


def test_a_prefix_on_the_default_base(run, here):
    config = minilora.PrefixTuningConfig(num_virtual_tokens=4)
    minilora.get_peft_model(minilora.load_base("skills"), config).save_pretrained(here / "prefix")
    outcome = run("doctor", "prefix", "--base", "skills")
    assert (outcome.status, outcome.out, outcome.err) == (0, "nothing found\n", "")


def test_another_base_is_a_finding_and_no_warning_besides(run, adapter, here):
    adapter()
    base = minilora.load_base("skills")
    base.model.norm.weight.data += 0.5
    minilora.save_base(base, here / "other")
    outcome = run("doctor", "adapter", "--base", "other")
    assert (outcome.status, outcome.err) == (1, "")
    found = [line.split(":")[0] for line in outcome.out.splitlines()]
    assert found == ["another_base_by_name", "another_base_by_weights"]


def test_a_base_alone(run):
    outcome = run("doctor", "--base", "skills")
    assert (outcome.status, outcome.out, outcome.err) == (0, "nothing found\n", "")


def test_mistakes(mistake, adapter):
    assert "--base" in mistake("doctor")
    assert "adapter_config.json" in mistake("doctor", "nowhere")
    place = adapter()
    assert "'nobody'" in mistake("doctor", "adapter", "--base", "nobody")
    assert "int8" in mistake("doctor", "adapter", "--merge-dtype", "int8")
    (place / "log.jsonl").write_text("{")
    assert "log.jsonl, line 1" in mistake("doctor", "adapter")
    (place / "adapter_config.json").write_text("{")
    (place / "log.jsonl").unlink()
    assert "malformed JSON" in mistake("doctor", "adapter")
