# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction left}}

# %% [markdown]
# {{prediction fits}}

# %% [markdown]
# ## How many numbers
#
# A Llama holds these arrays, and no biases:
#
# | array | shape | how many |
# |---|---|---|
# | embeddings; the head, unless the two are tied | (V, C) | 1 or 2 |
# | q, o | (C, C) | L each |
# | k, v | (C_kv, C) | L each |
# | gate, up; down | (F, C); (C, F) | L each |
# | norms | (C,) | 2L + 1 |
#
# $$P = (1\text{ or }2)\,V C + L\,(2C^2 + 2\,C\,C_{kv} + 3\,C F + 2C) + C$$
#
# $V$ tokens, $C$ channels, $F$ channels inside the MLP, $L$ layers. Several query heads may share one head of keys and
# values; then $C_{kv}$ is narrower than $C$.

# %%
from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import preset

llama = preset("llama-3-8b")
V, C, F, L = llama.vocab_size, llama.hidden_size, llama.intermediate_size, llama.n_layers
C_kv = C * llama.n_kv_heads // llama.n_heads  # 8 heads of keys for 32 of queries
print(f"V = {V:,}, C = {C:,}, C_kv = {C_kv:,}, F = {F:,}, L = {L}")
every = arrays(llama, Method())  # the name and size of each array
for part in ("embed_tokens", "self_attn", "mlp", "norm", "lm_head"):
    print(f"{part:12} {sum(a.size for a in every if part in a.name):13,}")
P = sum(a.size for a in every)
print(f"{'in all':12} {P:13,}")
assert P == 8_030_261_248

# %% [markdown]
# {{exercise 01.1}}

# %% [markdown]
# ## What a number costs
#
# AdamW keeps two numbers beside each trained one: $m$, a running mean of its gradient, and $v$, one of the gradient's
# square. With $P$ parameters, $P_t$ of them trained:
#
# $$\text{bytes} = P\,b_w + P_t\,(b_{grad} + b_m + b_v\,[+\,b_{master}]) + \text{activations}$$
#
# | bytes | weight | gradient | m, v | master | trained | frozen |
# |---|---|---|---|---|---|---|
# | 2 each, the usual sum | 2 | 2 | 2+2 | – | 8 | 2 |
# | mixed precision | 2 | 2 | 4+4 | 4 | 16 | 2 |
# | 4 each, this library | 4 | 4 | 4+4 | – | 16 | 4 |
#
# An update is often too small to change a weight of 2 bytes: hence the master copy, in 4.

# %%
import math

GB, card = 10**9, 24 * 2**30  # a GB is 10⁹ bytes; a card is sold in GiB, of 2³⁰
print(f"a card of 24 GiB holds {card / GB:.2f} GB")
sums = {"2 bytes each": 2 + 2 + 2 + 2, "mixed": 2 + 2 + 4 + 4 + 4, "4 bytes each": 4 + 4 + 4 + 4}
for name, each in sums.items():
    print(f"{name:12} {P * each / GB:7.2f} GB, {math.ceil(P * each / card)} cards of 24 GiB")
print(f"m and v in 4 bytes, alone: {P * (4 + 4) / GB:.2f} GB")
assert round(P * 8 / GB, 2) == 64.24 and round(P * 16 / GB, 2) == 128.48
assert [math.ceil(P * each / card) for each in (8, 16)] == [3, 5]

# %% [markdown]
# {{exercise 01.2}}

# %% [markdown]
# ## What LoRA shrinks
#
# LoRA freezes a matrix $W$ (out, in) and trains two thin ones beside it, $A$ (r, in) and $B$ (out, r): $r\,(in + out)$
# numbers. On q (C, C) and v (C_kv, C) of every layer:
#
# $$P_t = L\,r\,\big((C + C) + (C + C_{kv})\big)$$
#
# Every term with $P_t$ shrinks with it. The term $P\,b_w$ does not: the frozen numbers still multiply.

# %%
from minilora.accounting.budget import Plan, budget
from minilora.lessons.l01_figure import lora

