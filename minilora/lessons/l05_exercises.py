"""Exercises of lesson 05: cutting a matrix to k directions, counting them, comparing them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.lessons.content import Both, Exercise, Wrong

Case = tuple[Any, ...]


def _cut_cases(rng: np.random.Generator) -> list[Case]:
    return [(rng.normal(size=shape), k) for shape, k in (((5, 8), 2), ((7, 4), 3), ((6, 6), 1))] + [
        (rng.normal(size=(4, 6)), 4)
    ]


def _cut(M: Any, k: int) -> Any:
    """M, looking only along the strongest k eigenvectors of MᵀM; no singular value is touched."""
    _, vectors = np.linalg.eigh(M.T @ M)  # weakest first
    strongest = vectors[:, ::-1][:, :k]
    return M @ strongest @ strongest.T


def _cut_code(result: str) -> str:
    return f"""
def truncate(M, k):
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    return {result}
"""


TRUNCATE = Exercise(
    number="05.1",
    name="truncate",
    title=Both("cut to k directions", "截断到 k 个方向"),
    task=Both(
        "From M (out, in) make M_k (out, in), the sum of its k strongest terms σᵢ uᵢ vᵢᵀ. "
        "`np.linalg.svd(M, full_matrices=False)` gives U (out, n), s (n,) and Vᵀ (n, in), the "
        "strongest first, where n is the smaller side.",
        "由 M (out, in) 得到 M_k (out, in)，即最强的 k 项 σᵢ uᵢ vᵢᵀ 之和。"
        "`np.linalg.svd(M, full_matrices=False)` 给出 U (out, n)、s (n,) 和 Vᵀ (n, in)，"
        "按从强到弱排列，n 是较短的一边。",
    ),
    pointer=Both(
        "The first k columns of U, each times its σ, then the first k rows of Vᵀ: "
        "(out, k) @ (k, in). `U[:, :k] * s[:k]` scales column by column.",
        "U 的前 k 列各乘自己的 σ，再乘 Vᵀ 的前 k 行：(out, k) @ (k, in)。"
        "`U[:, :k] * s[:k]` 会逐列缩放。",
    ),
    stub='''
def truncate(M, k):
    """M_k (out, in)"""
    return ...
''',
    solution='''
def truncate(M, k):
    """M_k (out, in)"""
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    return (U[:, :k] * s[:k]) @ Vt[:k]
''',
    another="""
def truncate(M, k):
    U, s, Vt = np.linalg.svd(M)
    return sum((s[i] * np.outer(U[:, i], Vt[i]) for i in range(k)), np.zeros(M.shape))
""",
    wrong=(
        Wrong(
            _cut_code("(U[:, :k] * s[:k]) @ Vt[:, :k].T"),
            Both(
                "What is the third result of numpy's svd: V, or Vᵀ? In which way do the vᵢ lie "
                "there?",
                "numpy 的 svd 返回的第三个是 V 还是 Vᵀ？那么各个 vᵢ 是横着放还是竖着放？",
            ),
        ),
        Wrong(
            _cut_code("(U[:, len(s) - k:] * s[len(s) - k:]) @ Vt[len(s) - k:]"),
            Both(
                "The squared error is the sum of those σᵢ² that you leave out. Which are better "
                "left out?",
                "误差的平方等于被舍去的那些 σᵢ² 之和。舍去哪些才好？",
            ),
        ),
        Wrong(
            _cut_code("U[:, :k] @ Vt[:k]"),
            Both(
                "uᵢ and vᵢ have length one. Where does the length of each term come from?",
                "uᵢ 和 vᵢ 的长度都是一。每一项的大小从哪里来？",
            ),
        ),
    ),
    cases=_cut_cases,
    reference=_cut,
    tolerance=1e-10,
    difficulty=1,
    minutes=6,
    core=True,
)

# How fast the singular values of a made-up change fall, and the share that is asked for.
_FALLS = (((12, 20), 0.8, 0.9), ((20, 9), 0.7, 0.5), ((16, 16), 0.9, 0.9), ((14, 10), 0.6, 0.99))


def _energy_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for (n_out, n_in), fall, share in _FALLS:
        n = min(n_out, n_in)
        U, V = (np.linalg.qr(rng.normal(size=(d, n)))[0] for d in (n_out, n_in))
        change = (U * fall ** np.arange(n)) @ V.T
        W = 3 * rng.normal(size=(n_out, n_in))
        cases.append((W, W + change, share))
    return cases


def _energy_rank(W: Any, W_new: Any, share: float) -> int:
    """By eigenvalues of ΔW ΔWᵀ, taken one after the other."""
    D = W_new - W
    left = sorted(np.linalg.eigvalsh(D @ D.T), reverse=True)
    held, wanted = 0.0, share * float((D * D).sum())
    for n, value in enumerate(left, 1):
        held += value
        if held >= wanted:
            return n
    return len(left)


def _energy_code(of: str = "W_new - W", held: str = "np.cumsum(s**2)", plus: str = " + 1") -> str:
    return f"""
