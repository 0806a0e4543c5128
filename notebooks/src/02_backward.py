# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction frozen}}

# %% [markdown]
# {{prediction nudge}}

# %% [markdown]
# ## One product forward, two back
#
# Write $dy$ for $\partial L / \partial y$, an array of the shape of $y$. With $x$ (B, T, in) and $W$ (out, in), each number of
# $y$ (B, T, out) is
#
# $$y_{bto} = \sum_i x_{bti} W_{oi}$$
#
# $x_{bti}$ reaches the loss through all $o$, and $W_{oi}$ through all tokens $b, t$. The chain rule sums over these ways:
#
# $$dx_{bti} = \sum_o dy_{bto} W_{oi} \qquad dW_{oi} = \sum_{b,t} dy_{bto}\, x_{bti}$$
#
# As matrices: $dx = dy\,W$ (B, T, in) and $dW = dy^\top x$ (out, in). Note who is read: $dx$ needs $W$, $dW$ needs $x$.
#
# The library's `backward(y, dy)` starts from a given $dy$. Is it what the sums say? (`einsum` writes them out.)

# %%
import numpy as np

from minilora import ops
from minilora.autograd import Tensor, backward, gradcheck, tape

rng = np.random.default_rng(0)
x = Tensor(rng.normal(size=(2, 3, 5)), requires_grad=True)  # (B, T, in)
W = Tensor(rng.normal(size=(4, 5)), requires_grad=True)  # (out, in)
dy = rng.normal(size=(2, 3, 4))  # (B, T, out)
grads = backward(ops.linear(x, W), dy)
by_x = np.einsum("bto,oi->bti", dy, W.data)  # (B, T, in)
by_w = np.einsum("bto,bti->oi", dy, x.data)  # (out, in)
print("dx", grads[x].shape, "as the sum says:", np.allclose(grads[x], by_x))
print("dW", grads[W].shape, "as the sum says:", np.allclose(grads[W], by_w))

# %% [markdown]
# {{exercise 02.1}}

# %% [markdown]
# ## Used twice: add. Broadcast: sum
#
# Two rules carry a gradient through the rest of a network, and both are the same sum over ways.
#
# - What was **used twice** gets both parts, added. In $x \cdot x$ each factor hands $x$ back; together $2x$.
# - What was **broadcast** was used once for every copy. A bias $b$ (out) is added to all B·T tokens, so $db = \sum_{B,T} dy$.

# %%
v = Tensor(rng.normal(size=(4,)), requires_grad=True)  # (4,)
b = Tensor(np.zeros(4), requires_grad=True)  # (out,)
twice = backward((v * v).sum())[v]  # (4,)
db = backward(ops.linear(x, W, b), dy)[b]  # (out,)
print("used twice gives 2v:", np.allclose(twice, 2 * v.data))
print("broadcast gives a sum over B, T:", np.allclose(db, dy.sum(axis=(0, 1))), db.shape)

# %% [markdown]
# ## The loss, where every way back begins
#
# For logits $z$ (…, V) let $p = \mathrm{softmax}(z)$. A token with label $y$ costs
# $\ell = -\ln p_y = -z_y + \ln \sum_j e^{z_j}$, and the derivative of the last term by $z_j$ is $p_j$:
#
# $$\frac{\partial \ell}{\partial z_j} = p_j - [\,j = y\,] \qquad dz = \frac{p - \mathrm{onehot}}{n}$$
#
# What the model said, minus what was right. $n$ is the number of tokens that *have* a label: the loss is their mean. Tokens
# labelled −100, such as those of a prompt, are asked nothing, and their rows of $dz$ are zero.

# %% [markdown]
# {{exercise 02.2}}

# %% [markdown]
# ## Believe nothing, measure
#
# A derivation may be wrong. So nudge one number by $\pm h$ and look. Taylor's series around $x$ has terms in $h$, $h^2$,
# $h^3$; in the difference of both sides the even ones cancel:
#
# $$\frac{f(x+h) - f(x-h)}{2h} = f'(x) + \frac{h^2}{6} f'''(x) + \dots$$
#
# The computer rounds $f$ by about $\varepsilon |f|$, and this is divided by $h$, too. The two errors together,
#
# $$\frac{h^2}{6}|f'''| + \frac{\varepsilon |f|}{h}, \quad \text{are least at} \quad
# h = \left(\frac{3 \varepsilon |f|}{|f'''|}\right)^{1/3}.$$