full = budget(Plan(llama, accounting="tutorial"))  # the usual sum: 2 bytes each, no activations
thin = budget(Plan(llama, lora(r=8), accounting="tutorial"))  # the same, with LoRA on q and v
P_t = thin.trainable_parameters
assert P_t == L * 8 * ((C + C) + (C + C_kv)) == 3_407_872
print(f"trained {P_t:,} of {thin.total_parameters:,}: {P_t / thin.total_parameters:.3%}")
for name, bill in (("full", full), ("LoRA", thin)):
    print(
        f"{name}: frozen {bill.frozen_bytes / GB:5.2f} GB, in all {bill.bytes.total / GB:5.2f} GB"
    )
assert round(thin.frozen_bytes / GB, 2) == 16.06

# %%
lesson.came_out("left", 100 * thin.bytes.total / full.bytes.total)

# %% [markdown]
# ## What forward keeps
#
# Backward needs again what forward has seen: the **activations**. Of each token each layer keeps, 2 bytes a number:
#
# | kept | numbers |
# |---|---|
# | inputs of the two norms | 2C |
# | q, and what attention gives | 2C |
# | k and v | 2C_kv |
# | gate and up | 2F |
# | input of q, k, v, if one is trained | C |
# | input of gate and up, likewise | C |
# | input of down, likewise | F |
#
# The end adds $2C$ and $V$ logits in 4 bytes. All grows with $B \cdot T$: B rows of T tokens. Freezing spares the last
# three rows. The weights of attention, $B\,H\,T^2$ in a layer of H heads, are not stored by usual kernels; where they
# are, twice the text is four times the bytes.

# %%
always = 2 * C + 2 * C + 2 * C_kv + 2 * F  # numbers, of a token, in a layer
kept = {"LoRA on q, v": always + C, "LoRA on all, or full": always + C + C + F}
for name, numbers in kept.items():
    token = 2 * (L * numbers + 2 * C) + 4 * V  # bytes
    print(f"{name:20} {token:,} bytes a token; {2048 * token / GB:.2f} GB for 2,048 of them")
    method = lora(targets="all-linear") if "all" in name else lora()
    assert budget(Plan(llama, method, length=2048)).estimate.total == 2048 * token

# %%
fits = {}
for T in (2048, 4096):
    bill = budget(Plan(llama, lora(r=8), batch_size=1, length=T))  # mixed, with activations
    fits[T] = bill.needed <= card
    squares = 2 * L * llama.n_heads * T * T  # bytes: of B·H·T² weights of attention in each layer
    word = "fits" if fits[T] else "does not fit"
    print(f"T = {T}: {bill.needed / GB:.2f} of {card / GB:.2f} GB, {word}; ", end="")
    print(f"{squares / GB:.1f} GB more if attention weights were kept")
assert fits == {2048: True, 4096: False}

# %%
lesson.came_out("fits", "both" if fits[4096] else "2048 only" if fits[2048] else "neither")

# %% [markdown]
# {{exercise 01.3}}

# %% [markdown]
# ## Five bills
#
# One row of 2,048 tokens. The usual sum has no activations, so none are drawn in its bar. Look from the second bar to the
# third: which colours vanish when the weights are frozen, and which stay? Then to the last: which one do four bits shrink?

# %%
from minilora.lessons.l01_figure import draw, table

bills = {
    "full, 2 bytes each": full,
    "full, mixed": budget(Plan(llama)),
    "LoRA, q and v, r=8": budget(Plan(llama, lora(r=8))),
    "LoRA, all seven, r=16": budget(Plan(llama, lora(r=16, targets="all-linear"))),
    "QLoRA, q and v, r=8": budget(Plan(llama, lora(r=8, name="qlora"))),
}
lesson.figure(draw, bills, card=24, table=table(bills))

# %%
from minilora.experiments.budget_figure import roles

before, after = (roles(bills[name]) for name in ("full, mixed", "LoRA, q and v, r=8"))
for sheet in (before, after):  # frozen or trained, a weight is a weight
    sheet["weights"] = sheet.pop("frozen weights") + sheet.pop("trained weights")
for role in before:
    left = after[role] / before[role]
    print(f"{role:12} {left:8.2%} left: {'all but gone' if left < 0.01 else 'stays'}")

