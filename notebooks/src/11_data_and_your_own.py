# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction worst}}

# %% [markdown]
# {{prediction template}}

# %% [markdown]
# ## What of a row is learnt
#
# $$\text{text} = \text{template}(\text{instruction}) + \text{answer} + \langle\text{end}\rangle$$
#
# `ids` are its tokens, `labels` the same with −100 on all that is given: the loss at place $t$ asks
# for `labels[t + 1]`, and −100 asks for nothing. The answer teaches what to say, the end when to
# stop; the template, without a loss, *where* all of this holds.
#
# Below, grey is given, orange and underlined is learnt. Then the same for five ways to spoil a row,
# learnt tokens in ⟦ ⟧. (A duplicate looks well: what is wrong is that it comes again.)

# %%
from IPython.display import HTML, display

from minilora.data import showing, skills
from minilora.data.instructions import example_of
from minilora.experiments.dirty_data.dirt import KINDS, examples, seen_by_cleaning, spoiled

tok, descending = skills.tokenizer(), skills.skill("sort-descending")
two = skills.rows(descending, "train", 2)
display(HTML(showing.html(example_of(two[0], tok), tok)))  # ids, labels: T each
for kind in KINDS.values():
    first = examples(two, kind.name, share=0.5)[0]  # one of the two rows is spoiled
    print(f"{kind.label:17}", showing.text(first, tok), "  ", kind.says)

# %% [markdown]
# {{exercise 11.1}}

# %% [markdown]
# ## Every target counts once
#
# The loss of a batch is $\frac{1}{n}\sum_i \ell_i$ over its $n$ targets. Taken in $m$ parts with
# $n_j$ targets each, that is $\sum_j \frac{n_j}{n}\,\bar\ell_j$, and **not** the mean of means
# $\frac{1}{m}\sum_j \bar\ell_j$, in which a target of a part with short answers weighs more. The same
# with a mean over rows of each row's mean: another question, with another answer. Eight parts, sorted
# by length, so that they are as unequal as they get:

# %%
import numpy as np

import minilora
from minilora.data.batches import collate

base = minilora.load_base("skills")
model = minilora.get_peft_model(base, minilora.LoraConfig(r=8, lora_alpha=16), seed=0)
batch = sorted(skills.examples(descending, "train", 64), key=lambda e: e.n_targets)
parts = [batch[i : i + 8] for i in range(0, 64, 8)]
targets = [sum(e.n_targets for e in part) for part in parts]  # n_j
losses = [model.loss(*collate(part)).item() for part in parts]  # nats a token
print(f"{sum(targets)} targets in {targets}: batch {model.loss(*collate(batch)).item():.4f}")
print(f"weighted by n_j/n {np.dot(losses, targets) / sum(targets):.4f}")
print(f"mean of means     {np.mean(losses):.4f}")


# %%
def gradient(weights):  # of Σ weight · loss over the parts, all of B one behind the other
    for part, w in zip(parts, weights, strict=True):
        (model.loss(*collate(part)) * w).backward()
    g = np.concatenate([p.grad.ravel() for p in model.parameters() if p.grad is not None])
    for p in model.parameters():
        p.grad = None
    return g


right = gradient([n / sum(targets) for n in targets])
means = gradient([1 / 8] * 8)
off = np.linalg.norm(means - right) / np.linalg.norm(right)
print(f"the gradient of the mean of means is {off:.1%} off, at every step on the same side")
assert off > 0.01

# %% [markdown]
# ## What dirt costs
#
# `minilora experiment dirty_data`: LoRA learns to sort from 512 rows, a share of them spoiled; the
# test is clean. With so few rows even clean ones do not teach it perfectly, and every row that is
# missing shows. One of those runs again, no end token in any row (about 15 seconds):

# %%
from minilora.experiments import dirty_data
from minilora.experiments.dirty_data import answering
from minilora.experiments.lab.stats import percent, where

rows = lesson.rows("dirty_data")
endless = where(rows, kind="end", share=1.0)  # one a seed
row, letters = endless[0], [r["letters"] for r in endless]
live = dirty_data.measure({**row, "steps": lesson.live(row["steps"])})
print(f"{live['letters']:.0%} have every letter right; {live['new']:.0%} also end there")
if len(live["losses"]) == len(row["losses"]):  # as many steps as in the row
    assert abs(dict(live["losses"])[10] / dict(row["losses"])[10] - 1) <= 0.01
    assert min(letters) - 0.05 <= live["letters"] <= max(letters) + 0.05