# %% [markdown]
# {{exercise 02.3}}

# %% [markdown]
# ## Sixty nudges
#
# The loss of 16 tokens with 8 numbers each, over 5 classes. Each of the 40 numbers of $W$ is nudged, with 60 values of $h$, in
# float64 and in float32. The error of a pair is $|a - n| / (|a| + |n|)$, with $a$ from backward and $n$ from the
# difference; the worst of the 40 counts. An error of 1 says that nothing of a gradient is left: its two losses were rounded
# to the same number, or to the wrong order.

# %%
from minilora.lessons.l02_figure import BENDS, ROUNDS, best, draw, measure, slope, table

rng = np.random.default_rng(0)
tokens = rng.normal(size=(16, 8)).astype("float32")  # numbers that both types can hold
weights = rng.normal(size=(5, 8)).astype("float32")  # (out, in)
labels = rng.integers(0, 5, 16)  # (16,)


def loss(W):  # in the type of W
    z = ops.linear(tokens.astype(W.dtype), W)  # (16, 5)
    return ops.cross_entropy(z, labels=labels)  # a scalar


rows = measure(loss, weights)

# %%
for dtype in ("float64", "float32"):
    low, eps = best(rows, dtype), np.finfo(dtype).eps / 2  # ε: half the gap above 1
    theory = (3 * eps) ** (1 / 3)  # if |f| and |f'''| are alike
    print(f"{dtype}: best h = {low['h']:.1e}, where theory says {theory:.1e} or so;", end=" ")
    print(f"error {low['error']:.1e}")
left, right = slope(rows, "float64", ROUNDS), slope(rows, "float64", BENDS)
print(f"float64 slopes: {left:.2f} (rounding: -1), {right:.2f} (truncation: 2)")
low64, low32 = best(rows, "float64"), best(rows, "float32")
assert 1e-6 <= low64["h"] <= 1e-4 and low64["error"] <= 1e-8 and low32["error"] > 1e-4
assert abs(left + 1) <= 0.2 and abs(right - 2) <= 0.1

# %%
lesson.figure(draw, rows, table=table(rows))

# %%
falls, rises = right > 0, left < 0  # seen from large h to small
outcome = "stays the same" if not falls else "falls, then rises" if rises else "falls all the way"
lesson.came_out("nudge", outcome)

# %% [markdown]
# ## Every operation of the library
#
# So: float64, $h = 10^{-5}$, and an error of at most $10^{-7}$ for every element of every input of every operation. The shapes
# are never square.

# %%
from minilora.ops.examples import examples

errors = [(c.max_error, e.op, c.name) for e in examples() for c in e.check().inputs]
print(len(errors), "inputs of", len({op for _, op, _ in errors}), "operations; the worst:")
for error, op, name in sorted(errors)[-3:]:
    print(f"  {op:22} {name:3} {error:.1e}")
assert max(errors)[0] <= 1e-7

# %% [markdown]
# ## What it catches, and what it cannot
#
# First a planted mistake: $dy\,W^\top$ in the place of $dy\,W$. With a square $W$ it runs, and no shape complains; only the
# numbers betray it. Then a loss that divides by all positions and not by the targets. Its backward fits it perfectly. It is
# only not the loss that was meant: a check compares backward with forward, and forward with nothing.


# %%
class Turned(ops.Linear):  # the library's product, with one mistake
    def backward(ctx, dy):
        return dy @ ctx.saved.W.T, super().backward(dy)[1]


def by_positions(z):  # (T, V) → a scalar
    return ops.cross_entropy(z, labels=some, n_targets=some.size)


