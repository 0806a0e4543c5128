# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction kept}}

# %% [markdown]
# {{prediction replay}}

# %% [markdown]
# ## One step of AdamW
#
# Full fine-tuning is pretraining gone on with, on other data: every weight gets a gradient and
# moves. For weights $W$ with gradient $g$, both (out, in), at step $t$:
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g \qquad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2$$
#
# $$\hat m = \frac{m}{1-\beta_1^t} \qquad \hat v = \frac{v}{1-\beta_2^t} \qquad
# W \leftarrow W - \text{lr}\,\Big(\frac{\hat m}{\sqrt{\hat v}+\varepsilon} + \lambda W\Big)$$
#
# $m$, $v$ begin at zero; divided by what they lack at first, they are weighted means of all $g$ and
# $g^2$ so far. At $t = 1$ these are $g$ and $g^2$ themselves, and the step is
# $\text{lr}\cdot\operatorname{sign}(g)$. The decay $\lambda W$ does not pass through $g$.

# %%
import numpy as np

import minilora
from minilora.autograd import Parameter

moved = []
for size in (1e-4, 1e-2, 1.0, 100.0):
    w = Parameter(np.zeros(1))  # (1,)
    minilora.AdamW([w], lr=0.01).step({w: np.array([size])})  # gradient (1,)
    moved.append(abs(w.data[0]))
    print(f"gradient {size:g}: the first step moves w by {moved[-1]:.6f}")
alike = "does not matter" if max(moved) < 1.01 * min(moved) else "matters"
print(f"the size of the gradient {alike}")

# %% [markdown]
# {{exercise 04.1}}

# %% [markdown]
# ## What it costs
#
# $m$ and $v$ are as large as $W$, and every weight has a gradient. In float32 that makes
# 4 + 4 + 8 bytes a weight, before a single activation is kept.

# %%
base = minilora.load_base("skills")
optimizer = minilora.AdamW(base.parameters())
P, P_8B = base.n_parameters(), 8_030_261_248  # our base; Llama-3-8B
for name, nbytes in (("weights", 4 * P), ("gradients", 4 * P), ("m, v", optimizer.state_bytes)):
    share = nbytes / (16 * P)
    print(f"{name:9} {nbytes / 1e6:5.2f} MB, {share:3.0%}; at 8B {share * 16 * P_8B / 1e9:5.1f} GB")
assert optimizer.state_bytes == 8 * P

# %% [markdown]
# ## Nothing holds on
#
# The loss of the new data is a function of the weights in which no old skill occurs. At the base
# the old loss is low, and so is its gradient: there is nothing that it would pull back. The new
# gradient decides alone.
#
# With old data in the batch, a share $\rho$ of its rows,
#
# $$L \approx (1-\rho)\,L_\text{new} + \rho\,L_\text{old}$$
#
# (≈, for the mean runs over tokens, and answers differ in length). The second gradient grows as
# soon as something is lost.

# %%
from minilora.data.batches import Batches
from minilora.experiments.lab.tuning import task_of
from minilora.optim import global_norm
from minilora.training import loss_and_gradients

task, norm = task_of("swap-ends", 0), {}  # the new skill: swap the first and the last letter
for name, examples in (("new skill", task.train), ("old skills", task.replay)):
    ids, labels = Batches(examples, 64, seed=0)[0]  # (64, T) each
    loss, gradients = loss_and_gradients(base, ids, labels)  # weight → array of its shape
    norm[name] = global_norm(gradients.values())
    print(f"{name:10} loss {loss:.4f}, norm of the gradient {norm[name]:.3f}")
print(f"the new one pulls {norm['new skill'] / norm['old skills']:,.0f} times as hard")

# %% [markdown]
# {{exercise 04.2}}

# %% [markdown]
# ## Rows, and one of them again
#
# `minilora experiment forgetting` has tuned the base with four shares of old data and five seeds
# each, and with each share at the learning rate that suits it, chosen on validation data with
# seeds that are not reported. A seed sets the order of the data; the base is one and the same
# checkpoint, so the spread says nothing of other bases.
#
# Seed 0 is run again here, with $\rho = 0$ and $\rho = 5\,\%$: about 25 seconds.

# %%
from minilora.experiments.forgetting.arms import EASY, HARD, arms
from minilora.lessons.l04_figure import draw_planes, full_arms

rows = lesson.rows("forgetting")
easy = {a.replay: a for a in full_arms(rows, EASY)}  # share of old data → its runs
for rho, arm in easy.items():
    r = arm.rows[0]
    settings = f"lr {r['lr']:g}, {r['steps']} steps of {r['batch_size']} rows"
    print(f"ρ = {rho:.0%}: {settings}, {len(arm.rows)} seeds")
old, mixed = set(map(id, task.replay)), Batches(task.train, 64, old=task.replay, replay=0.05)
print("old rows of 5 %:", *(sum(id(row) in old for row in mixed.rows(i)) for i in range(12)), "…")

# %%
from dataclasses import replace

