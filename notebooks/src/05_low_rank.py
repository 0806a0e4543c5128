# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction rank}}

# %% [markdown]
# {{prediction directions}}

# %% [markdown]
# {{prediction trained}}

# %% [markdown]
# ## A matrix is a sum of directions
#
# Any $M$ (out, in) can be written as
#
# $$M = U \Sigma V^\top = \sum_i \sigma_i\, u_i v_i^\top \qquad \sigma_1 \ge \sigma_2 \ge \dots \ge 0$$
#
# Read a term from the right: $v_i$ (in,) is what it looks for in its input, $\sigma_i$ how strongly it answers, $u_i$ (out,)
# what it writes. The $v_i$ are at right angles and of length one, and so are the $u_i$. Hence the sum of the squares of all
# entries, the *energy*, is $\sum_i \sigma_i^2$, and stopping after $k$ terms misses
#
# $$\lVert M - M_k \rVert_F^2 = \sum_{i>k} \sigma_i^2$$
#
# No matrix of rank $k$ is nearer to $M$ (Eckart and Young, 1936).

# %%
import numpy as np

from minilora import spectra

rng = np.random.default_rng(0)
M = rng.normal(size=(8, 12))  # (out, in)
s = spectra.singular_values(M)  # (8,), falling
for k in (0, 2, 4, 8):
    missed = ((M - spectra.truncate(M, k)) ** 2).sum()
    print(f"k = {k}: missed {missed:7.4f}, sum of the left-out σ² {(s[k:] ** 2).sum():7.4f}")
    assert abs(missed - (s[k:] ** 2).sum()) <= 1e-10

# %% [markdown]
# {{exercise 05.1}}

# %% [markdown]
# ## What full fine-tuning has changed
#
# The base learns to sort letters in descending order. `minilora experiment low_rank` has tuned it in full with several
# seeds, at a learning rate that was chosen on validation data with other seeds. Seed 0 is run again here: about 20 seconds.
#
# We take $\Delta W = W_\text{tuned} - W$ of the seven matrices of each of the four blocks. Embeddings and norms change as well;
# further down they are put back to the base's, so that these $\Delta W$ alone are judged.

# %%
import minilora
from minilora.experiments.lab.stats import where
from minilora.experiments.lab.tuning import Setup, task_of, tune

rows = lesson.rows("low_rank")
full = where(rows, kind="full", role="report")  # a row for each seed
setup = Setup.of({**full[0], "steps": lesson.live(full[0]["steps"])})
print(f"{setup.task}: {setup.steps} steps of {setup.batch_size} rows at lr {setup.lr:g}")
live, tuned = tune(setup)
print(f"new strings right {live['new']:.1%}, old {live['old']:.1%}")

# %%
if setup.steps == full[0]["steps"]:
    off = dict(live["losses"])[10] / dict(full[0]["losses"])[10] - 1
    print(f"at step 10 the loss is {off:+.3%} off the committed row")
    assert abs(off) <= 0.01
    reached = [r["new"] for r in full]
    assert min(reached) - 0.05 <= live["new"] <= max(reached) + 0.05
else:
    print("fewer steps than the row has: not compared")

# %%
from minilora.experiments.low_rank.parts import matrices

base = minilora.load_base("skills")
W0 = {name: p.data.copy() for name, p in base.named_parameters()}  # as before tuning
W, D = {}, {}  # path → W and ΔW, (out, in) each
for path, linear in matrices(tuned).items():
    W[path] = W0[f"{path}.weight"].astype(np.float64)  # (out, in)
    D[path] = linear.weight.data - W[path]  # (out, in)
print(len(D), "matrices; shapes", sorted({M.shape for M in D.values()}))

# %% [markdown]
# ## Its rank, counted
#
# How many $\sigma$ of a $\Delta W$ are not zero? Weights are float32, so each step rounds them by up to $2^{-24}$ of their size. A
# $\sigma$ below all these roundings together, beside the largest of $W$, might be rounding and no change at all.

# %%
ranks = [np.linalg.matrix_rank(M) for M in D.values()]  # how many σ are not zero
sides = [min(M.shape) for M in D.values()]  # the most there can be
rounding = setup.steps * 2.0**-24  # a share of W
sure = [
    (spectra.singular_values(M) > rounding * np.linalg.norm(W[p], 2)).sum() for p, M in D.items()
]
print(f"rank of ΔW: {min(ranks)} to {max(ranks)}, where {max(sides)} is the most there can be")
print(f"σ above what {setup.steps} roundings can add up to: {min(sure)} to {max(sure)}")
print("every ΔW is of full rank" if ranks == sides else "not every ΔW is of full rank")
lesson.came_out("rank", int(np.median(ranks)))

