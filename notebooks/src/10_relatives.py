# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction best}}

# %% [markdown]
# {{prediction step}}

# %% [markdown]
# ## Four places for a few new numbers
#
# The base is frozen in all of them. With $x$ (B, T, C), $L$ layers, and keys of all heads together
# $d_{kv}$ wide:
#
# | method | what it computes | what it trains |
# |---|---|---|
# | prompt | $x \leftarrow [P;\, x]$, once, below the first layer | $p\,C$ |
# | prefix | $k \leftarrow [K_p;\, k]$, $v \leftarrow [V_p;\, v]$ in each layer | $2L\,p\,d_{kv}$ |
# | adapter | $y = x + W_2\,\sigma(W_1 x + b_1) + b_2$, twice a layer | $2L\,(2Cm + m + C)$ |
# | LoRA | $h = W x + s\,B A x$, beside a matrix | $r\,(\text{in} + \text{out})$ for each |

# %%
import numpy as np

import minilora
from minilora.lessons.l10_figure import draw_budget, draw_places

base = minilora.load_base("skills")
c = base.config
L, C, d_kv = c.n_layers, c.hidden_size, c.K * c.D
lesson.figure(draw_places, c)

# %% [markdown]
# {{exercise 10.1}}

# %% [markdown]
# (Elsewhere "adapter" is the word for all of them; in this lesson it is the bottleneck.) Now the
# formulas against the library's own models, at sizes that all come to about the same
# number. The adapter's $b_2$ alone has $2LC$ entries, so that its $m$ never meets the others exactly.

# %%
from minilora.experiments.lab.tuning import Setup, model_for
from minilora.experiments.relatives.arms import Arm

formulas = {
    "lora": lambda r: L * r * ((C + C) + (C + d_kv)),  # on q, and on v
    "prompt": lambda p: p * C,
    "prefix": lambda p: 2 * L * p * d_kv,
    "adapter": lambda m: 2 * L * (2 * C * m + m + C),
}
sizes = {"lora": 8, "prompt": 128, "prefix": 16, "adapter": 8}  # r, p, p, m

# %%
# A method at a size, as a setup of the laboratory says it.
setups = {method: Setup(**Arm(method, n).chosen) for method, n in sizes.items()}
for method, n in sizes.items():
    trained = model_for(setups[method]).n_parameters(trainable=True)
    print(f"{method:8} {n:4}: {trained:6,} by the model, {formulas[method](n):6,} by the formula")
    assert trained == formulas[method](n)

# %% [markdown]
# "Under 1 % of the parameters", it is often said. The base's matrices grow with $C^2$, all of these
# with $C$. So the share depends on the model as much as on the method: the same size, 128, in both.

# %%
from minilora.accounting.counts import arrays
from minilora.accounting.presets import preset
from minilora.methods import Method

models = {"Llama-3-8B": preset("llama-3-8b"), "skills": c}
for name in sizes:
    method = Method(name, minilora.LoraConfig(r=128), tokens=128, bottleneck=128)
    said = []
    for model, config in models.items():
        trained = sum(a.size for a in arrays(config, method) if a.trained)
        said.append(f"{trained / sum(a.size for a in arrays(config, method)):8.3%} of {model}")
    print(f"{name:8}", ", ".join(said))

# %% [markdown]
# ## Prompt: a longer text
#
# $[P; x]$ is (B, p + T, C). From there on all layers work on $p + T$ places; scores of attention are
# $(p + T)^2$. At the $p$ places nothing is asked (their labels would be −100), but keys and values
# are made of them in every layer, and the gradient has to travel down through all of it, to the
# bottom, where $P$ is. What a step multiplies is known from the config:

# %%
from minilora.data.batches import Batches
from minilora.experiments.lab.tuning import task_of

task = task_of("sort-descending", 0)
ids, labels = Batches(task.train, 64, seed=0)[0][:2]  # (64, T) each
work = {"full": minilora.predict(c, labels=labels).flops.total}
for method, setup in setups.items():
    (config,) = model_for(setup).peft_config.values()
    work[method] = minilora.predict(c, peft=config, labels=labels).flops.total
for method, total in work.items():
    print(f"{method:8} {total / 1e9:6.2f} · 10⁹ a step, {total / work['lora']:5.2f} times LoRA's")
longer = (sizes["prompt"] + ids.shape[1]) / ids.shape[1]
print(f"a row has {ids.shape[1]} places, with the prompt before it {longer:.1f} times as many")

# %% [markdown]
# ## Adapter: a network in the way
#
# $W_2 = 0$ and $b_2 = 0$ at the start: then $y = x$, and the model is the base, bit for bit. After
# that, $\sigma$ stands between the two matrices. LoRA's $BAx$ is a matrix times $x$ and can be added
# to $W$; $W_2\,\sigma(W_1 x)$ is none, so that it is computed at every use, in a row with what is
# before it.

# %% [markdown]
# {{exercise 10.2}}

