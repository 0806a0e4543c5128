# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction bits}}

# %% [markdown]
# {{prediction left}}

# %% [markdown]
# {{prediction time}}

# %% [markdown]
# ## Sixteen levels
#
# Four bits tell sixteen numbers apart. A weight is replaced by the nearest of sixteen *levels*; which ones?
# Trained weights lie much like a normal distribution, crowded near 0. Even steps are spent on places where hardly anything lies:

# %%
import numpy as np

draws = np.random.default_rng(0).normal(size=(2000, 64))  # 2,000 blocks of 64 weights
scaled = draws / np.abs(draws).max(axis=1, keepdims=True)  # (2000, 64), in [-1, 1]
even = np.linspace(-1, 1, 16)  # (16,)
codes = np.abs(scaled[..., None] - even).argmin(axis=-1)  # (2000, 64), the nearest
share = np.bincount(codes.ravel(), minlength=16) / codes.size  # (16,)
print(f"of 16 even levels the 8 inner ones stand for {share[4:12].sum():.0%} of the weights")

# %% [markdown]
# NF4 ("normal float", arXiv 2305.14314) asks that equal shares of a normal distribution lie between two levels, so it takes quantiles:
#
# $$q = \Phi^{-1}(p), \qquad p = 0.9677083, \dots, 0.5 \ \text{in even steps}$$
#
# 8 above 0, 7 below, mirrored, and 0 itself, exactly: a weight of 0 must stay 0. Why 0.9677083? At $p = 1$ the quantile is infinite, so
# the last level stands half a step before it: midway between $1 - 1/30$ and $1 - 1/32$. All are divided by the largest, and the ends are at
# ±1.

# %% [markdown]
# {{exercise 09.1}}

# %%
from minilora.lessons.l09_figure import draw_levels
from minilora.quant.levels import NF4, nf4_levels

rises = nf4_levels()  # (16,)
off = np.abs(rises - NF4).max()  # NF4: as published, computed in float32
print(*(f"{level:.4f}" for level in rises))
print(f"off the published ones by at most {off:.1e}")
assert off <= 1.2e-7
by_level = [["code", "level"], *enumerate(rises)]
lesson.figure(draw_levels, rises, table=by_level)

# %% [markdown]
# ## A block and what it shares
#
# Weights are not between −1 and 1. So 64 of them form a *block*, and share a constant:
#
# $$a = \max_i |w_i| \qquad c_i = \text{nearest}(w_i / a) \qquad \hat w_i = a \cdot \text{level}[c_i]$$
#
# The error is at most half the largest gap between two levels, times $a$. One large weight makes $a$ large, and the error of its 63
# neighbours with it: that is why blocks are small. After the exercise, the first block of a matrix of our base, with the library's
# `quantize`; its codes are those of bitsandbytes, bit for bit.

# %% [markdown]
# {{exercise 09.2}}

# %%
import minilora
from minilora.quant import dequantize, quantize

base = minilora.load_base("skills")
W = base.get_submodule("model.layers.0.self_attn.q_proj").weight.data  # (out, in)
w = W.reshape(-1)[:64]  # (64,)
q = quantize(w, "nf4", block_size=64, double_quant=False)
a, error = np.abs(w).max(), np.abs(dequantize(q) - w)  # a number, (64,)
bound = a * np.diff(NF4).max() / 2
print(f"bytes: {q.codes.nbytes} of codes, {q.nbytes - q.codes.nbytes} of a; in float32 {w.nbytes}")
print(f"error: mean {error.mean():.2g}, largest {error.max():.2g}, bound {bound:.2g}")
assert error.max() <= bound * (1 + 1e-6)  # float32 rounds, too

# %% [markdown]
# ## Bits, all counted
#
# $a$ is a float32 for every block: $32/64$ bits for each weight of it. An eighth, just for constants. But constants are numbers too:
# take their mean off, and hold the rest in 8 bits, with a float32 for each 256 of them. That is *double quantization*.

# %% [markdown]
# {{exercise 09.3}}

# %%
from minilora.quant import bits_per_parameter

for double in (False, True):
    held = quantize(W, "nf4", 64, double)  # for (out, in)
    bits = bits_per_parameter("nf4", 64, double)
    gb = 8_030_261_248 * bits / 8 / 1e9  # if all of Llama 3 8B were held so
    print(f"double {double!s:5} {bits:.6f} bits a weight, {gb:.2f} GB for 8B; really held here:")
    print(f"{'':12} {held.bits_per_parameter:.6f} ({held.nbytes:,} bytes for {W.size:,} weights)")
