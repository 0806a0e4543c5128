# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction on}}

# %% [markdown]
# {{prediction activations}}

# %% [markdown]
# ## Frozen weights are no frozen function
#
# With $x$ (B, T, in), $W$ (out, in), $A$ (r, in), $B$ (out, r) an adapted matrix computes
#
# $$h = x W^\top + s\,x A^\top B^\top = x\,(W + s B A)^\top$$
#
# for *every* $x$. Nothing in it asks whether a question is old or new: the adapter that answers the
# new skill also stands in the way of each old one. Switched off, the bits of $W$ are what they
# were, and so is the function; also after something broke while it was off.
#
# `minilora experiment compare` tuned both ways, without and with 5 % of old data (the share ρ), five
# seeds each, at learning rates of their own. Seed 0 of LoRA without old data is run again: about
# 20 seconds.

# %%
from minilora.experiments import verdict
from minilora.experiments.forgetting.arms import arms

rows = lesson.rows("compare")
every = {(a.method, a.replay): a for a in arms(rows)}  # method, share of old data → its runs
for (method, rho), arm in every.items():
    r = arm.rows[0]
    settings = f"lr {r['lr']:g}, {r['steps']} steps of {r['batch_size']} rows"
    print(f"{method:13} ρ = {rho:.0%}: {settings}, {len(arm.rows)} seeds")
lora = every["LoRA q,v r=8", 0.0]

# %%
from dataclasses import replace

from minilora.experiments.lab.tuning import Setup, model_for, optimizer_for, task_of, tune

setup = Setup.of(lora.rows[0])  # seed 0
live, model = tune(replace(setup, steps=lesson.live(setup.steps)))
print(f"adapter on, test: new skill {live['new']:.0%}, old skills {live['old']:.0%}")
row, seeds = lora.rows[0], [r["new"] for r in lora.rows]
if len(live["losses"]) == len(row["losses"]):
    off = dict(live["losses"])[10] / dict(row["losses"])[10] - 1
    print(f"at step 10 the loss is {off:+.3%} off the committed row")
    assert abs(off) <= 0.01 and min(seeds) - 0.05 <= live["new"] <= max(seeds) + 0.05

# %%
import numpy as np

import minilora
from minilora.autograd import no_grad
from minilora.data.batches import Batches, collate

base, task = minilora.load_base("skills"), task_of(setup.task, 0)
ids = collate(task.test[:16])[0]  # (B, T)
on, of_base = model(ids).data, base(ids).data  # (B, T, V) each
with no_grad(), model.disable_adapter():
    assert np.array_equal(model(ids).data, of_base)
    seen = task.glance(model)
print(f"off: new skill {seen['new']:.0%}, old skills {seen['old']:.0%}; logits: the base's bits")

# %%
try:
    with model.disable_adapter():
        raise RuntimeError("something broke")
except RuntimeError as error:
    print(error, "while the adapter was off; is it on again, and does off still give the base?")
assert np.array_equal(model(ids).data, on)
with model.disable_adapter():
    assert np.array_equal(model(ids).data, of_base)
print("yes, bit for bit")

# %% [markdown]
# ## Merged once
#
# $W + sBA$ is a matrix like any other: put in the place of $W$, it costs no time at all. What is
# lost is rounding. In floating point $(W + \Delta) - \Delta$ is not $W$, so who wants $W$ back
# keeps a copy.

# %% [markdown]
# {{exercise 08.1}}

# %%
layers = model.layers()  # path → each adapted matrix
before = {path: layer.base_layer.weight.data.copy() for path, layer in layers.items()}  # (out, in)
model.merge_adapter()
merged = model(ids).data  # (B, T, V)
model.unmerge_adapter()  # puts the kept copy back
error = np.abs(merged - on).max() / np.abs(on).max()
print(f"merged and unmerged logits differ by {error:.0e} of the largest")
assert error <= 1e-5
assert all(np.array_equal(layers[p].base_layer.weight.data, W) for p, W in before.items())
change = {p: layer.delta("default").astype(np.float32) for p, layer in layers.items()}  # (out, in)
moved = np.mean([np.mean((W + change[p]) - change[p] != W) for p, W in before.items()])
print(f"from the copy: the same bits. By subtracting: {moved:.0%} of the entries are others")

# %% [markdown]
# ## Merged in few bits
#
# Between a number and its neighbour lies nothing. bfloat16 keeps 8 significant bits: near $w$ the
# spacing is between $|w|/128$ and $|w|/256$. A $\Delta$ below half a spacing is rounded away, and
# the sum is $w$ again. First Gaussian matrices, where $\Delta$ has a known size beside $W$; then the
# adapter that was just trained. Its $\Delta$ is large beside $W$ (the base is tiny, the learning
# rate high); the last column is what counts.


# %%
def bf16(w):  # keep the upper 16 of 32 bits, rounded to nearest
    bits = w.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