from minilora.experiments.lab.tuning import Setup, tune

live, models = {}, {}
for rho in (0.0, 0.05):
    setup = Setup.of(easy[rho].rows[0])  # seed 0
    live[rho], models[rho] = tune(replace(setup, steps=lesson.live(setup.steps)))
    ends = f"new skill {live[rho]['new']:.0%}, old skills {live[rho]['old']:.0%}"
    print(f"ρ = {rho:.0%}, test at the end: {ends}")

# %%
for rho, run in live.items():
    row, seeds = easy[rho].rows[0], [r["new"] for r in easy[rho].rows]
    if len(run["losses"]) < len(row["losses"]):
        print("fewer steps than the row has: not compared")
        continue
    off = dict(run["losses"])[10] / dict(row["losses"])[10] - 1
    print(f"ρ = {rho:.0%}: at step 10 the loss is {off:+.3%} off the committed row")
    assert abs(off) <= 0.01
    assert min(seeds) - 0.05 <= run["new"] <= max(seeds) + 0.05

# %% [markdown]
# The old skills one by one, at the end of these two runs, the worst first. What is left without old
# data: skills that resemble the new one, or skills that do not?

# %%
kept = {rho: run["old_by_skill"] for rho, run in live.items()}  # ρ → skill → share, 500 strings
print(f"{'':13} ρ = 0 %  ρ = 5 %")
for name in sorted(task.old, key=kept[0.0].get):
    print(f"{name:13} {kept[0.0][name]:7.0%}  {kept[0.05][name]:7.0%}")

# %% [markdown]
# ## Erased, or covered?
#
# Take the run without old data and give it ten steps of nothing but old data. As a control, the
# same ten steps from random weights: what could be learnt anew in so short a time.


# %%
def ten_steps(model):  # old skills before and after, shares in [0, 1]
    old, optimizer = Batches(task.replay, 64, seed=1), minilora.AdamW(model.parameters(), lr=3e-4)
    before = task.glance(model)
    for i in range(lesson.live(10)):
        minilora.train_step(model, optimizer, *old[i], max_grad_norm=1.0)
    return before["old"], task.glance(model)["old"]


# %%
before, after = ten_steps(models[0.0])
control = ten_steps(minilora.Transformer(base.config, seed=0))[1]
print(f"old skills {before:.0%} → {after:.0%}; from random weights {control:.0%}")
back = (after - before) / max(1 - before, 1e-9)  # share of what was lost
print(
    f"{back:.0%} of what was lost is back:",
    "covered" if back > 0.5 else "erased",
    "for the most part",
)

# %% [markdown]
# ## Where to compare
#
# At the last step two runs have learnt differently much, and a run that learns nothing forgets
# nothing. So we ask at *equal ability*: what is left of the old skills where the new one first
# reaches 90 %, on a straight line between two looks? A run that never gets there has no number,
# and is said to have none.

# %% [markdown]
# {{exercise 04.3}}

# %% [markdown]
# ## Learned against forgotten
#
# Each path begins at the base, top left, and goes right as the new skill is learnt. Thin lines are
# seeds, a dot is a look at the validation strings, the rule stands at 90 %. Right: the same with a
# skill that is harder to learn, a fixed table of letters by heart.

# %%
lesson.figure(draw_planes, rows)

# %%
from minilora.experiments.lab.stats import percent, spread

for rho, arm in easy.items():
    goes_on = f"reached at step {arm.step:.0f}; at the end {percent(arm.at_end)}"
    print(f"ρ = {rho:.0%}: old skills {arm.kept} where the new one is at 90 %, {goes_on}")
left = {rho: spread(arm.left)[0] for rho, arm in easy.items()}  # means over seeds
assert list(left.values()) == sorted(left.values()), "more old data keeps more"
assert left[0.0] <= 0.40 and left[0.1] >= left[0.0] + 0.30
lesson.came_out("kept", round(100 * left[0.0]))

# %%
lesson.came_out("replay", round(100 * left[0.05]))
hard = {a.replay: a for a in full_arms(rows, HARD)}
for rho, arm in hard.items():
    print(f"the hard skill, ρ = {rho:.0%}: {arm.kept}")

# %% [markdown]
# ## The claim, and the learning rate
#
# "Helps" is said where old data gives back at least half of what is lost without it, and the seeds
# of both lie apart.
#
# Then the rate, without old data: how far does that one knob move what is left?

# %%
from minilora.experiments.forgetting.answering import helps

print(helps([*easy.values(), *hard.values()]))
rates = arms(rows, task=EASY, method="full", replay=0.0)
for arm in rates:
    print(f"lr {arm.lr:g}, ρ = 0 %: old skills {arm.kept} at 90 % of the new one")
means = [100 * spread(arm.left)[0] for arm in rates if arm.left]
far = max(means) - min(means)
little = "would say little" if far > 5 else "would be off by no more than that"
print(f"from the worst rate to the best {far:.0f} points: a comparison at one rate {little}")

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
