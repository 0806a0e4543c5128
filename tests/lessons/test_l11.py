"""Lesson 11: what its rows must show, and what its checkers tell apart."""

import numpy as np
import pytest

from minilora.experiments.dirty_data import answering
from minilora.experiments.dirty_data.dirt import KINDS
from minilora.files.json_files import read_json_lines
from minilora.lessons import check, l11
from minilora.lessons.content import lesson_content
from minilora.lessons.l11_plans import GIB, judged, needs
from minilora.lessons.places import rows_folder

PATH = rows_folder() / "dirty_data.jsonl"


@pytest.fixture(scope="module")
def rows():
    found = [row for _, row in read_json_lines(PATH)]
    return [row for row in found if "kind" in row]


def test_the_guess_offers_every_kind_of_dirt():
    assert lesson_content("11").prediction("worst").options == (*KINDS, "a tie")
    assert l11.KINDS[:-1] == tuple(KINDS)


def test_the_rows_have_what_the_lesson_tells(rows):
    assert len(answering.by_harm(rows, 0.1)) == len(KINDS)
    assert all(len(values) == 3 for _, values in answering.by_harm(rows, 0.1))
    worst, _ = answering.by_harm(rows, 0.1)[0]
    assert worst == "wrong"
    assert max(answering.new(rows, "template", 1.0)) < 0.05
    half, whole = (answering.mean(answering.new(rows, "template", s)) for s in (0.5, 1.0))
    assert half > whole + 0.3, "half of the rows in the test's template had been enough"
    letters, ended = (answering.new(rows, "end", 1.0, what) for what in ("letters", "new"))
    assert min(letters) > max(ended)


def test_an_8b_model_fits_a_card_of_24_gib_with_lora_and_not_whole():
    bill = needs("llama-3-8b", 2048)
    assert bill["qlora"] < bill["lora"] <= 24 * GIB < bill["full"]


@pytest.mark.parametrize(
    ("method", "factor", "replay", "off", "old", "right"),
    [
        ("lora", 10, 0.0, True, "apart", (True, True, True)),
        ("lora", 10, 0.0, True, "together", (True, True, False)),
        ("full", 1, 0.0, True, "apart", (True, True, False)),
        ("full", 10, 0.05, False, "together", (True, False, True)),
        ("lora", 1, 0.05, False, "together", (True, False, True)),
        ("qlora", 30, 0.0, False, "not needed", (True, True, True)),
    ],
)
def test_a_plan_is_judged_by_what_becomes_of_it(method, factor, replay, off, old, right):
    case = {"needs": dict.fromkeys(("full", "lora", "qlora"), GIB), "card": 1, "lr_full": 1e-5}
    chosen = {"method": method, "lr": factor * 1e-5, "replay": replay, "off_for_old": off}
    assert tuple(judged(chosen, case | {"old": old}).values()) == right


def test_a_refusal_of_the_librarys_own_kind_is_one():
    from minilora.errors import DataError

    def format_and_mask(row, template, tok):
        if not row["completion"].strip():
            raise DataError("nothing to learn")
        given, ids = tok.encode(template(row)), tok.encode(template(row) + row["completion"])
        return [*ids, 0], [-100] * len(given) + ids[len(given) :] + [0]

    assert check("11.1", format_and_mask).passed


def test_a_swap_of_a_and_b_is_none_of_the_known_mistakes_and_is_found():
    def peft_files(adapter):
        weights = {}
        for path, (A, B) in adapter["pairs"].items():
            weights[f"base_model.model.{path}.lora_A.weight"] = np.asarray(B)
            weights[f"base_model.model.{path}.lora_B.weight"] = np.asarray(A)
        settings = {"peft_type": "LORA", "r": adapter["r"], "lora_alpha": adapter["alpha"]}
        names = sorted({path.split(".")[-1] for path in adapter["pairs"]})
        return weights, settings | {"target_modules": names}

    verdict = check("11.4", peft_files)
    assert not verdict.passed and verdict.wrong is None
