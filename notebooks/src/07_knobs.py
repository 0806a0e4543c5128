# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction lr}}

# %% [markdown]
# {{prediction rank}}

# %% [markdown]
# {{prediction swap}}

# %% [markdown]
# ## One step from B = 0
#
# With $x$ (T, in), $A$ (r, in), $B$ (out, r), $u = xA^\top$ (T, r), $g = dL/dh$ (T, out):
#
# $$h = xW^\top + s\,uB^\top \qquad G = dL/dB = s\,g^\top u \quad (\text{out}, r)$$
#
# $B$ makes one step with learning rate $\eta$, and $h$ moves by $\Delta h = s\,uB^\top$. What counts is its part against $g$, the
# *useful change* $-\langle \Delta h, g \rangle / \lVert g \rVert$. With $M = g^\top u$ (out, r) it is
#
# $$\text{SGD, } B = -\eta\,G: \ \frac{\eta\,s^2 \sum M^2}{\lVert g \rVert} \qquad
# \text{Adam, } B = -\eta\,\text{sign}\,G: \ \frac{\eta\,s \sum |M|}{\lVert g \rVert}$$
#
# $M$ has out·r entries of about one size: the change goes with $s^2 r$ under SGD, and with $s\,r$ under Adam, whose first step
# forgets how large $G$ is.

# %% [markdown]
# ## Which scaling keeps it level?
#
# Under SGD $s^2 r$ stays if $s \propto 1/\sqrt r$; under Adam $s\,r$ stays if $s \propto 1/r$. Measured with Gaussian $x$ and $g$, and
# $A$ as a fresh adapter has it; relative to r = 1.

# %%
import numpy as np

from minilora.experiments.rank_alpha.first_step import DRAWS, TOKENS, N, first_steps

print(f"matrix {N} × {N}, {TOKENS} tokens, mean of {DRAWS} draws")
found = first_steps([1, 4, 16, 64])  # optimizer and scaling → useful change by rank
print("useful change    ", *(f"r = {r:<4}" for r in (1, 4, 16, 64)))
for name, values in found.items():
    level = np.allclose(values, 1, atol=0.2)  # no further off than a fifth
    print(f"{name:16} ", *(f"{v:<8.2g}" for v in values), "level" if level else "")
assert np.allclose(found["adam, α/√r"], [1, 1.9, 3.9, 7.7], rtol=0.1)
assert np.allclose(found["sgd, α/r"], [1, 0.23, 0.06, 0.015], rtol=0.1)

# %% [markdown]
# {{exercise 07.1}}

# %% [markdown]
# So "α/r normalizes" is a statement about Adam's start, and α/√r (rsLoRA, arXiv 2312.03732), argued from the size of gradients,
# about SGD's. Neither says what a whole training wants: from the second step on $A$ moves too.
#
# ## α and the learning rate
#
# Divide $s$ by $c$, and let $B$ be $c$ times as large: $(s/c)(cB)A = sBA$, the same function. $B$'s gradient is then $c$ times
# smaller, which Adam does not notice; so $B$ needs $c$ times its learning rate. $A$'s gradient $s\,(gB)^\top x$ is what it was.
# Under Adam
#
# $$(s,\ \eta_B) \equiv (s/c,\ c\,\eta_B) \qquad \text{with } \eta_A \text{ kept}$$
#
# exactly, if ε is nothing beside the gradients and no weights decay.

# %% [markdown]
# {{exercise 07.2}}

# %% [markdown]
# Usually $A$ and $B$ share one learning rate. Then $A$ is sped up as well, and that is another training; whether it ends as well
# is asked of the rows below. Forty steps on a small matrix, in float64, α from 24 to 8:

# %%
from minilora.lessons.l07_exercises import forty_steps

before, lr = forty_steps(24, 0.02, 0.02), 0.02  # α, learning rates of A and B → s·B·A (out, in)
for what, after in {
    "α 8, B's rate × 3": forty_steps(8, lr, 3 * lr),
    "α 8, both rates × 3": forty_steps(8, 3 * lr, 3 * lr),
    "α 8, both rates kept": forty_steps(8, lr, lr),
}.items():
    off = np.linalg.norm(after - before) / np.linalg.norm(before)
    print(f"{what:20} s·B·A is off by {off:.1e} of its length")
    assert off <= 1e-10 or "B's" not in what

