# %% [markdown]
# {{opening}}

# %% [markdown]
# ## How a lesson goes
#
# 1. A question, and what is usually taught about it.
# 2. **Your guess**, in the place of `None`. Nobody counts it; a guess makes you see what surprises you.
# 3. A derivation with shapes, a run, one figure.
# 4. Your guess beside the result, and why the usual wrong guess tempts.
# 5. **Exercises.** You write a function in the place of the three dots. The check meets a mistake with a question, then with the
#    place to look at, then with a solution.
# 6. A quiz, and what the lesson did not show.
#
# Run a cell with Shift+Enter. Nothing breaks if you skip one: later cells use the library, not your functions.
#
# <div lang="zh">
#
# 每一课：先是问题和通常的说法；**先猜**（把 `None` 换成你的猜测）；带形状的推导、运行、一张图；把猜测和结果放在一起；**练习**
# （在省略号处写一个函数，检查会先提问，再指出位置，最后给出答案）；小测验；以及本课没有展示的内容。按 Shift+Enter 运行一个单元格。
# 跳过任何一个都没关系：后面的单元格用的是库，不是你写的函数。
#
# </div>

# %% [markdown]
# ## Is everything there?

# %%
from minilora.lessons import overview

print("\n".join(overview.environment()))

# %% [markdown]
# ## The map
#
# One story: the bill, how a gradient travels, a generalist, what tuning it costs and forgets, whether the change is small, the
# small patch, its knobs, the verdict. **One evening?** 00, 01, 06, 08.
#
# <div lang="zh">
#
# 一条线索：账单，梯度怎样走，一个通才，微调它的代价与遗忘，改变量是不是“小”，那块小补丁，它的旋钮，最后的结论。**只有一个晚上？**
# 00、01、06、08。
#
# </div>

# %%
for row in overview.lessons():
    print(f"{row['number']}  {row['minutes']:3d} min  {row['question']}")

# %% [markdown]
# ## How far you are
#
# Your guesses, exercises and quizzes are kept in a file on this machine, and nowhere else. `minilora lessons reset` forgets them.

# %%
from IPython.display import Markdown, display

display(Markdown(overview.table(markdown=True)))
print(overview.next_step())

# %% [markdown]
# ## The main thing, in five lines
#
# A frozen base, a thin pair beside two of its matrices in every layer, and how many numbers are trained.

# %%
import minilora

base = minilora.load_base("skills")
tokens = base.tokenizer.encode("rev:abcdefgh=")  # reverse this string
answer = minilora.generate(base, [tokens], 9, stop=base.tokenizer.stop_ids)[0]
print(base.tokenizer.decode(answer))
model = minilora.get_peft_model(base, minilora.LoraConfig(r=8, lora_alpha=16))
model.print_trainable_parameters()

# %% [markdown]
# {{closing}}