def energy_rank(W, W_new, share=0.9):
    s = np.linalg.svd({of}, compute_uv=False)
    held = {held}
    return int(np.argmax(held >= share * held[-1])){plus}
"""


ENERGY = Exercise(
    number="05.2",
    name="energy_rank",
    title=Both("how many directions hold 90 %", "多少个方向含有 90 %"),
    task=Both(
        "A matrix W (out, in) has become W_new. How many of the strongest directions of its change "
        "are needed, at the least, to hold `share` of the change's energy, the sum of all σ²? "
        "A whole number.",
        "矩阵 W (out, in) 变成了 W_new。至少要用改变量的多少个最强方向，才能含有它的能量"
        "（全部 σ² 之和）的 `share`？结果是整数。",
    ),
    pointer=Both(
        "σ of W_new − W; `np.cumsum` of σ² says what the first 1, 2, … hold; the first index "
        "at which that is at least share · Σσ² counts from 0.",
        "取 W_new − W 的 σ；`np.cumsum` 作用于 σ²，得到前 1、2、… 个方向的能量；"
        "第一个不小于 share · Σσ² 的下标是从 0 数起的。",
    ),
    stub='''
def energy_rank(W, W_new, share=0.9):
    """A whole number"""
    return ...
''',
    solution='''
def energy_rank(W, W_new, share=0.9):
    """A whole number"""
    s = np.linalg.svd(W_new - W, compute_uv=False)  # (min(out, in),), falling
    held = np.cumsum(s**2)
    return int(np.argmax(held >= share * held[-1])) + 1
''',
    another="""
def energy_rank(W, W_new, share=0.9):
    squares = np.linalg.svd(W_new - W)[1] ** 2
    k = 0
    while squares[:k].sum() < share * squares.sum():
        k += 1
    return k
""",
    wrong=(
        Wrong(
            _energy_code(held="np.cumsum(s)"),
            Both(
                "Σσ is another sum. Which one equals the sum of the squares of all entries?",
                "Σσ 是另一个和。哪一个和等于所有元素的平方和？",
            ),
        ),
        Wrong(
            _energy_code(plus=""),
            Both(
                "With so many directions, is the share reached, or is one still missing?",
                "用这么多个方向，份额已经达到，还是差一个？",
            ),
        ),
        Wrong(
            _energy_code(of="W_new"),
            Both(
                "Those are directions of the tuned matrix. Whose change is asked for?",
                "这是微调之后的矩阵的方向。问的是谁的改变？",
            ),
        ),
        Wrong(
            "def energy_rank(W, W_new, share=0.9):\n"
            "    return int(np.linalg.matrix_rank(W_new - W))",
            Both(
                "This counts every σ that is not zero. Should one that is a thousandth of the "
                "first count as much as the first?",
                "这里数的是所有不为零的 σ。一个只有第一个千分之一大的 σ，也算一整个吗？",
            ),
        ),
    ),
    cases=_energy_cases,
    reference=_energy_rank,
    tolerance=0,
    difficulty=1,
    minutes=6,
    core=True,
    catches=("M16",),
)


def _overlap_cases(rng: np.random.Generator) -> list[Case]:
    cases = [
        (rng.normal(size=a), rng.normal(size=b), i, j)
        for a, b, i, j in (
            ((4, 12), (7, 12), 2, 5),
            ((5, 9), (5, 9), 4, 2),
            ((6, 6), (6, 6), 3, 3),
            ((3, 10), (8, 10), 1, 8),
        )
    ]
    same = rng.normal(size=(4, 11))
    return [*cases, (same, same, 2, 4)]


def _overlap(A1: Any, A2: Any, i: int, j: int) -> float:
    """By projectors onto both spaces: the trace of their product."""

    def onto(A: Any, n: int) -> Any:
        strongest = np.linalg.eigh(A.T @ A)[1][:, ::-1][:, :n]
        return strongest @ strongest.T

    return float(np.trace(onto(A1, i) @ onto(A2, j))) / min(i, j)


def _overlap_code(
    V1: str = "np.linalg.svd(A1, full_matrices=False)[2][:i]",
    V2: str = "np.linalg.svd(A2, full_matrices=False)[2][:j]",
    result: str = "((V1 @ V2.T) ** 2).sum() / min(i, j)",
) -> str:
    return f"""