# %% [markdown]
# ## r is a number of directions
#
# A case in which the needed rank is known. A frozen $W$ (64, 64) is to become $W + \Delta W^*$ with $\Delta W^*$ of rank 8, and the
# loss is the mean square of what is missing. By Eckart and Young, as in lesson 05, rank $r$ cannot get below
#
# $$\sum_{i>r} \sigma_i^2$$
#
# of $\Delta W^*$ as the inputs see it, $\Delta W^* X^\top / \sqrt n$. Does training $A$ and $B$ get there? Shares of the base's loss:

# %%
from minilora.experiments.low_rank.planted import planted
from minilora.lessons.l07_figure import draw_planted

ranks, steps = list(range(1, 17)), lesson.live(600)
problem = {"size": 64, "true_rank": 8, "ranks": ranks, "steps": steps, "lr": 1e-2, "seed": 0}
solved = planted(problem)
losses, floors = (np.array(solved[k]) for k in ("losses", "floors"))  # by rank, (16,) each
print(f"furthest from the least possible, at any r: {np.abs(losses - floors).max():.1e}")
if steps == 600:
    assert np.abs(losses - floors).max() <= 1e-6 < losses[6] and losses[7:].max() <= 1e-6
by_r = [["r", "loss", "least"], *zip(ranks, losses, floors, strict=True)]
lesson.figure(draw_planted, ranks, losses, floors, 8, table=by_r)

# %% [markdown]
# Below 8 a part is out of reach, and no training brings it back; at 8 the loss falls off a cliff; above 8 nothing is gained, and
# here nothing is lost. A real task does not tell its rank.
#
# ## The whole training, measured
#
# `minilora experiment rank_alpha` tuned the base to sort letters in descending order: each r at five learning rates under both
# scalings, with several seeds. One point is run again here, in about 15 seconds: r = 4 at its best rate.

# %%
from minilora.experiments.lab.learning_rates import as_good, best_lr
from minilora.experiments.lab.stats import percent, where
from minilora.experiments.lab.tuning import Setup, task_of, tune
from minilora.experiments.rank_alpha.rows import by_rank, easy, scaled

rows = lesson.rows("rank_alpha")
grid = by_rank(scaled(rows, "r"))  # r → its rows under α/r
of_four = where(grid[4], lr=best_lr(grid[4]))  # one a seed
row = where(of_four, seed=0)[0]
setup = Setup.of({**row, "steps": lesson.live(row["steps"])})
live, model = tune(setup)
print(f"r = 4, lr {setup.lr:g}: new strings right {live['new']:.1%}, old {live['old']:.1%}")

# %%
if setup.steps == row["steps"]:
    off = dict(live["losses"])[10] / dict(row["losses"])[10] - 1
    print(f"at step 10 the loss is {off:+.3%} off the committed row")
    seeds = [r["new"] for r in of_four]
    assert abs(off) <= 0.01 and min(seeds) - 0.05 <= live["new"] <= max(seeds) + 0.05
else:
    print("fewer steps than the row has: not compared")

# %% [markdown]
# ## Does the best rate keep its column?
#
# Rows are ranks, columns learning rates; in a cell the mean over seeds, below it the range. The best rate of each rank,
# chosen on validation data, is ringed. If a scaling takes the rank out, its rings stand in one column.
#
# Verdicts are chosen by the rows. *Confirmed*: the same for each seed by itself, or all runs of one side beyond all of the
# other, and enough of them. *Suggests*: it points there, but seeds are too few or the ladder too coarse. *Not here*: neither.

# %%
from textwrap import fill

from minilora.experiments.rank_alpha import answering
from minilora.lessons.l07_figure import draw_rates, table

lesson.figure(draw_rates, rows, table=table(rows))
print(fill(answering.same_lr(rows), 98))
good = {r: set(as_good(grid[r])) for r in (4, 64)}  # rates that cannot be told from the best
ratio = best_lr(grid[64]) / best_lr(grid[4])
print(f"The best rate of r = 64 is {ratio:.2g} times that of r = 4.")
lesson.came_out("lr", "same" if good[4] & good[64] else "higher" if ratio > 1 else "lower")