# %%
lesson.figure(dirty_data.draw, rows)
for part in (answering.order(rows, 0.1), answering.order(rows, 1.0), answering.falling(rows)):
    print(part)
print(answering.endings(rows))
print(answering.cosmetics(rows))

# %%
(first, harm), (_, next_harm) = answering.by_harm(rows, 0.1)[:2]  # the two worst, with their seeds
told = answering.stats.apart(harm, next_harm) != "no difference shown"
lesson.came_out("worst", first if told else "a tie")
elsewhere = answering.new(rows, "template", 1.0)
lesson.came_out("template", round(100 * sum(elsewhere) / len(elsewhere)))
print(f"(clean rows: {percent(answering.new(rows, 'clean', 0))})")

# %% [markdown]
# A *share* of dirt leaves clean rows to learn from. What all rows have in common is another matter,
# and it is just this that happens in practice: one script writes all rows, and its mistake is in
# each of them. Compare 50 % and 100 % in the figure: where a line breaks off only at the end, the
# clean half had been enough.

# %% [markdown]
# ## What cleaning sees
#
# A program sees what stands in the text: blank answers, the same question twice, a question of the
# test. It does not know right answers, nor in which form one will ask.

# %%
from minilora.data import cleaning

half = skills.rows(descending, "train", 512)
for kind in KINDS:
    texts, n = spoiled(half, kind, 0.1)
    print(f"{KINDS[kind].label:17} {n} rows spoiled, cleaning drops {seen_by_cleaning(texts)}")
texts, _ = spoiled(half, "duplicates", 0.1)
print(*cleaning.clean(texts, test=half[:3], near=None).report.lines(), sep="\n")

# %% [markdown]
# {{exercise 11.2}}

# %% [markdown]
# ## Your own: the form
#
# Fill in what you have; as it stands, a skill that nobody taught the base. Your file is JSON Lines,
# `{"prompt": …, "completion": …}`, or any form of `minilora data check`. For text take the base
# `smollm2`.

# %%
mine = {
    "file": None,  # such as "my.jsonl"; None: the skill below
    "skill": "swap-ends",
    "base": "skills",
    "card": 24,  # GiB
    "old": "together",  # old skills: "not needed", "apart", "together"
}

# %%
from minilora.data.reading import read_rows
from minilora.data.splitting import split

if mine["file"]:
    given = [r for _, r in read_rows(mine["file"])]
else:
    given = skills.rows(skills.skill(mine["skill"]), "train", 2000)
cleaned = cleaning.clean(given, near=None)
sides = split(cleaned.kept, share=0.1, near=None)  # no question on two sides
print(*cleaned.report.lines(), sep="\n")
print({side: len(each) for side, each in sides.items()})

# %% [markdown]
# ## The plan
#
# Bytes: does a step fit (lesson 01)? Method and rate: LoRA's rate is several times full's (07). Old
# skills: some old data, or the adapter off for old questions (08). Steps: how often each row is
# seen.

# %%
from minilora.accounting.budget import Plan, budget
from minilora.data.instructions import to_examples
from minilora.finetuning import defaults_for
from minilora.methods import Method

base, GiB = minilora.load_base(mine["base"]), 2**30
train_set = to_examples(sides["train"], base.tokenizer, base.config.max_positions)
longest, usual = max(len(e.ids) for e in train_set), defaults_for(base)
settings = {"accounting": "exact", "batch_size": usual.batch_size, "length": longest}
for m in ("full", "lora", "qlora"):
    need = budget(Plan(base.config, Method(m), **settings)).needed  # bytes
    print(f"{m:5} {need / GiB:8.3f} GiB, {'fits' if need <= mine['card'] * GiB else 'too much'}")

# %% [markdown]
# {{exercise 11.3}}

# %% [markdown]
# The plan for this lesson: LoRA, since with the adapter off the base is there again, at the rate
# that suits this base. If old and new questions come together, 5 % of the rows are old ones. (For a
# language model these would be some of its general text or instructions: yours to find.)

# %%
import json
import tempfile
from pathlib import Path