# %% [markdown]
# {{exercise 05.2}}

# %% [markdown]
# ## Its rank, by energy, beside a control
#
# If "low rank" cannot mean many zeros, the next best reading is that few directions hold nearly all of the energy. Few
# compared to what? To $W$ itself, and to a random matrix *of the same shape*: a wider one spreads its energy over more of them,
# so the square matrices (q, k, v, o) and the wide ones (gate, up, down) are not mixed.

# %%
from minilora.lessons.l05_figure import by_shape

print("directions for 90 % of the energy, all seeds: least, median, greatest")
measured = {}
for square, shape in ((True, "128×128"), (False, "344×128")):
    for what, name in (("change", "ΔW"), ("weights", "W"), ("random", "random")):
        few = measured[shape, name] = by_shape(rows, what, square)  # one number a matrix
        print(f"{shape} {name:7} {min(few):3} {np.median(few):5.0f} {max(few):4}")
    assert abs(np.median(few) - {"128×128": 66, "344×128": 91.5}[shape]) <= 2  # the control
few = [spectra.energy_rank(spectra.singular_values(M)) for M in D.values() if M.shape == (128, 128)]
print(f"the run above, 128×128: ΔW {min(few)} to {max(few)}")

# %%
low = [
    max(measured[shape, "ΔW"]) <= min(measured[shape, "random"]) / 2
    for shape in ("128×128", "344×128")
]
verdict = "confirmed" if all(low) else "in part" if any(low) else "not here"
print(f"each ΔW needs at most half of what a random matrix of its shape needs: {verdict}")
lesson.came_out("directions", int(np.median(measured["128×128", "ΔW"])))

# %% [markdown]
# ## Is the rest needed?
#
# Energy is not ability: the small directions might be those that matter. So $\Delta W_k$ is put into *all* matrices in the place
# of $\Delta W$, and the model is tested: new strings that it has never seen, whole answers right.

# %%
strings = task_of(setup.task, setup.seed).test[:200]
cut_live = {}
for k in (0, 1, 4, 16, 128):
    cut = {f"{p}.weight": W[p] + spectra.truncate(M, k) for p, M in D.items()}  # (out, in) each
    base.load_state_dict({**W0, **cut})
    cut_live[k] = minilora.exact_match(base, strings)
    print(f"k = {k:3}: {cut_live[k]:4.0%} of {len(strings)} new strings")
base.load_state_dict(W0)

# %% [markdown]
# ## Rivals of the same size
#
# $k$ directions cost $k\,(\text{out} + \text{in})$ numbers: less than the whole below $k = \frac{\text{out}\cdot\text{in}}
# {\text{out}+\text{in}}$, which is $N/2$ for a square. What else of $\Delta W$ could be kept with that many numbers?
#
# - its largest entries, wherever they are;
# - the rival idea of the claim: the rows of those neurons (a row makes one output) that are most active in the base when it
#   reads the new task;
# - its projection onto $k$ random directions, as a control.
#
# If a cut works only because $\Delta W$ is redundant in every way, these do as well. At k = 128 each of them is all of
# $\Delta W$. ("Suggests" is the most that so few seeds can say, even if all of one lie above all of the other.)

# %%
from minilora.experiments.lab.stats import apart, percent
from minilora.lessons.l05_figure import parts, table

for line in table(rows):  # mean over seeds (least to greatest)
    print(f"{line[0]:>3} ", *(f"{cell:<22.22}" for cell in line[1:5]))
kept = parts(rows)  # what is kept → k → share of new strings right, a number a seed
best = kept["svd"][8]
rivals = {name: kept[name][8] for name in ("largest entries", "active rows", "random subspace")}
print("8 directions against", "; ".join(f"{n}: {apart(best, v)}" for n, v in rivals.items()))
ahead = all(min(best) > max(v) for v in rivals.values())
print("the strongest directions are", "ahead of each" if ahead else "not ahead of each")

# %% [markdown]
# ## Training few is not cutting to few
#
# LoRA never sees $\Delta W$. From the first step the change *is* $sBA$, with $A$ (r, in) and $B$ (out, r); gradients look for the
# best change of that form. So the sign in $\Delta W \approx BA$ promises nothing: what LoRA finds may be another change
# altogether. Its rank is at most $r$ by its form, and that can be checked.