# %%
at_best = {r: [row["new"] for row in each] for r, each in easy(rows).items()}  # at own best rate
for r, values in at_best.items():
    print(f"r = {r:2}: {percent(values)} of new strings right")
enough = [r for r, values in at_best.items() if np.mean(values) >= 0.9]
lesson.came_out("rank", min(enough) if enough else "none of those tried")

# %% [markdown]
# ## What it holds, and whether it overfits
#
# Left: random facts by heart, in bits. There is no rule in them, so what is learnt must be stored. Right: few examples of the
# skill; accuracy on those minus accuracy on new ones. A high rank *overfits* if that gap is wider and the test no better.

# %%
from minilora.lessons.l07_figure import draw_room

lesson.figure(draw_room, rows)
print(fill(answering.capacity(rows), 98), end="\n\n")
print(fill(answering.overfitting(rows), 98))

# %% [markdown]
# ## Must α be r, or 2r? And the rate ten times full's?
#
# If α and the learning rate are nearly one knob, another α does as well at another rate. At r = 8, α and the rate were changed
# together and apart.
#
# For the second saying, full fine-tuning and each rank (α = 2r) had a ladder of rates of their own, which goes on where the best
# lies at its end. In brackets: how far the ratio may be off, as a best rate is known to a rung of $\sqrt{10}$ only.

# %%
from minilora.experiments.learning_rate import answering as rates

of_rates = lesson.rows("learning_rate")
sayings = (answering.alpha_needed(rows), answering.one_knob(rows))
for said in (*sayings, rates.ten_times(of_rates), rates.any_rank(of_rates)):
    print(fill(said, 98), end="\n\n")

# %% [markdown]
# ## Turn the knobs
#
# Choose r, α and a learning rate: what was measured there, step by step. A setting that was not measured gives way to the
# nearest in α·lr, and says so. Where this page is only read, the map of r × α stands here, and one curve.

# %%
from minilora.lessons.l07_figure import draw_knobs, knobs


def show(r=8, alpha=16, lr=5e-3):
    lesson.figure(draw_knobs, rows, r, alpha, lr)


whole = {"r": None, "alpha": None, "lr": None}  # no setting: the map
lesson.explore(show, [whole, {"r": 8, "alpha": 16, "lr": 5e-3}], **knobs(rows))

# %% [markdown]
# ## Which matrices?
#
# One budget, the parameters of q and v at r = 8, spent in other places: few matrices at a high rank, or many at a low one. A
# rank is whole, so one set stands there twice, below and above the budget. Each has its own best rate. `cipher` is a fixed
# random exchange of letters, to be learnt by heart. The LoRA paper's numbers (arXiv 2106.09685, table 5: GPT-3, WikiSQL) are of
# another model and task: only their order can be compared. With three seeds against three, *suggested* is the most that
# can be said; *in part*: against some of the others.

# %%
from minilora.lessons.l07_figure import by_targets, claims

spent = lesson.rows("targets")
for line in by_targets(spent):
    print("{:12} {:>7}  {:20} {:20} {}".format(*line))
for task, claim, verdict in claims(spent):
    print(f"{task}: {claim}: {verdict}")

# %% [markdown]
# ## A pair for each matrix
#
# Every adapted matrix learnt a pair of its own. Would one pair do in the place of another? Write the swap; then, below, it is done
# to the adapter that was trained above (r = 4, q and v of four blocks).

# %% [markdown]
# {{exercise 07.3}}

# %%
from minilora import exact_match
from minilora.lessons.l07_exercises import swapped

test, after = task_of(setup.task, setup.seed).test[:200], {}
trained = {name: array.copy() for name, array in model.adapter_weights().items()}
print(f"as trained: {exact_match(model, test):.1%} of {len(test)} new strings")
for i, j in ((0, 1), (1, 2), (2, 3), (0, 3)):
    for name, array in swapped(trained, i, j).items():
        model.adapter_weights()[name][:] = array  # into the model's own, (r, in) or (out, r)
    after[i, j] = exact_match(model, test)
    print(f"pairs of blocks {i} and {j} swapped: {after[i, j]:.1%}")
assert setup.steps < row["steps"] or max(after.values()) < live["new"] / 2
lesson.came_out("swap", round(100 * after[0, 3]))

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