square, some = rng.normal(size=(4, 4)), np.array([-100, 4, 0])  # (out, in), (T,)
print(gradcheck(Turned.apply, rng.normal(size=(3, 4)), square, names=["x", "W"]))
z = rng.normal(size=(3, 5))  # (T, V): two of three tokens are targets
print("\nthe wrong loss passes:", gradcheck(by_positions, z).ok)
print(f"it is {by_positions(z).item() / ops.cross_entropy(z, labels=some).item():.3f} of the loss")

# %% [markdown]
# ## Now freeze
#
# Three matrices in a row. Forward writes each operation on a tape, with the arrays that backward will read; `dx` and `dW` are made only
# if somebody wants them. We look at the tape three times: all trained; the last matrix frozen; the first one frozen, too.

# %%
from minilora.accounting.graph import step_graph, tape_graph
from minilora.nn import Linear, Module


class Net(Module):
    def __init__(self):
        self.first, self.middle, self.last = Linear(8, 16), Linear(16, 12), Linear(12, 5)
        for p in self.parameters():
            p.data[:] = (
                rng.normal(size=p.shape) / p.shape[1] ** 0.5
            )  # (out, in): y about as large as x

    def loss(self, x, labels, **options):  # x (B, T, 8), labels (B, T)
        h = ops.silu(self.middle(ops.silu(self.first(x))))  # (B, T, 12)
        return ops.cross_entropy(self.last(h), labels=labels)  # a scalar


# %%
net, inputs = Net(), rng.normal(size=(2, 5, 8)).astype("float32")  # (B, T, 8)
answers = rng.integers(0, 5, (2, 5))  # (B, T)


def look(title):  # newest operation first, as backward goes
    loss = net.loss(inputs, answers)
    graph = tape_graph(loss, net, block=None)
    print(f"\n{title}: {graph.held} bytes held")
    for op, box in zip(tape(loss), graph.boxes, strict=True):
        made = " ".join(f"d{name}" for name, wanted in vars(op.needs).items() if wanted)
        kept = ", ".join(f"{k.name} {k.nbytes} B" for k in box.keeps)
        print(f"  {box.op:13}{box.module:8}makes {made:6} keeps {kept or 'nothing'}")
    return graph, backward(loss)


# %%
whole, all_grads = look("all trained")
net.last.weight.requires_grad = False
frozen, grads = look("last frozen")
net.first.weight.requires_grad = False
look("last and first frozen")

before, after = whole.boxes[1], frozen.boxes[1]  # the last matrix
assert [k.name for k in before.keeps] == ["x"] and not after.keeps  # W is there anyway
assert net.last.weight in all_grads and net.last.weight not in grads
for p in (net.middle.weight, net.first.weight):  # below it, nothing has changed
    assert np.array_equal(all_grads[p], grads[p])

# %% [markdown]
# Frozen, the last matrix makes no $dW$ and keeps no $x$: one product of three is spared, and the array that it would have
# read. ($W$, which $dx$ reads, is there anyway and costs nothing.) Its $dx$ is still made, and the gradients below are the
# same to the bit. Only where *nothing* trained is left below does backward stop: in the third tape the first matrix and its
# activation are not recorded at all.
#
# `asked` and `wanted` of the loss say which tokens have a label, and which label.

# %%
W.requires_grad = False
y = ops.linear(x, W)  # (B, T, out)
made = backward(y, dy)
spared = [name for name, leaf in (("dx", x), ("dW", W)) if leaf not in made]
lesson.came_out("frozen", " and ".join(spared) or "none of them")

# %% [markdown]
# The third tape as a picture, from the loss down: what is kept is purple, trained orange, frozen grey. Dotted is where a
# gradient would go, were everything trained.

# %%
from minilora.errors import MissingExtraError
from minilora.experiments.tape_figure import draw as draw_graph
from minilora.experiments.tape_words import describe_tape

graph = step_graph(net, inputs, answers, block=None)
try:
    from IPython.display import SVG, display

    display(SVG(draw_graph(graph)))
except MissingExtraError as missing:
    print("no picture here:", missing)
print(describe_tape(graph))

# %% [markdown]
# {{exercise 02.4}}

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