def overlap(A1, A2, i, j):
    V1 = {V1}
    V2 = {V2}
    return {result}
"""


OVERLAP = Exercise(
    number="05.3",
    name="overlap",
    title=Both("do two matrices use the same directions?", "两个矩阵用的是同样的方向吗？"),
    task=Both(
        "For A1 (r1, d) and A2 (r2, d) find φ = ‖V₁ V₂ᵀ‖² / min(i, j), where the rows of V₁ (i, d) "
        "are the i strongest directions in the input of A1, its first right singular vectors, and "
        "V₂ (j, d) holds the j strongest of A2. ‖·‖² is the sum of the squares of all entries.",
        "对 A1 (r1, d) 和 A2 (r2, d)，求 φ = ‖V₁ V₂ᵀ‖² / min(i, j)。V₁ (i, d) 的各行是 A1 "
        "在输入一侧最强的 i 个方向，也就是最前面的右奇异向量；V₂ (j, d) 是 A2 最强的 j 个。"
        "‖·‖² 是所有元素的平方和。",
    ),
    pointer=Both(
        "`np.linalg.svd(A1, full_matrices=False)[2][:i]` has orthonormal rows (i, d). Of the "
        "product (i, j) of both take the squares, add them up, divide by the smaller number.",
        "`np.linalg.svd(A1, full_matrices=False)[2][:i]` 的各行 (i, d) 是标准正交的。"
        "把两者之积 (i, j) 逐个平方，求和，再除以较小的那个数。",
    ),
    stub='''
def overlap(A1, A2, i, j):
    """A number from 0 to 1"""
    return ...
''',
    solution='''
def overlap(A1, A2, i, j):
    """A number from 0 to 1"""
    V1 = np.linalg.svd(A1, full_matrices=False)[2][:i]  # (i, d)
    V2 = np.linalg.svd(A2, full_matrices=False)[2][:j]  # (j, d)
    return ((V1 @ V2.T) ** 2).sum() / min(i, j)
''',
    another="""
def overlap(A1, A2, i, j):
    V1, V2 = (np.linalg.svd(A)[2][:n].T for A, n in ((A1, i), (A2, j)))
    cosines = np.linalg.svd(V1.T @ V2, compute_uv=False)
    return np.sum(cosines**2) / min(i, j)
""",
    wrong=(
        Wrong(
            _overlap_code("A1[:i]", "A2[:j]"),
            Both(
                "The rows of A are neither of length one nor at right angles. What happens to φ "
                "if A1 is doubled? It should stay.",
                "A 的各行长度不是一，彼此也不垂直。把 A1 加倍，φ 会怎样？它应当不变。",
            ),
        ),
        Wrong(
            _overlap_code(
                "np.linalg.qr(A1[:i].T)[0].T",
                "np.linalg.qr(A2[:j].T)[0].T",
            ),
            Both(
                "Orthonormal, yes. But are the first rows of A its strongest directions?",
                "确实是标准正交的。但 A 的前几行就是它最强的方向吗？",
            ),
        ),
        Wrong(
            _overlap_code(result="((V1 @ V2.T) ** 2).sum() / max(i, j)"),
            Both(
                "Take a space and a larger one in which it lies wholly: is φ one, here?",
                "取一个空间，以及完全包含它的更大的空间：这里的 φ 是一吗？",
            ),
        ),
        Wrong(
            _overlap_code(result="np.linalg.norm(V1 @ V2.T) / min(i, j)"),
            Both(
                "`norm` takes a root at the end. Is there a root in ‖·‖²?",
                "`norm` 最后开了平方根。‖·‖² 里有根号吗？",
            ),
        ),
    ),
    cases=_overlap_cases,
    reference=_overlap,
    difficulty=2,
    minutes=10,
    catches=("M18",),
)