assert bits_per_parameter("nf4", 64, False) == 4.5
assert bits_per_parameter("nf4", 64, True) == 4 + 8 / 64 + 32 / (64 * 256)
lesson.came_out("bits", bits_per_parameter("nf4", 64, double_quant=False))

# %% [markdown]
# What is held beyond the formula is a mean of 4 bytes, and a row of 256 constants that is only begun.
#
# ## How far off
#
# Rivals with as many bits for a code: FP4, a tiny float; INT4, even steps from $-a$ to $a$; min-max INT4, sixteen even steps from
# a block's smallest to its largest weight, which needs *two* constants. And two measures:
#
# $$\text{mean error} = \frac{1}{n}\sum |\hat w - w| \qquad \text{SNR} = 10 \log_{10} \frac{\sum w^2}{\sum (\hat w - w)^2} \ \text{dB}$$

# %%
from minilora.experiments.four_bits.measuring import normal, rounding_error

million = [normal(2**20)]  # from N(0, 1)
usual = {"block_size": 64, "double_quant": False}
told = {f: rounding_error(million, f, **usual) for f in ("nf4", "fp4", "int4", "int4-minmax")}
for name, e in told.items():
    print(f"{name:12} {e['bits']:.1f} bits, mean error {e['mae']:.4f}, SNR {e['snr']:.1f} dB")
for name, expected in (("nf4", 0.0728), ("fp4", 0.0965), ("int4", 0.0917)):
    assert abs(told[name]["mae"] - expected) <= 0.001
least, loudest = min(told, key=lambda f: told[f]["mae"]), max(told, key=lambda f: told[f]["snr"])
print(f"least error: {least}; best SNR: {loudest}. The same? {least == loudest}")

# %% [markdown]
# Many block sizes, with and without double quantization, on numbers from N(0, 1) and on all matrices of the base:

# %%
from minilora.experiments import four_bits
from minilora.experiments.four_bits.answering import best_format, doubled
from minilora.experiments.four_bits.figure import draw_errors
from minilora.experiments.four_bits.reading import errors
from minilora.experiments.lab.experiment import Plan

asked = [p for p in four_bits.points([], Plan()) if p["role"] == "error"]
measured = [{**p, **four_bits.measure(p)} for p in asked]
seen = errors(measured, "skills").items()
at = [[f, e["block_size"], e["bits"], f"{e['relative']:.2%}"] for f, es in seen for e in es]
lesson.figure(draw_errors, measured, table=[["format", "block", "bits", "mean error"], *at])

# %%
from textwrap import fill

for said in (best_format(measured, "normal"), best_format(measured, "skills"), doubled(measured)):
    print(fill(said, 98), end="\n\n")

# %% [markdown]
# An error of weights is not yet an error of answers. The base itself, in each format, nothing tuned: how many strings of its eight
# skills are right, and its loss as a multiple of that in floats?

# %%
from minilora.experiments.four_bits import answering

rows = lesson.rows("four_bits")
print(fill(answering.abilities(rows), 98))

# %% [markdown]
# ## Turn the knobs
#
# Choose a format, a block size, and what the numbers are like. Where this page is only read, four settings stand here.

# %%
from minilora.lessons.l09_figure import CONTROLS, FIXED, draw_format


def show(data_type="nf4", block_size=64, spread="normal"):
    lesson.figure(draw_format, data_type, block_size, spread)


lesson.explore(show, FIXED, **CONTROLS)

# %% [markdown]
# ## Training beside it
#
# $W$ is frozen, so it is only read. With $x$ (T, in) and $dy$ (T, out)
#
# $$y = x\,\text{deq}(W)^\top + s\,xA^\top B^\top \qquad dx = dy\,\text{deq}(W) + s\,dy\,BA$$
#
# and no $dW$. The floats $\text{deq}(W)$ are made a few rows at a time, and dropped; in backward once more. $A$ and $B$ are floats and
# are trained as in lesson 06. Embeddings, head and norms stay floats, too.
#
# Below, first what is held in what; then the base learns to sort letters in descending order, with NF4 below the adapter: seed 0 of
# `minilora experiment four_bits` again, in about 15 seconds.

# %%
from minilora.experiments.lab.stats import where
from minilora.experiments.lab.tuning import Setup, model_for, tune