replay = 0.05 if mine["old"] == "together" and mine["base"] == "skills" else 0.0
each = round(replay / (1 - replay) * len(sides["train"]) / len(skills.OLD))  # rows an old skill
old_rows = [r for s in skills.OLD if each for r in skills.rows(s, "train", each)]
scratch = tempfile.TemporaryDirectory()  # goes when the notebook does; a folder of yours stays
folder = Path(scratch.name)
lines = [json.dumps(r, ensure_ascii=False) for r in sides["train"] + old_rows]
(folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
print(f"{len(lines)} rows, {len(old_rows)} of them old")

# %%
from minilora.finetuning import finetune

steps = lesson.live(120 if mine["base"] == "skills" else usual.steps)
config = minilora.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
history, tuned = finetune(
    mine["base"], folder / "data.jsonl", folder / "run", lora=config, steps=steps, progress=False
)
print(f"{steps} steps saw each row {steps * usual.batch_size / len(lines):.1f} times")
print(f"loss {history.losses[0]:.3f} at the first step, {history.losses[-1]:.3f} at the last")

# %% [markdown]
# ## Before and after
#
# On questions that were held back, and on what the base could do before: the base, the adapter on,
# the adapter off.

# %%
new_test = to_examples(sides["test"], base.tokenizer, base.config.max_positions)
old_test = [e for s in skills.OLD for e in skills.examples(s, "validation", 50)]


def look(name, model):
    new, nll = minilora.exact_match(model, new_test), minilora.mean_nll(model, new_test)
    old = minilora.exact_match(model, old_test) if mine["base"] == "skills" else float("nan")
    print(f"{name:4} new {new:6.1%}, {nll:6.3f} nats a token; old skills {old:6.1%}")


look("base", base)
look("on", tuned)
with tuned.disable_adapter():
    look("off", tuned)

# %% [markdown]
# ## Saved, and the same again
#
# `finetune` has written the adapter in PEFT's format, and beside it what the run was. Opened on a
# fresh base it has to compute the same, to the bit.

# %%
from minilora.autograd import no_grad

ids = collate(new_test[:16])[0]  # (16, T)
again = minilora.PeftModel.from_pretrained(minilora.load_base(mine["base"]), folder / "run")
with no_grad():
    assert np.array_equal(again(ids).data, tuned(ids).data)  # (16, T, V) each
for file in sorted((folder / "run").iterdir()):
    print(f"{file.stat().st_size:7,} B  {file.name}")
print("opened again: the same logits, bit for bit")

# %%
from minilora.files.safetensors import read_tensors

arrays = read_tensors(folder / "run" / "adapter_model.safetensors")
for name, array in list(arrays.items())[:2]:
    print(name, array.shape)  # A (r, in), B (out, r)
settings = json.loads((folder / "run" / "adapter_config.json").read_text())
print({k: settings[k] for k in ("peft_type", "r", "lora_alpha", "target_modules")})

# %% [markdown]
# {{exercise 11.4}}

# %% [markdown]
# ## A language model
#
# The same on SmolLM2-135M, which learns to write a café order as one line of JSON: 75 steps of 8, about
# two minutes on two cores. It wants `pip install 'minilora[llm]'` and `minilora fetch smollm2`.

# %%
RUN_LONG = False
if RUN_LONG:
    from minilora.data import orders

    lines = [json.dumps(r) for r in orders.orders("train", 600, 0)]
    (folder / "orders.jsonl").write_text("\n".join(lines))
    _, llm = finetune("smollm2", folder / "orders.jsonl", folder / "orders", lora=config)
    asked = to_examples(orders.orders("test", 40, 0), llm.tokenizer, llm.config.max_positions)
    print(f"{minilora.exact_match(llm, asked):.0%} of {len(asked)} orders right")
else:
    print("skipped; set RUN_LONG = True to run it")

# %% [markdown]
# ## Ten questions for your run
#
# 1. How many rows were dropped, for which reasons? 2. Is any question of the test among the rows?
# 3. What exactly has a label in your first row? 4. Does it end? 5. In which template will it be
# asked? 6. What filled the card, and how much of that is LoRA's? 7. Why this rate? 8. How often was
# each row seen? 9. What can it no longer do, and who needs that? 10. Which file would you send, and
# how would its receiver know that it is right?

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
