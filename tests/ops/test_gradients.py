"""What holds of every operation, on the inputs that `minilora gradcheck` takes."""

import inspect
import itertools

import numpy as np
import pytest

import minilora.ops
from minilora.autograd import Function, Tensor, backward, no_grad, tape
from minilora.errors import ConfigError
from minilora.ops.examples import checked_operations, examples

EXAMPLES = examples()
NAMES = [f"{e.op}({','.join(e.inputs)})" for e in EXAMPLES]
every_operation = pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)


def wanting(e, dtype=np.float64, wanted=None, seed=0):
    """The example's inputs as tensors, those in `wanted` (None: all) trainable."""
    wanted = set(e.inputs) if wanted is None else wanted
    arrays = [a.astype(dtype) for a in e.arrays(seed)]
    pairs = zip(e.inputs, arrays, strict=True)
    return [Tensor(a, requires_grad=name in wanted) for name, a in pairs]


def upstream(y, seed=0):
    return np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)


def gradients_of(y):
    """The gradients of the trainable leaves, in the order in which the tape meets them."""
    return list(backward(y, upstream(y)).values())


def combinations(e):
    """Every way in which some of the inputs are trainable and the others frozen."""
    sizes = range(1, len(e.inputs) + 1)
    return [set(c) for n in sizes for c in itertools.combinations(e.inputs, n)]


@every_operation
@pytest.mark.parametrize("seed", [0, 1])
def test_every_element_of_every_gradient(example, seed):
    report = example.check(seed=seed)
    assert [c.name for c in report.inputs] == list(example.inputs)
    assert report.max_error <= 1e-7, f"\n{report}"
    assert report.ok


@every_operation
def test_random_projections(example):
    """vᵀ J u along random v and u, at twenty random places, against a central difference."""
    h = 1e-5
    for seed in range(20):
        rng = np.random.default_rng(1000 + seed)
        leaves = wanting(example, seed=seed)
        y = example.function(*leaves)
        v = rng.standard_normal(y.shape)
        grads = backward(y, v)
        u = {x: rng.standard_normal(x.shape) for x in leaves}
        with no_grad():
            above = example.function(*(Tensor(x.data + h * d) for x, d in u.items()))
            below = example.function(*(Tensor(x.data - h * d) for x, d in u.items()))
        numeric = float(((above.data - below.data) * v).sum() / (2 * h))
        analytic = sum(float((grads[x] * d).sum()) for x, d in u.items())
        error = abs(analytic - numeric) / max(1e-8, abs(analytic) + abs(numeric))
        assert error <= 1e-6, f"seed {seed}: backward {analytic}, measured {numeric}"


@every_operation
def test_a_zero_gradient_from_above_gives_exactly_zero(example):
    leaves = wanting(example)
    y = example.function(*leaves)
    grads = backward(y, np.zeros(y.shape))
    for x in leaves:
        assert not grads[x].any() and grads[x].shape == x.shape