# %% [markdown]
# `minilora experiment relatives` has measured all of them at up to four budgets, each at its own
# learning rate, on several seeds. One of those runs, again (about 15 seconds):

# %%
from dataclasses import replace

from minilora.experiments.lab.tuning import tune
from minilora.experiments.relatives.arms import measured

rows = lesson.rows("relatives")
arms = {a.name: a for a in measured(rows)}
row, seeds = arms["adapter m = 8"].reports[0], arms["adapter m = 8"].new
setup = Setup.of(row)  # seed 0
live, adapter = tune(replace(setup, steps=lesson.live(setup.steps)))
print(
    f"lr {setup.lr:g}, {live['curve'][-1]['step']} steps: new skill {live['new']:.0%} on the test"
)

# %%
if len(live["losses"]) == len(row["losses"]):
    off = dict(live["losses"])[10] / dict(row["losses"])[10] - 1
    print(f"at step 10 the loss is {off:+.3%} off the committed row")
    assert abs(off) <= 0.01 and min(seeds) - 0.05 <= live["new"] <= max(seeds) + 0.05

# %% [markdown]
# ## Prefix: something more to look at
#
# Only keys and values are added, so that there are no new queries, and no new outputs: of scores
# there are $T \cdot (p + T)$. The prefix comes before the text, so that the causal mask hides none
# of it. But softmax shares out 1: whatever weight goes to the prefix is taken from the text, even
# where $V_p = 0$. So a prefix cannot begin at the base; its keys would have to be infinitely
# unattractive.

# %% [markdown]
# {{exercise 10.3}}

# %%
from minilora.training import train

row = arms["prefix p = 16"].reports[0]
setup = Setup.of(row)
prefix = model_for(setup)
batches = Batches(task.train, setup.batch_size, seed=setup.seed)
schedule = minilora.Schedule("cosine", setup.steps, warmup=setup.steps // 20)
optimizer = minilora.AdamW(prefix.parameters(), lr=setup.lr)
history = train(prefix, optimizer, batches, steps=lesson.live(60), schedule=schedule, progress=None)

# %%
for step in (1, 10, 60):
    if step <= len(history.losses):
        now, then = history.losses[step - 1], dict(row["losses"])[step]
        print(f"step {step:2}: loss {now:.3f}, in the row {then:.3f}")
        assert step > 10 or abs(now / then - 1) <= 0.01

# %% [markdown]
# ## What a count does not say
#
# Three questions, put to the models themselves. Does the fresh method give the base's logits? Can it
# be merged? How much room does it take from the text?

# %%
from minilora.autograd import no_grad

with no_grad():
    of_base = base(ids).data  # (64, T, V)
    for method, setup in setups.items():
        off = np.abs(model_for(setup)(ids).data - of_base).max()
        words = "every bit is the base's" if off == 0 else f"a logit is off by up to {off:.0f}"
        print(f"{method:8} before the first step: {words}")
        assert (off == 0) == (method in ("lora", "adapter"))

# %%
from minilora.errors import AdapterError

for tuned in (adapter, prefix):
    try:
        tuned.merge_adapter()
    except AdapterError as error:
        print(error)

# %% [markdown]
# The same for all that was measured, from the rows. Three more relatives are among them: IA³ makes
# channels louder or softer, BitFit trains what stands beside the matrices (here the norms), DoRA is
# LoRA with the length of each row apart.

# %%
from minilora.experiments.relatives import answering

everything = list(arms.values())
for part in (answering.starts, answering.merges, answering.room):
    print(part(everything))

# %% [markdown]
# ## What a budget buys
#
# Each marker is a method at one size, at its own best learning rate; the bar is the range over
# seeds. Go along a vertical line, at one budget; then look who comes near the line of full
# fine-tuning, and with how many numbers.

# %%
from minilora.experiments.relatives.arms import BUDGETS

lesson.figure(draw_budget, rows)
for budget in BUDGETS:
    print(answering.ranking(everything, budget))
print(answering.reached(everything))

# %%
four = [a for a in answering.at(everything, BUDGETS[2]) if a.method in sizes]  # best mean first
best = answering.tied(four)
names = {"lora": "LoRA"}
name = "a tie" if len(best) > 1 else names.get(best[0].method, best[0].method)
lesson.came_out("best", name)
lesson.came_out("step", round(work["prompt"] / work["lora"], 1))
print(answering.costs(everything))

# %% [markdown]
# ## Choosing
#
# Accuracy is one of four questions. What is left at the middle budget, best first, if one of the
# others must be answered with yes:

# %%
needs = {
    "no slower in use (merges)": lambda b: b["merge_gap"] is not None,
    "all of the context is the text's": lambda b: b["text_places"] == c.max_positions,
    "begins exactly at the base": lambda b: b["start_gap"] == 0,
    "a step with less work than full's": lambda b: b["flops"]["total"] < work["full"],
}
middle = answering.at(everything, BUDGETS[2])
for need, met in needs.items():
    print(f"{need:34}", ", ".join(a.name for a in middle if met(a.books)) or "none")

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
