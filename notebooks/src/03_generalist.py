# %% [markdown]
# {{opening}}

# %% [markdown]
# {{prediction loss0}}

# %% [markdown]
# {{prediction new}}

# %% [markdown]
# ## Eight skills and one that is missing
#
# Our base is small enough to be trained from nothing, and its abilities can be counted: a string
# goes in, one answer is right. Three letters name the skill. An answer counts only if every letter
# of it is right and it ends where it should.
#
# The last line is a skill that was kept from the base. It is the one that later lessons teach.

# %%
import math

import numpy as np

import minilora
from minilora.data import skills

base = minilora.load_base("skills")
missing = skills.skill("sort-descending")
for skill in (*skills.OLD, missing):
    print(f"{skill.prompt('ghdgki') + skill.apply('ghdgki'):22} {skill.says}")

# %% [markdown]
# ## What is asked at each place
#
# The model reads a row of tokens and gives, at each place, a score for every token of the
# vocabulary: the logits (B, T, V). Those at place $t$ are about token $t+1$, so the label there is
# $y_t = x_{t+1}$. On the prompt it is −100: not asked. The end token *is* asked, or the model would
# never stop.
#
# One trap of conventions: like Hugging Face, the library keeps a token's label beside the token,
# and shifts inside of the loss. The table shows the labels shifted.

# %%
example = skills.examples(skills.skill("reverse"), "test", 1)[0]
name = {t: base.tokenizer.decode([t]) or "<end>" for t in example.ids}
asked = [*example.labels[1:], -100]  # shifted: the label of place t is token t + 1
for t, (token, label) in enumerate(zip(example.ids, asked, strict=True)):
    print(f"place {t:2d} reads {name[token]:5}", "" if label == -100 else f"must say {name[label]}")

# %% [markdown]
# {{exercise 03.1}}

# %% [markdown]
# ## The loss, before anything is learnt
#
# $$L = -\frac{1}{n} \sum_{t\ \text{asked}} \ln p_t(y_t), \qquad p = \operatorname{softmax}(z)$$
#
# $z$ are the logits; $n$ counts what is asked, not all $B \cdot T$ places. A model that knows
# nothing gives every token about $1/V$, and $-\ln(1/V) = \ln V$. So the first loss is known before
# the run.

# %%
from minilora.data.batches import Batches

old = [e for s in skills.OLD for e in skills.examples(s, "train", 1000)]
batches = Batches(old, 64, seed=0)  # batches[step]: ids, labels (64, T)
untrained = minilora.Transformer(base.config, seed=0)
loss0, V = untrained.loss(*batches[0]).item(), base.config.vocab_size
print(f"first loss {loss0:.3f}; ln {V} = {math.log(V):.3f}; off by {loss0 / math.log(V) - 1:+.1%}")
assert abs(loss0 / math.log(V) - 1) <= 0.05
lesson.came_out("loss0", loss0)

# %% [markdown]
# {{exercise 03.2}}

# %% [markdown]
# ## One block
#
# A token begins as a row of the embedding: a vector of $C$ numbers, the *stream*. Each block adds
# to it twice. Attention fetches from the tokens before; the MLP works on the token alone. Both read
# the stream through an RMSNorm, $x / \sqrt{\operatorname{mean} x^2 + \varepsilon} \cdot g$.
#
# Sizes: $T$ tokens, $H$ query heads, $H_{kv}$ key and value heads, $D$ channels a head. Matrices
# are (out, in).

# %%
from minilora.lessons.l03_figure import draw_block

lesson.figure(draw_block, base.config)

# %% [markdown]
# ## The same, in NumPy
#
# Attention has $q$ (B, H, T, D) and $k, v$ (B, H_kv, T, D), each from a matrix of this layer alone.
# `rotate` turns $q$ and $k$ by an angle that grows with the place, so that $q \cdot k$ depends on
# how far apart two tokens are: $\operatorname{softmax}(q k^\top/\sqrt{D} + \text{causal})\,v$.
#
# The MLP widens a token to $F$ channels, a gate decides how much of each passes, and it is narrowed
# again: $\text{down}(\text{gate}\cdot\sigma(\text{gate})\cdot\text{up})$.
#
# At the end the stream is scored against the embedding of every token: logits (B, T, V). Here one
# array serves both ends: the head is *tied*.

# %%
from minilora import ops
from minilora.model import rotary_frequencies
from minilora.ops.rotary import rotate

c, w = base.config, base.state_dict()  # sizes; name → array


def norm(x, g):  # (B, T, C), (C,) → (B, T, C)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.rms_norm_eps) * g


