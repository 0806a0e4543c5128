"""What the README shows of runs is what the committed rows say."""

import json
from pathlib import Path

import pytest

from minilora.cli.compare import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
    full, lora = report["methods"]
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
