"""What the README says of experiments follows from the committed rows."""

import statistics
from pathlib import Path

import pytest

from minilora.experiments.forgetting.arms import EASY, HARD
from minilora.experiments.lab.experiment import EXPERIMENTS, experiment
from minilora.experiments.lab.learning_rates import best_lr
from minilora.experiments.lab.rows import read_rows
from minilora.experiments.lab.stats import old_at, where
from minilora.experiments.learning_rate.rows import FULL, q_v, tries
from minilora.experiments.low_rank.rows import cut, matrices
from minilora.experiments.rank_alpha.rows import few
from minilora.experiments.redraw import answers, figure_beside

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = ROOT / "figures"


def rows_of(name):
    return read_rows(FIGURES / f"{name}.jsonl", experiment(name))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_rows_a_figure_and_its_words(name):
    path = FIGURES / f"{name}.jsonl"
    assert rows_of(name)
    figure = figure_beside(path)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert len(figure.with_suffix(".txt").read_text(encoding="utf-8")) > 200


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_claim_rests_on_fewer_than_three_seeds(name):
    """(SmolLM2's four runs are of one seed; they are told beside the claims, not among them.)"""
    reported = [
        r
        for r in rows_of(name)
        if r.get("role") in ("report", "tune") and r.get("base") != "smollm2"
    ]
    seeds = {r["seed"] for r in reported if "seed" in r}  # mathematics alone has none
    assert len(seeds) >= 3
    assert not seeds & {100, 101}


def test_the_page_of_answers_is_what_the_rows_say():
    """`minilora figures` writes it anew."""
    assert (FIGURES / "ANSWERS.md").read_text(encoding="utf-8") == answers(FIGURES)


def percent(values):
    return f"{100 * sum(values) / len(values):.0f} %"


def plain(text):
    return " ".join(text.replace("*", "").split())


@pytest.mark.parametrize(
    ("name", "measured", "told"),
    [
        ("relatives", "DoRA r = 8 98 % (", "DoRA reaches 98 %"),
        ("relatives", "LoRA r = 8 97 % (", "LoRA 97 %"),
        ("relatives", "adapter m = 8 96 % (", "a bottleneck adapter 96 %"),
        ("relatives", "prefix p = 16 90 % (", "a prefix 90 %"),
        ("relatives", "prompt p = 128 10 % (", "a prompt 10 %"),
        ("relatives", "prompt p = 128 8.80,", "at 8.80 times the work"),
        ("relatives", "BitFit 74 % (70 to 78) with 1,152", "BitFit, with 1,152 numbers, 74 %"),
        ("four_bits", "QLoRA nf4 88 % (", "learns the new skill to 88 %"),
        ("four_bits", "New skill, LoRA 87 % (", "LoRA to 87 %"),
        ("four_bits", "not here: nf4 1% to 7% of it", "at most 7 % arrives"),
        ("four_bits", "90% from a ΔW of 20% of W on", "from 20 % of W on nearly all does"),
        ("dirty_data", "Clean: 79 % (", "instead of 79 %"),
        ("dirty_data", "wrong answers 61 % (", "wrong answers 61 %"),
        ("dirty_data", "unmasked prompt 68 % (", "prompts unmasked 68 %"),
        ("dirty_data", "another template 0 % (", "than at test 0 %"),
        ("dirty_data", "no end token 9 % (", "without an end token 9 %"),
    ],
)
def test_what_the_readme_says_is_in_the_answer(name, measured, told):
    assert measured in experiment(name).answer(rows_of(name))
    assert told in plain(README)


def test_what_the_readme_says_of_low_rank():
    rows = where(rows_of("low_rank"), role="report")
    median = {
        what: round(statistics.median(m[what]["rank_90"] for m in matrices(rows)))
        for what in ("change", "weights", "random")
    }
    one = where(rows, kind="lora", rank=1)
    sentence = (
        f"90 % of the energy of ΔW lies in {median['change']} directions (median over matrices and "
        f"seeds; of W's own in {median['weights']}, of a random matrix's in {median['random']}). "
        f"Cut to 8 directions it keeps {percent(cut(rows, 'svd', 8))} of the new skill, cut to 1 "
        f"{percent(cut(rows, 'svd', 1))}; LoRA trained at rank 1 reaches "
        f"{percent([r['new'] for r in one])}"
    )
    assert sentence in plain(README)


def test_what_the_readme_says_of_forgetting():
    rows = where(rows_of("compare"), role="report")
    kept = {
        (method, replay): percent([old_at(r["curve"]) for r in of])
        for method in ("full", "lora")
        for replay in (0.0, 0.05)
        if (of := where(rows, method=method, replay=replay))
    }
    sentence = (
        f"full fine-tuning has kept {kept['full', 0.0]} of the old skills, LoRA with its adapter "
        f"on {kept['lora', 0.0]}; with 5 % of old data in every batch {kept['full', 0.05]} and "
        f"{kept['lora', 0.05]}"
    )
    assert sentence in plain(README)
    off = [r for r in rows if r["method"] == "lora"]
    assert all(r["off_is_base"] for r in off)
    assert f"in {len(off)} of {len(off)} runs" in plain(README)


def test_what_the_readme_says_of_old_data():
    rows = where(rows_of("forgetting"), role="report", method="full")

    def kept(task, share):
        of = where(rows, task=task, replay=share)
        chosen = [r for r in of if r["lr_by"] != "other"]
        return percent([old_at(r["curve"]) for r in chosen])

    easy = [kept(EASY, share) for share in (0.0, 0.01, 0.05, 0.1)]
    hard = [kept(HARD, share) for share in (0.0, 0.05, 0.1)]
    assert (
        f"full fine-tuning has kept {easy[0]} without, {easy[1]} with 1 %, {easy[2]} with 5 %, "
        f"{easy[3]} with 10 % of it. On a hard one little: {hard[0]} without, {hard[1]} with 5 %, "
        f"{hard[2]} with 10 %."
    ) in plain(README)


def test_what_the_readme_says_of_rank_and_learning_rate():
    rates = {arm: best_lr(of) for arm, of in tries(rows_of("learning_rate")).items()}
    full, one, eight, many = (rates[a] for a in (FULL, q_v(1), q_v(8), q_v(64)))
    assert (
        f"full {full:g}, LoRA {one:g} at r = 1, {eight:g} at r = 8, {many:g} at r = 64."
    ) in plain(README)
    few_examples = few(rows_of("rank_alpha"))[32]
    scores = [percent([r["new"] for r in few_examples[rank]]) for rank in (1, 64)]
    assert (
        f"with 32 examples r = 1 has {scores[0]} of the test right, r = 64 {scores[1]}."
    ) in plain(README)