def mlp(x, at):  # (B, T, C) → (B, T, C); at: the layer's name in w
    gate, up = (x @ w[f"{at}.mlp.{m}_proj.weight"].T for m in ("gate", "up"))  # (B, T, F)
    return (gate / (1 + np.exp(-gate)) * up) @ w[f"{at}.mlp.down_proj.weight"].T  # (B, T, C)


# %%
def attention(x, at):  # (B, T, C) → (B, T, C)
    B, T, _ = x.shape
    q, k, v = (x @ w[f"{at}.self_attn.{m}_proj.weight"].T for m in "qkv")  # (B, T, heads·D)
    q, k, v = (a.reshape(B, T, -1, c.D) for a in (q, k, v))  # (B, T, heads, D)
    angle = np.arange(T)[:, None, None] * rotary_frequencies(c)  # (T, 1, D/2)
    turn = np.cos(angle).astype(q.dtype), np.sin(angle).astype(q.dtype)  # (T, 1, D/2) each
    q, k = rotate(q, *turn), rotate(k, *turn)  # (B, T, heads, D)
    q, k, v = (a.transpose(0, 2, 1, 3) for a in (q, k, v))  # (B, heads, T, D)
    y = ops.attention(q, k, v).data.transpose(0, 2, 1, 3)  # (B, T, H, D)
    return y.reshape(B, T, -1) @ w[f"{at}.self_attn.o_proj.weight"].T  # (B, T, C)


# %%
def logits_of(ids):  # (B, T) → (B, T, V)
    x = w["model.embed_tokens.weight"][ids]  # (B, T, C)
    for at in (f"model.layers.{i}" for i in range(c.n_layers)):
        x = x + attention(norm(x, w[f"{at}.input_layernorm.weight"]), at)  # (B, T, C)
        x = x + mlp(norm(x, w[f"{at}.post_attention_layernorm.weight"]), at)  # (B, T, C)
    return norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T  # (B, T, V)


ids = np.array([base.tokenizer.encode("rev:abcdefgh=hgfedcba")])  # (1, T)
by_hand, library = logits_of(ids), base(ids).data  # (1, T, V) each
print("logits (B, T, V):", by_hand.shape, f"the largest is {np.abs(library).max():.1f}")
print(f"by hand and library differ by at most {np.abs(by_hand - library).max():.0e}")
assert np.allclose(by_hand, library, atol=1e-3)

# %% [markdown]
# {{exercise 03.3}}

# %% [markdown]
# ## No token sees its future
#
# Change the token at place $t$ and compare all logits, bit by bit. Places before $t$ must not
# notice; place $t$ and later ones may. If they did notice, training would hand over the answers,
# and generation, where the future is not there yet, would fail.

# %%
logits = base(ids).data  # (1, T, V)
first = []
for t in range(ids.shape[1]):
    changed = ids.copy()  # (1, T)
    changed[0, t] = base.tokenizer.encode("z")[0]  # a letter that is not in the row
    after = base(changed).data  # (1, T, V)
    assert np.array_equal(after[:, :t], logits[:, :t])
    first.append(int((after != logits).any(axis=(0, 2)).argmax()))
print("token changed at place:          ", *range(len(first)))
print("first place whose logits differ: ", *first)

# %% [markdown]
# ## The first sixty steps of a base
#
# Pretraining is nothing but this, and many more steps of it: batches of the eight skills, the
# masked loss, AdamW. The learning rate and the two averages are those the base was made with. About
# ten seconds.


# %%
def from_random(batches, steps):
    model = minilora.Transformer(base.config, seed=0)
    optimizer = minilora.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    losses = [
        minilora.train_step(model, optimizer, *batches[i], max_grad_norm=1.0) for i in range(steps)
    ]
    return model, losses


young, losses = from_random(batches, lesson.live(60))
print("every tenth loss:", *(f"{x:.2f}" for x in losses[::10]), f"… {losses[-1]:.2f}")
assert abs(losses[0] - loss0) < 1e-3 and losses[-1] < losses[0]

# %% [markdown]
# ## The same, with one mistake
#
# Now the labels are not shifted: place $t$ is asked for token $t$, which it has just read. Half as
# many steps. Which of the two losses would you rather see in a log?

# %%
trap = []
for i in range(lesson.live(30)):
    ids_i, labels = batches[i]  # (64, T) each
    itself = np.full_like(labels, -100)  # (64, T)
    itself[:, 1:] = labels[:, :-1]  # undoes the shift that the loss will make
    trap.append((ids_i, itself))
copier, its_losses = from_random(trap, len(trap))
print("every fifth loss:", *(f"{x:.3f}" for x in its_losses[::5]), f"… {its_losses[-1]:.3f}")
assert its_losses[0] < math.log(V)  # tied: a token's vector scores high against itself
assert its_losses[-1] < losses[len(trap) - 1]