# %%
lora = where(rows, kind="lora", role="report")  # on all seven matrices
for r in kept["LoRA"]:
    a, b = kept["LoRA"][r], kept["svd"][r]
    who = "trained ahead" if min(a) > max(b) else "cut ahead" if min(b) > max(a) else "alike"
    print(f"{r:2} trained {percent(a):17} cut {percent(b):17} {apart(a, b)}, {who}")
beyond = max(row["beyond_rank"] for row in lora)
print(f"σ after the r-th, as a share of the first: at most {beyond:.1g}")
assert beyond <= 1e-12
assert max(kept["svd"][1]) < 0.5, "a cut to one direction loses most of the skill"
assert min(kept["LoRA"][1]) > max(kept["svd"][1]), "one trained direction does more"
lesson.came_out("trained", round(100 * sum(kept["LoRA"][1]) / len(kept["LoRA"][1])))

# %% [markdown]
# ## Cut, kept, trained
#
# Left: how fast the energy is complete. Right: what is left of the new skill. Which rises first? And where does training at
# $r$ stand beside cutting to $r$? Below the figure: what was found at scale, set beside what was found here, and whatever
# speaks against our runs. (Where the learning rate lies at the edge of those tried, a better one may lie beyond.)

# %%
from minilora.experiments.low_rank import answer
from minilora.lessons.l05_figure import draw

lesson.figure(draw, rows, table=table(rows))
usual = [r for r in rows if r.get("alpha", 0) in (0, 2 * r.get("rank", 0))]  # as in the figure
for line in answer(usual).splitlines():
    if line.startswith(("arXiv", "Chosen", "Below", "Diverged")):
        print(line)

# %% [markdown]
# ## See a cut
#
# The first matrix of the run above, the query matrix of block 0. Choose $k$: its picture, the share of its energy, and how many
# new strings are right when all matrices are cut so. One direction is a chequered cloth: each row is the same pattern, stronger
# or weaker. Where this page is only read, four cuts stand side by side.

# %%
from minilora.lessons.l05_figure import FIXED, KS, draw_cut

first = next(iter(D))  # its path


def show(k):
    lesson.figure(draw_cut, D[first], rows, k, name=f"ΔW of {first}")


lesson.explore(show, [{"k": FIXED}], k=list(KS[1:]))

# %% [markdown]
# ## The same directions?
#
# Do adapters of different rank find the same directions? With $V_i$ (d, i), the $i$ strongest directions in the input of one,
# and $V_j$ (d, j) those of the other,
#
# $$\varphi = \frac{\lVert V_i^\top V_j \rVert_F^2}{\min(i, j)} \in [0, 1]$$
#
# is 1 where the smaller space lies in the larger, 0 at right angles. But two *random* spaces have $\max(i, j)/d$ on average: a
# fixed unit vector has $i/d$ of its square in one of $i$ dimensions. Look for what
# stands above that, not for what is large.

# %% [markdown]
# {{exercise 05.3}}

# %%
d, i, j = 128, 8, 64
pairs = [rng.normal(size=(2, j, d)) for _ in range(20)]  # A1 and A2 (j, d) each
drawn = np.mean([spectra.overlap(A1, A2, i, j) for A1, A2 in pairs])
print(f"20 random pairs, i = {i}, j = {j}: φ = {drawn:.3f}; chance {max(i, j) / d:.3f}")
assert abs(drawn - spectra.chance_overlap(i, j, d)) <= 0.02

# %%
from minilora.experiments.low_rank.rows import table as shared

# Two adapters a seed, r = 8 and r = 64, same data, other random starts; ΔW of all q and v, mean.
adapters = where(rows, kind="subspaces")
for i, j in ((1, 1), (8, 8), (8, 64)):
    row, column = adapters[0]["i"].index(i), adapters[0]["j"].index(j)
    a, b = ([shared(r, pair)[row][column] for r in adapters] for pair in ("same data", "random"))
    word = "above it" if min(a) > max(*b, max(i, j) / d) else "not above it"
    print(f"φ({i}, {j}) = {np.mean(a):.2f} ({min(a):.2f} to {max(a):.2f}); ", end="")
    print(f"random {np.mean(b):.2f}, chance {max(i, j) / d:.2f}: {word}")

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
