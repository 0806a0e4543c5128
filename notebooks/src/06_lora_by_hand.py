# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction zero}}

# %% [markdown]
# {{prediction saved}}

# %% [markdown]
# ## The two ways
#
# A matrix $W$ (out, in) is frozen. Beside it lie $A$ (r, in), which squeezes a vector to $r$ numbers, and $B$ (out, r),
# which spreads them out again:
#
# $$u = x A^\top \qquad h = x W^\top + s\,u B^\top \qquad s = \alpha / r$$
#
# with $x$ (B, T, in), $u$ (B, T, r), $h$ (B, T, out). Nothing about $W$ is decomposed: $BA$ is trained in the place of a
# change $\Delta W$ that nobody ever sees.

# %%
import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor, backward, gradcheck

rng = np.random.default_rng(0)
B_, T, n_in, n_out, r, alpha = 2, 5, 12, 8, 3, 6
x = Tensor(rng.normal(size=(B_, T, n_in)), requires_grad=True)  # (B, T, in)
W = Tensor(rng.normal(size=(n_out, n_in)))  # (out, in), frozen
A = Parameter(rng.normal(size=(r, n_in)))  # (r, in)
B = Parameter(rng.normal(size=(n_out, r)))  # (out, r)

# %% [markdown]
# {{exercise 06.1}}

# %% [markdown]
# ## Every gradient
#
# From above comes $dh$ (B, T, out). Three rules are enough: a product hands $dy\,W$ down and $dy^\top x$ to its weight; what
# is used twice gets the sum of both parts; $s$ scales whatever passes it.
#
# $$dB = s \sum_{B,T} dh^\top u \qquad du = s\,dh\,B \qquad dA = \sum_{B,T} du^\top x \qquad dx = dh\,W + du\,A$$
#
# $W$ appears in $dx$: the signal for the layers below passes *through* the frozen matrix. Only $dW = dh^\top x$ is spared.

# %% [markdown]
# {{exercise 06.2}}

# %% [markdown]
# ## The same, twice
#
# The library has the bypass composed of plain operations, whose backward the tape derives, and as one operation whose backward
# is the formula above. They must agree, and a difference quotient must agree with both.


# %%
def gradients(op):
    h = op(x, W, A, B, scaling=alpha / r)  # (B, T, out)
    return h, backward((h * h).sum())


h1, g1 = gradients(ops.lora_linear_composed)
h2, g2 = gradients(ops.lora_linear)
print("largest difference:", max(np.abs(g1[p] - g2[p]).max() for p in (x, A, B)))
print("is there a gradient of W?", W in g2)
report = gradcheck(
    lambda x, A, B: ops.lora_linear(x, W, A, B, scaling=alpha / r), x.data, A.data, B.data
)
print("against difference quotients:", max(each.max_error for each in report.inputs))

# %% [markdown]
# ## What it multiplies
#
# A token of one $N \times N$ matrix takes $3N^2$ multiply-adds under full fine-tuning: forward, $dx$, $dW$. LoRA takes $2N^2$ for
# $W$ and $6Nr$ for the bypass: a ratio of $\tfrac{2}{3} + 2r/N$. Above $r = N/6$ LoRA multiplies *more*. Its share of the
# parameters is $2r/N$.


# %%
def ratio(N, r):
    return 2 / 3 + 2 * r / N


for N, rank in ((4096, 8), (128, 8), (128, 32)):
    print(
        f"N={N:5d} r={rank:3d}: multiplies {ratio(N, rank):.3f} of full, "
        f"trains {2 * rank / N:.2%}; break-even at r = {N / 6:.0f}"
    )
saved = 100 * (1 - ratio(4096, 8))

# %%
lesson.came_out("saved", round(saved, 1))

# %% [markdown]
# ## It starts although B = 0
#
# At the first step $B = 0$, so $du = s\,dh\,B = 0$ and $dA = 0$, exactly. But $dB = s \sum dh^\top u$ has the factor
# $u = xA^\top$, which is not zero. So $B$ moves first, and $A$ wakes at the second step. If both are zero, both gradients are, for ever.
# If both are random, the start is not the base.

# %% [markdown]
# ## Three starts, twenty steps
#
# The same adapter on the same batches, begun in three ways. `dA` and `dB` are the norms of the gradients of all $A$ and of all
# $B$; `shift` is how far the fresh adapter moves the base's logits before anything is learnt.

# %%
from minilora.experiments.initialisation import ARMS, first_steps
from minilora.experiments.lab.tuning import Setup

live = {}
for start in ("A random, B = 0", "both 0", "both random"):
    setup = Setup(init=ARMS[start].init, steps=lesson.live(150), seed=0)
    seen = live[start] = first_steps(setup, ARMS[start].zero)  # at most 20 steps
    print(f"{start:16} shift {seen['shift']:.3g}")
    for part in ("dA", "dB"):
        print("   ", part, " ".join(f"{norm:.2g}" for norm in seen[part][:4]), "…")

# %%
usual, dead, loud = (live[s] for s in ("A random, B = 0", "both 0", "both random"))
assert usual["shift"] == 0 and usual["dA"][0] == 0 < usual["dA"][1] and usual["dB"][0] > 0
assert dead["moved_A"] == dead["moved_B"] == 0
assert loud["shift"] > 1
zero = [part for part in ("dA", "dB") if usual[part][0] == 0]
lesson.came_out("zero", zero[0] if len(zero) == 1 else "both" if zero else "neither")

# %% [markdown]
# Over several seeds, with the accuracy that each start reaches. An open ring is a gradient of exactly zero.

# %%
from minilora.experiments.initialisation import answer, draw

rows = lesson.rows("initialisation")
lesson.figure(draw, rows)
print(answer(rows))

# %% [markdown]
# ## What is frozen stays, to the bit
#
# Backward hands gradients to $A$ and $B$ alone: no array is ever made for $dW$, and AdamW holds no moments for $W$.

# %%
import minilora
from minilora.data.batches import Batches
from minilora.experiments.compare import weights_hash
from minilora.experiments.lab.tuning import task_of

base = minilora.load_base("skills")
before = weights_hash(base)
model = minilora.get_peft_model(base, minilora.LoraConfig(r=8, lora_alpha=16), seed=0)
optimizer = minilora.AdamW(model.parameters(), lr=5e-3)
batches = Batches(task_of("sort-descending", 0).train, 64, seed=0)  # ids, labels (64, T)
losses = [minilora.train_step(model, optimizer, *batches[i]) for i in range(lesson.live(20))]

# %%
frozen = [p for name, p in model.named_parameters() if "lora_" not in name]
print("moments held for frozen weights:", sum(p in optimizer.m for p in frozen))
print("gradients held for frozen weights:", sum(p.grad is not None for p in frozen))
print("base unchanged, by a hash over all bits:", weights_hash(model.unload()) == before)

# %% [markdown]
# {{exercise 06.3}}

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