@every_operation
def test_two_fresh_backwards_are_equal_to_the_bit(example):
    first, second = (gradients_of(example.function(*wanting(example))) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes()


@every_operation
def test_neither_forward_nor_backward_writes_into_what_it_is_given(example):
    leaves = wanting(example)
    before = [x.data.copy() for x in leaves]
    y = example.function(*leaves)
    result, v = y.data.copy(), upstream(y)
    backward(y, v)
    assert np.array_equal(v, upstream(y))
    assert np.array_equal(y.data, result)
    for x, a in zip(leaves, before, strict=True):
        assert np.array_equal(x.data, a)


def computes_in(dtype):
    """Examples that bring a float64 constant along cannot be given another type."""
    return [
        pytest.param(e, id=name)
        for e, name in zip(EXAMPLES, NAMES, strict=True)
        if dtype == np.float64 or e.op not in ("rotary", "lora_linear")
    ]


@pytest.mark.parametrize("example", computes_in(np.float32))
def test_in_float32_everything_stays_float32(example):
    leaves = wanting(example, np.float32)
    y = example.function(*leaves)
    assert y.dtype == np.float32
    for op in tape(y):
        for name, a in vars(op.saved).items():
            assert a.dtype.kind != "f" or a.dtype == np.float32, name
    grads = backward(y, upstream(y))
    exact = dict(zip(leaves, wanting(example), strict=True))
    double = example.function(*exact.values())
    right = backward(double, upstream(y).astype(np.float64))
    for x in leaves:
        assert (grads[x].dtype, grads[x].shape) == (np.float32, x.shape)
        assert np.allclose(grads[x], right[exact[x]], rtol=1e-4, atol=1e-4)


@every_operation
def test_nothing_is_kept_that_no_wanted_gradient_needs(example):
    """Spoil each kept array in turn: every time, some wanted gradient must suffer for it."""
    for wanted in combinations(example):
        y = example.function(*wanting(example, wanted=wanted))
        kept = [(i, name) for i, op in enumerate(tape(y)) for name in vars(op.saved)]
        for i, name in kept:
            y = example.function(*wanting(example, wanted=wanted))
            op = list(tape(y))[i]
            array = getattr(op.saved, name)
            if array.dtype.kind == "f":
                setattr(op.saved, name, np.full_like(array, np.nan))
                suffers = any(np.isnan(g).any() for g in gradients_of(y))
            else:
                delattr(op.saved, name)
                with pytest.raises(AttributeError, match=name):
                    gradients_of(y)
                suffers = True
            assert suffers, f"{wanted} are trained, and {type(op).__name__} keeps {name} for none"


@every_operation
def test_without_a_wanted_gradient_nothing_is_kept_at_all(example, monkeypatch):
    kept = []
    save = Function.save

    def watch(ctx, **arrays):
        save(ctx, **arrays)
        kept.extend(vars(ctx.saved))

    monkeypatch.setattr(Function, "save", watch)
    assert example.function(*wanting(example, wanted=set())).node is None
    with no_grad():
        assert example.function(*wanting(example)).node is None
    assert kept == []


@every_operation
def test_what_is_kept_goes_through_the_one_door(example):
    """Shapes and axes may stand on the context itself; arrays of floats may not."""
    for op in tape(example.function(*wanting(example))):
        beside = [v for name, v in vars(op).items() if name != "saved"]
        arrays = [a for v in beside for a in (v if isinstance(v, tuple | list) else [v])]
        assert not any(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in arrays)


@every_operation
def test_a_gradient_that_is_not_wanted_is_not_computed(example):
    """Its place holds None, or a view into what came from above, which costs nothing."""

    def watch(op):
        backward_of_op = op.backward

        def watched(dy):
            made = backward_of_op(dy)
            for edge, d in zip(op.edges, made if isinstance(made, tuple) else (made,), strict=True):
                assert (d is None) == (edge is None) or np.shares_memory(d, dy)
            return made

        op.backward = watched

    for wanted in combinations(example):
        leaves = wanting(example, wanted=wanted)
        y = example.function(*leaves)
        for op in tape(y):
            watch(op)
        assert set(backward(y, upstream(y))) == {x for x in leaves if x.requires_grad}


@every_operation
def test_what_was_kept_is_let_go_by_backward(example):
    y = example.function(*wanting(example))
    every = list(tape(y))
    backward(y, upstream(y))
    assert not any(isinstance(a, np.ndarray) for op in every for a in vars(op.saved).values())


def functions_of(package):
    """Every operation's class that a package defines; those with an underscore are only bases."""
    found, waiting = set(), [Function]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            waiting.append(cls)
            if cls.__module__.startswith(package.__name__) and not cls.__name__.startswith("_"):
                found.add(cls)
    return found


def test_every_operation_has_an_example():
    assert functions_of(minilora.ops) == checked_operations()


def test_every_function_of_the_room_has_an_example_of_its_name():
    public = {n for n in minilora.ops.__all__ if inspect.isroutine(getattr(minilora.ops, n))}
    assert public - {"count_targets"} == {e.op for e in EXAMPLES} - {"slice"}


def test_examples_are_chosen_by_name():
    assert [e.op for e in examples(["linear", "exp"])] == ["exp", "linear", "linear"]
    with pytest.raises(ConfigError, match=r"'expp'; there are: add, attention, .*transpose"):
        examples(["exp", "expp"])