rng = np.random.default_rng(0)
W, D = rng.normal(size=(2, 512, 512)).astype(np.float32)  # (out, in) each
for share, expected in ((0.01, 17), (0.001, 78)):
    still = 100 * np.mean(bf16(bf16(W) + share * D) == bf16(W))  # the base is held in it, too
    print(f"Δ at {share:.1%} of W: {still:.0f} % of the entries do not move")
    assert abs(still - expected) <= 3

# %%
size = np.mean([np.linalg.norm(change[p]) / np.linalg.norm(W) for p, W in before.items()])
print(f"ΔW has {size:.0%} of the length of W, on average")
for name, cast in {"float32": np.float32, "float16": np.float16, "bfloat16": bf16}.items():
    plain, still = minilora.load_base("skills"), []
    for path, W in before.items():
        held = cast(W)  # (out, in), the base in this type
        total = cast(held.astype(np.float32) + change[path])  # (out, in)
        still.append(np.mean(total == held))
        plain.get_submodule(path).weight.data = total.astype(np.float32)
    new = minilora.exact_match(plain, task.validation)
    print(f"{name:9} {np.mean(still):6.2%} of the entries unmoved, new skill {new:.1%}")

# %% [markdown]
# ## What a step holds
#
# Numbers a token and layer: $C$ channels, $C_{kv}$ of keys, $F$ wide in the MLP, $H \cdot T$ weights
# of attention. Every method holds the inputs of two norms and a scale each, $q$, $k$, $v$, gate and
# up: $3C + 2C_{kv} + 2F + HT + 2$. What a linear reads is held only if a gradient is made from it:
#
# | | inputs $x$ | $xA^\top$ |
# |---|---|---|
# | full | $C$ for q, k, v together; $C$ for o; $C$ for gate, up; $F$ for down | |
# | LoRA on q, v | $C$ | $2r$ |
# | LoRA on all seven | as full | $7r$ |

# %% [markdown]
# {{exercise 08.2}}

# %% [markdown]
# One layer first, to the byte. Then the whole step as the ledger measures it, beside what `predict`
# says before anything is computed; the peak is `tracemalloc`'s. The ratios of a step are a little
# lower than a layer's: below the lowest adapter nothing is held.

# %%
methods = {
    "full": Setup(method="full"),
    "LoRA q,v r=8": Setup(),  # r = 8 on q and v is the default
    "LoRA all seven r=8": Setup(target_modules="all-linear"),
}
batch = Batches(task.train, 64, seed=0)[0]  # ids, labels (64, T)
books = {}
for name, each in methods.items():
    tuned = model_for(each)
    optimizer = optimizer_for(tuned, each)
    with minilora.ledger(tuned, optimizer) as books[name]:
        minilora.train_step(tuned, optimizer, *batch, threads=1)


# %%
def a_token(C, C_kv, F, HT, r=8):
    both = 3 * C + 2 * C_kv + 2 * F + HT + 2
    numbers = both + 3 * C + F, both + C + 2 * r, both + 3 * C + F + 7 * r
    return dict(zip(methods, numbers, strict=True))


c, (B, T) = base.config, (batch[0].shape[0], batch[0].shape[1] - 1)  # the last token is not read
ours = a_token(c.hidden_size, c.K * c.D, c.intermediate_size, c.n_heads * T)
big = a_token(4096, 1024, 14336, 0)  # Llama-3-8B, attention weights not kept
for name, held in books.items():
    of_layer_1 = [e for e in held.entries if e.kind == "activations" and ".layers.1." in e.owner]
    assert sum(e.nbytes for e in of_layer_1) == 4 * B * T * ours[name]  # float32: 4 bytes
    ratios = [f"{n[name] / n['full']:.2f}" for n in (ours, big)]
    print(f"{name:18} {ours[name]:5} numbers; of full {ratios[0]}; Llama-3-8B {ratios[1]}")

# %%
part = {}  # method → its activations over those of full
for name, held in books.items():
    adapter = None if name == "full" else methods[name].lora_config()
    said = minilora.predict(c, lora=adapter, labels=batch[1]).ledger
    n, peak = held.totals["activations"], held.peak / said.peak
    part[name] = n / books["full"].totals["activations"]
    words = f"{part[name]:.3f} of full; peak over the predicted one {peak:.3f}"
    print(f"{name:18} activations {n / 1e6:.2f} MB, {words}")
    assert n == said.totals["activations"] and abs(peak - 1) <= 0.02
assert 0.65 < part["LoRA q,v r=8"] < 0.75 and part["LoRA all seven r=8"] > 1
lesson.came_out("activations", round(100 * part["LoRA all seven r=8"]))

# %%
from minilora.lessons.l08_figure import draw_held, draw_plane

lesson.figure(draw_held, verdict.books(rows))

# %% [markdown]
# ## What it multiplies
#
# Of three products with $W$, one goes; six thin ones come: that is one matrix. A whole model also
# multiplies where there is no weight (attention), and by matrices without an adapter.