# %% [markdown]
# ## Four bits are not half a byte for all
#
# QLoRA stores the frozen *linears* in 4 bits (NF4). Each block of 64 numbers has a constant of 8 bits besides, and each 256
# of these constants one of 32. Embeddings, head and norms stay in 16 bits.

# %%
bits = 4 + 8 / 64 + 32 / (64 * 256)  # of a number in NF4, its share of the constants included
linears = sum(a.size for a in every if a.linear)
four, sixteen = linears * bits / 8 / GB, (P - linears) * 2 / GB
print(
    f"{bits:.3f} bits: linears {four:.2f} GB + all else {sixteen:.2f} GB = {four + sixteen:.2f} GB"
)
print(
    f"half a byte for all: {P / 2 / GB:.2f} GB; {bits:.3f} bits for all: {P * bits / 8 / GB:.2f} GB"
)
assert (round(four, 2), round(sixteen, 2), round(four + sixteen, 2)) == (3.60, 2.10, 5.70)
assert round(bills["QLoRA, q and v, r=8"].frozen_bytes / GB, 2) == 5.70

# %% [markdown]
# ## Is any of it true?
#
# A formula may forget something. So take one real step of full fine-tuning on this library's small base, `skills`, and keep a
# ledger: every array that is held, each once. Beside it stand the formulas above with 4 bytes a number, and the library's
# own prediction, for which the same step is taken on arrays without contents.

# %%
import minilora
from minilora.data.batches import Batches
from minilora.experiments.lab.tuning import task_of

base = minilora.load_base("skills")
ids, labels = Batches(task_of("sort-descending", 0).train, 64, seed=0)[0]  # (64, T + 1) each
optimizer = minilora.AdamW(base.parameters(), lr=1e-3)
with minilora.ledger(base, optimizer) as held:
    minilora.train_step(base, optimizer, ids, labels, threads=1)
foretold = minilora.predict(base.config, labels=labels).ledger

# %%
s, P_s = base.config, base.n_parameters()
B, T = ids[:, :-1].shape  # the last token is only foretold, nothing is computed from it
# Of a token in a layer, the seven rows of the table, all trained:
inner = (2 + 2 + 2 + 1 + 1) * s.hidden_size + (2 + 1) * s.intermediate_size  # C_kv is C here
inner += s.n_heads * T  # of so short a text the library keeps the attention weights
token = 4 * (s.n_layers * inner + 2 * s.hidden_size) + 4 * s.vocab_size  # bytes
by_hand = {
    "weights": 4 * P_s,
    "gradients": 4 * P_s,
    "optimizer": 8 * P_s,
    "activations": B * T * token,
}

# %%
print(f"{P_s:,} parameters, {B} rows of {T} tokens; bytes")
for kind, said in by_hand.items():
    library, real = foretold.totals[kind], held.totals[kind]
    print(f"{kind:12} by hand {said:11,}  predicted {library:11,}  held {real:11,}", end="")
    print(f"  by hand {said / real - 1:+.1%}")
    assert library == real and abs(said - real) <= 0.02 * real
print("the largest part:", max(by_hand, key=held.totals.get))

# %% [markdown]
# ## Other sizes
#
# Mixed precision again, one row as long as the model's context allows, up to 2,048 tokens.

# %%
for name in ("llama-3-8b", "llama-2-7b", "smollm2-135m", "skills"):
    every_way = [budget(Plan(preset(name), how)) for how in (Method(), lora(r=8))]
    full_, thin_ = (bill.needed / GB for bill in every_way)
    P_, P_t_ = every_way[0].total_parameters, every_way[1].trainable_parameters
    print(f"{name:12} {P_:13,} parameters: full {full_:8.4g} GB, ", end="")
    print(f"LoRA {thin_:8.4g} GB with {P_t_:,} trained")

# %% [markdown]
# ## Your own bill
#
# Choose a model, a method, r, the bits of the frozen base, the context, the batch and the card. Adapters are on q and v;
# a context beyond the model's own is cut to that. Where this page is only read, six settings stand side by side.

# %%
from minilora.lessons.l01_figure import CONTROLS, PRESETS, shower

lesson.explore(shower(lesson), [{"side_by_side": PRESETS}], **CONTROLS)

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