row = where(rows, role="tune", arm="QLoRA nf4", seed=0)[0]
model = model_for(Setup.of(row))
kinds = {}
for p in model.parameters():
    kind = "few bits" if hasattr(p.data, "blocks") else "trained" if p.requires_grad else "floats"
    n, size = kinds.get(kind, (0, 0))
    kinds[kind] = (n + p.data.size, size + p.data.nbytes)
for kind, (n, size) in kinds.items():
    print(f"{kind:9} {n:9,} weights in {size:9,} bytes: {8 * size / n:.3f} bits each")

# %%
from dataclasses import replace

setup = Setup.of(row)
live, model = tune(replace(setup, steps=lesson.live(setup.steps)))
print(f"new strings right {live['new']:.1%}, old {live['old']:.1%}")
if len(live["losses"]) == len(row["losses"]):
    off = dict(live["losses"])[10] / dict(row["losses"])[10] - 1
    print(f"at step 10 the loss is {off:+.3%} off the committed row")
    seeds = [r["new"] for r in where(rows, role="tune", arm="QLoRA nf4")]
    assert abs(off) <= 0.01 and min(seeds) - 0.05 <= live["new"] <= max(seeds) + 0.05
print(fill(answering.learnt(rows), 98))

# %% [markdown]
# Three seeds against three: *suggests* is the most that can be said. All arms used LoRA's learning rate, none was tuned for its
# format.
#
# ## Faster?
#
# A step of LoRA beside floats and one beside NF4, by turns, so that whatever else the machine does falls on both:

# %%
took = four_bits.measure({"role": "step", "data_type": "nf4", "turns": lesson.live(9)})
lora, qlora = took["bytes"]["lora"], took["bytes"]["qlora"]
for kind in lora:
    print(f"{kind:12} {lora[kind]:12,} bytes, {qlora[kind]:12,} beside NF4")
times = took["times_lora"]
print(f"a step beside NF4 takes {times:.2f} times as long (median of ratios)")
lesson.came_out("time", "slower" if times > 1.02 else "faster" if times < 0.98 else "same")

# %% [markdown]
# The weights shrink, the peak hardly: this model is small and its batch large, so nearly all is activations. In an 8B model
# with a short batch it is the weights that do not fit.
#
# ## Three ways to merge
#
# $\hat W = \text{deq}(W)$ and the trained $\Delta W = sBA$ can be kept *apart*; merged *into floats*, $\hat W + \Delta W$ in 32 or 16 bits; or
# merged *back into four bits*, $Q(\hat W + \Delta W)$. The last one rounds. Every $\hat w$ stands on a level; a change of less than half
# a gap is rounded away. First a Gaussian $W$ and a $\Delta W$ of rank 8 whose size is known:

# %%
from minilora.experiments.four_bits.measuring import merged_at

arrived = merged_at("nf4", [0.01, 0.02, 0.03, 0.1, 0.5])  # sizes of ΔW beside W
for e in arrived:
    print(
        f"ΔW is {e['size']:4.0%} of W: {e['moved']:7.3%} of the codes move, "
        f"{e['survives']:4.0%} of ΔW arrives, with noise {e['astray']:.1f} times ΔW"
    )
assert arrived[0]["moved"] == 0 and all(e["moved"] < 0.005 for e in arrived[:3])
assert abs(arrived[3]["moved"] - 0.21) <= 0.03
lesson.came_out("left", round(100 * arrived[1]["survives"]))

# %% [markdown]
# What little arrives where no code moves comes through the constants: the largest of a block has changed.
#
# Stars: adapters that were trained beside NF4, with four learning rates, so that their ΔW has several sizes. Of what an adapter
# gained (the likelihood of right answers, in nats) the share that is left. Then the adapter that was trained above, in each of the
# ways.

# %%
from minilora.experiments.four_bits.figure import draw_merges

lesson.figure(draw_merges, rows)
print(fill(answering.small_merges(rows), 98), end="\n\n")
print(fill(answering.trained(rows), 98))

# %%
from minilora.experiments.four_bits.measuring import merged_ways

ways, arrives = merged_ways(setup, model)
size = np.mean([e["relative"] for e in arrives])
for way, e in ways.items():
    print(f"{way:9} new strings right {e['new']:6.1%}, loss {e['nll']:.3f} nats a token")
print(f"its ΔW is {size:.0%} of W, on average; {np.mean([e['moved'] for e in arrives]):.0%} moved")
what = "far above" if size > 0.2 else "above" if size > 0.05 else "among"
print(f"that is {what} the few per cent at which codes stay where they are")

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