# %% [markdown]
# {{exercise 08.3}}

# %%
counted = {name: row["flops"] for name, row in verdict.books(rows).items()}
products = {"forward": "forward", "backward_through": "dx", "backward_weights": "dW"}
for name, f in counted.items():
    parts = ", ".join(f"{short} {f[key] / 1e9:.2f}" for key, short in products.items())
    total = f["total"] / counted["full"]["total"]
    print(f"{name:18} {parts} · 10⁹ multiplications and additions; in all {total:.2f} of full")

# %% [markdown]
# ## One base, many adapters
#
# A second adapter learns another skill in a few seconds. Both are saved, loaded beside one base,
# switched, and one of them taken away again.

# %%
import tempfile
from pathlib import Path

scratch = tempfile.TemporaryDirectory()  # goes when the notebook does
folder = Path(scratch.name)
short = Setup(task="rotate-right", lr=1e-2, steps=lesson.live(80), glances=1)
_, other = tune(short, test=False)
model.save_pretrained(folder / "descending")
other.save_pretrained(folder / "right")
both = minilora.PeftModel.from_pretrained(
    minilora.load_base("skills"), folder / "descending", "descending"
)
both.load_adapter(folder / "right", "right")

# %%
tests = {"descending": task.validation, "right": task_of("rotate-right", 0).validation}
for name in tests:
    both.set_adapter(name, inference_mode=True)
    scores = (f"{skill} {minilora.exact_match(both, e):.0%}" for skill, e in tests.items())
    print(f"adapter {name!r} in use:", ", ".join(scores))
both.delete_adapter("right")
assert both.active_adapter == "descending" and np.array_equal(both(ids).data, on)
assert np.array_equal(both.unload()(ids).data, of_base)
print("one deleted: the other as before, bit for bit; both gone: the base")

# %% [markdown]
# ## The file
#
# Four bytes a trained number, and a header that names the arrays. For 8B, at two bytes a number:

# %%
from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import preset

raw = (folder / "descending" / "adapter_model.safetensors").read_bytes()
n = sum(a.size for a in model.adapter_weights().values())
header = 8 + int.from_bytes(raw[:8], "little")  # its length stands in the first 8 bytes
print(f"{len(raw):,} bytes = 4 · {n:,} + {header:,}")
assert len(raw) == 4 * n + header
for rank, targets in ((8, ("q_proj", "v_proj")), (16, "all-linear")):
    config = minilora.LoraConfig(r=rank, target_modules=targets)
    trained = sum(a.size for a in arrays(preset("llama-3-8b"), Method("lora", config)) if a.trained)
    print(f"Llama-3-8B, r={rank}, {targets}: {trained:,} numbers, {2 * trained / 1e6:.1f} MB")

# %% [markdown]
# ## Published numbers, computed again
#
# Four that are often copied, from the LoRA paper and what was written about it. None of them comes
# out as printed.


# %%
def square(layers, matrices, width, r):  # trained numbers; matrices are (width, width)
    return layers * matrices * r * (width + width)


gpt3 = square(96, 2, 12288, 4)  # GPT-3 175B, q and v, r = 4
print(f"'35 MB': {gpt3:,} numbers in 2 bytes are {2 * gpt3 / 1e6:.1f} MB")
print(f"'10,000 times smaller': 350 GB are {350e9 / (2 * gpt3):,.0f} times as much")
full_speed, lora_speed = 32.5, 43.1  # tokens a second, as published
more, less = lora_speed / full_speed - 1, 1 - full_speed / lora_speed
print(f"'25 % faster': {more:.1%} more tokens a second, or {less:.1%} less time")
print(f"'4.7M' for DeBERTa XXL, r = 8: {square(48, 2, 1536, 8):,}")
assert (gpt3, square(48, 2, 1536, 8)) == (18_874_368, 2_359_296)

# %% [markdown]
# ## Learned against forgotten
#
# The plane of lesson 04 with both methods. Compare ■ with ● on the rule, at equal ability, first
# without old data, then with 5 %. The ring is LoRA switched off.

# %%
lesson.figure(draw_plane, rows)

# %%
from minilora.experiments.forgetting.answering import avoids, helps, switched_off
from minilora.experiments.lab.stats import apart, percent, spread

lesson.came_out("on", round(100 * spread(lora.left)[0]))
for rho in (0.0, 0.05):
    full, adapted = every["full", rho], every["LoRA q,v r=8", rho]
    words = f"{full.kept}, LoRA on {adapted.kept}: {apart(adapted.left, full.left)}"
    print(f"ρ = {rho:.0%}, old skills where the new one is at 90 %: full {words}")
    print(f"    at the end: full {percent(full.at_end)}, LoRA on {percent(adapted.at_end)}")
for said in (avoids(list(every.values())), switched_off(rows), helps(list(every.values()))):
    print(said)

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
