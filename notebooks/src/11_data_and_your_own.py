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
# `ids` are the tokens of this text, `labels` the same numbers, with −100 on all that is given. The
# loss at place $t$ asks for `labels[t + 1]`, so that a label of −100 asks for nothing. Each piece
# teaches something: the answer what to say, the end when to stop, and the template, on which there
# is no loss, *where* all of this holds.

# %%
from IPython.display import HTML, display

from minilora.data import showing, skills
from minilora.data.instructions import example_of

tok, descending = skills.tokenizer(), skills.skill("sort-descending")
row = skills.rows(descending, "train", 1)[0]
example = example_of(row, tok)  # ids, labels: T each
print(row)
display(HTML(showing.html(example, tok)))

# %% [markdown]
# Grey is given, orange and underlined is learnt. Five ways to spoil that row; look at what is asked
# for after each of them. (A duplicate looks well: what is wrong is that it comes again.)

# %%
from minilora.experiments.dirty_data.dirt import KINDS, examples, seen_by_cleaning, spoiled

two = skills.rows(descending, "train", 2)
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
print("targets", targets, " sum", sum(targets))
print(f"batch             {model.loss(*collate(batch)).item():.4f}")
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
committed = where(rows, kind="end", share=1.0)  # one a seed
row = committed[0]
live = dirty_data.measure({**row, "steps": lesson.live(row["steps"])})
print(f"{live['letters']:.0%} have every letter right; {live['new']:.0%} also end there")

# %%
if len(live["losses"]) == len(row["losses"]):
    off = dict(live["losses"])[10] / dict(row["losses"])[10] - 1
    print(f"at step 10 the loss is {off:+.3%} off the committed row")
    seeds = [r["letters"] for r in committed]
    assert abs(off) <= 0.01 and min(seeds) - 0.05 <= live["letters"] <= max(seeds) + 0.05

# %%
lesson.figure(dirty_data.draw, rows)

# %%
for part in (answering.order(rows, 0.1), answering.order(rows, 1.0), answering.falling(rows)):
    print(part)
print(answering.endings(rows))
print(answering.cosmetics(rows))

# %%
(first, harm), (_, next_harm) = answering.by_harm(rows, 0.1)[:2]  # the two worst, with their seeds
told = answering.stats.apart(harm, next_harm) != "no difference shown"
lesson.came_out("worst", KINDS[first].label if told else "not told apart")
elsewhere = answering.new(rows, "template", 1.0)
lesson.came_out("template", round(100 * sum(elsewhere) / len(elsewhere)))
print(f"(clean rows: {percent(answering.new(rows, 'clean', 0))})")

# %% [markdown]
# Up to a half, rows in another template do what missing rows would do, and not more; and the end
# token is learnt from whoever has one. A *share* of dirt leaves clean rows to learn from. What all
# rows have in common is another matter, and it is just this that happens in practice: one script
# writes all rows, and its mistake is in each of them.

# %% [markdown]
# ## What cleaning sees
#
# A program sees what stands in the text: blank answers, the same question twice, a question of the
# test. It does not know right answers, nor in which form one will ask.

# %%
from minilora.data.cleaning import clean

half = skills.rows(descending, "train", 512)
for kind in KINDS:
    texts, n = spoiled(half, kind, 0.1)
    print(f"{KINDS[kind].label:17} {n} rows spoiled, cleaning drops {seen_by_cleaning(texts)}")
texts, _ = spoiled(half, "duplicates", 0.1)
print(*clean(texts, test=half[:3], near=None).report.lines(), sep="\n")

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
cleaned = clean(given, near=None)
sides = split(cleaned.kept, share=0.1, near=None)  # no question on two sides
print(*cleaned.report.lines(), sep="\n")
print({side: len(each) for side, each in sides.items()})

# %% [markdown]
# ## The plan
#
# Bytes: does a step fit (lesson 01)? Method and rate: LoRA's rate is several times full's (07). Old
# skills: some old data, or the adapter off (08). Steps: how often each row is seen.

# %%
from minilora.data.instructions import to_examples
from minilora.experiments.lab.tuning import SCALINGS  # noqa: F401
from minilora.finetuning import defaults_for
from minilora.methods import Method

base = minilora.load_base(mine["base"])
context = base.config.max_positions
shown = to_examples(sides["train"], base.tokenizer, context)
longest = max(len(e.ids) for e in shown)
usual = defaults_for(base)

# %% [markdown]
# {{exercise 11.3}}

# %% [markdown]
# {{exercise 11.4}}

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
