"""What the README shows of runs is what the committed rows say."""

import json
from pathlib import Path

import pytest

from minilora.cli.compare import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS = " ".join(README.split())


@pytest.mark.parametrize("name", ["compare", "compare_smollm2"])
def test_the_table_in_the_readme_is_that_of_the_rows(name):
    report = json.loads((ROOT / f"figures/{name}.json").read_text(encoding="utf-8"))
    assert f"```text\n{table(report)}\n```" in README
    assert f"(figures/{name}.png)" in README
    assert (ROOT / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["compare", "compare_smollm2"])
def test_what_the_readme_claims_of_them(name):
    """LoRA trains and saves under a tenth, learns the task, forgets as well; off is the base."""
    report = json.loads((ROOT / f"figures/{name}.json").read_text(encoding="utf-8"))
    full, lora, *_ = report["methods"]
    for row in (full, lora):
        assert row["new_before"] <= 0.05
        assert row["new_after"] >= 0.9
    assert lora["trainable_parameters"] < 0.1 * full["trainable_parameters"]
    assert lora["file_bytes"] < 0.1 * full["file_bytes"]
    assert lora["bytes"]["peak"] < full["bytes"]["peak"]
    assert lora["base_restored"] is True
    if name == "compare":
        assert full["old_after"] < 0.1 > lora["old_after"]
        assert lora["old_adapter_off"] == lora["old_before"]
    else:
        assert lora["general_nll_after"] > full["general_nll_after"] > full["general_nll_before"]
        assert lora["general_nll_adapter_off"] == lora["general_nll_before"]


def test_what_the_readme_claims_of_three_seeds():
    """Full, LoRA and QLoRA on SmolLM2: ranges of what is learnt and forgotten, QLoRA's bytes."""
    reports = [
        json.loads((ROOT / f"figures/compare_smollm2{which}.json").read_text(encoding="utf-8"))
        for which in ("", "_seed1", "_seed2")
    ]
    assert [r["settings"]["seed"] for r in reports] == [0, 1, 2]
    full, lora, qlora = zip(*(r["methods"] for r in reports), strict=True)

    def told(rows, name, scale, digits):
        values = [scale * row[name] for row in rows]
        return f"{min(values):.{digits}f} to {max(values):.{digits}f}"

    nll = "general_nll_after"
    assert f"rises to {told(lora, nll, 1, 2)} nats, with full to {told(full, nll, 1, 2)}" in WORDS
    learnt = told(qlora, "new_after", 100, 1), told(lora, "new_after", 100, 1)
    assert "QLoRA learns {} %, LoRA {} %: no difference shown".format(*learnt) in WORDS
    shares = [q["bytes"]["peak"] / p["bytes"]["peak"] for q, p in zip(qlora, lora, strict=True)]
    assert f"holds {min(shares):.2f} to {max(shares):.2f} of LoRA's bytes" in WORDS
    for quantized, row in zip(qlora, lora, strict=True):
        assert quantized["general_nll_before"] > row["general_nll_before"]
        assert 1.1 < quantized["step_seconds"] / row["step_seconds"] < 1.4