# %%
tok, question = base.tokenizer, "rev:abcdefgh="
answers = {}
for who, model in (("the base", base), ("right labels", young), ("unshifted", copier)):
    said = minilora.generate(model, [tok.encode(question)], 9, stop=tok.stop_ids)[0]
    answers[who] = tok.decode(said)
    print(f"{who:13} {question}{answers[who]}")
lower = "lower" if its_losses[-1] < losses[-1] else "higher"
copies = "one letter, again and again" if len(set(answers["unshifted"])) == 1 else "letters"
print(f"unshifted labels: the loss is {lower}, the answer is {copies}")

# %% [markdown]
# ## What can it do?
#
# Strings that were in no training set, every skill, and beside the base the untrained model. A
# third party is only computed: a guesser who knows how long the answer is and draws its letters at
# random.

# %%
from minilora.lessons.l03_figure import chance, draw_skills

rows = []
for skill in (*skills.OLD, missing):
    tests = skills.examples(skill, "test", 500)
    row = {"skill": skill.name, "new": skill is missing, "n": 500, "chance": chance(tests)}
    for who, model in (("base", base), ("untrained", untrained)):
        row[who] = round(500 * minilora.exact_match(model, tests))  # how many of 500
    rows.append(row)
for r in rows:
    print(f"{r['skill']:16} base {r['base']} of {r['n']}, untrained {r['untrained']}")

# %%
assert all(r["base"] >= 0.98 * r["n"] for r in rows if not r["new"])
assert rows[-1]["new"] and rows[-1]["base"] <= 0.05 * rows[-1]["n"]
table = [["skill", "base", "untrained", "of", "chance"]]
table += [[r["skill"], r["base"], r["untrained"], r["n"], r["chance"]] for r in rows]
lesson.figure(draw_skills, rows, table=table)
lesson.came_out("new", 100 * rows[-1]["base"] / rows[-1]["n"])

# %%
questions = skills.rows(missing, "test", 500)  # it does not refuse: what does it say?
prompts = [tok.encode(q["prompt"]) for q in questions]
said = [tok.decode(a) for a in minilora.generate(base, prompts, 9, stop=tok.stop_ids)]
for q, a in list(zip(questions, said, strict=True))[:4]:
    print(f"{q['prompt']}{a:10} right: {q['completion']}")
ended = sum(len(a) < 9 for a in said)  # 9 tokens were allowed
right = sum(a == q["completion"] for q, a in zip(questions, said, strict=True))
print(f"of {len(said)} answers {ended} come to an end, {right} are right:")
print("the form of an answer without its content" if ended > 10 * right else "more than the form")

# %% [markdown]
# ## The same class, from here to eight billion
#
# Nothing in this block knows how large it is. Here is the formula of lesson 01, with $e = 1$ for a
# tied head and $2$ for two arrays:
#
# $$P = eVC + L\,(2C^2 + 2CC_{kv} + 3CF + 2C) + C$$
#
# It is held against the arrays that the library's own class asks for at published sizes: shapes
# only, no memory.
#
# Then the workshops: has every block matrices of its own? And the tied head: used twice, how many
# arrays and gradients?

# %%
from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import preset

for name in ("skills", "smollm2-135m", "llama-3-8b"):
    m = preset(name)
    C, L, C_kv, F = m.hidden_size, m.n_layers, m.K * m.D, m.intermediate_size
    ends = m.vocab_size * C * (1 if m.tie_word_embeddings else 2)
    formula = ends + L * (2 * C**2 + 2 * C * C_kv + 3 * C * F + 2 * C) + C
    counted = sum(array.size for array in arrays(m, Method()))
    print(f"{name:13} {L:2d} blocks, {counted:13,} parameters, formula {formula:13,}")
    assert counted == formula
assert counted == 8_030_261_248  # Llama-3-8B, the last of the three

# %%
from minilora.training import loss_and_gradients

layers = base.model.layers
own = {id(getattr(b.self_attn, f"{m}_proj").weight) for b in layers for m in "qkv"}
_, gradients = loss_and_gradients(base, *batches[0])
E = base.model.embed_tokens.weight  # (V, C)
verdict = "confirmed" if len(own) == 3 * len(layers) else "not here"
print(f"{len(layers)} blocks, {len(own)} matrices for q, k, v; each block its own: {verdict}")
print("head and embedding are one array:", base.lm_head.weight is E)
print("arrays:", len(base.state_dict()), " gradients:", len(gradients))  # the head has none apart
assert E in gradients and len(gradients) == len(base.state_dict())

# %% [markdown]
# {{quiz}}

# %% [markdown]
# {{closing}}
