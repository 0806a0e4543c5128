"""AdamW against its formula and PyTorch's, clipping, and the schedules against their formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.autograd import Parameter
from minilora.errors import ConfigError
from minilora.optim import AdamW, Schedule, clip_gradients, global_norm


def parameter(*shape, seed=0, dtype=np.float64):
    return Parameter(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


# -- AdamW


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_first_step_in_closed_form(weight_decay):
    """With m̂ = g and v̂ = g², a number moves by lr g / (|g| + ε), besides the decay."""
    p, lr, eps = parameter(5, 4), 0.01, 1e-3
    before, g = p.data.copy(), np.random.default_rng(1).standard_normal((5, 4))
    AdamW([p], lr=lr, eps=eps, weight_decay=weight_decay).step({p: g})
    expected = before * (1 - lr * weight_decay) - lr * g / (np.abs(g) + eps)
    np.testing.assert_allclose(p.data, expected, rtol=0, atol=1e-15)


def test_a_gradient_of_zero_moves_nothing_but_decay_does():
    p, q = parameter(3), parameter(3)
    before = p.data.copy()
    AdamW([p], lr=0.1).step({p: np.zeros(3)})
    assert np.array_equal(p.data, before)
    AdamW([q], lr=0.1, weight_decay=0.5).step({q: np.zeros(3)})
    np.testing.assert_allclose(q.data, before * 0.95, rtol=0, atol=1e-15)


SETTINGS = {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.01}


@pytest.mark.parametrize(
    "groups",
    [
        [{}],
        [{"weight_decay": 0.1}, {"lr": 1e-2, "betas": (0.9, 0.98)}, {"weight_decay": 0.0}],
    ],
)
def test_fifty_steps_equal_pytorchs(groups):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (7,), (2, 3, 2)]
    ours = [parameter(*shape, seed=i) for i, shape in enumerate(shapes)]
    theirs = [torch.nn.Parameter(torch.tensor(p.data.copy())) for p in ours]

    def grouped(parameters):
        parts = [parameters[i :: len(groups)] for i in range(len(groups))]
        return [{"params": part, **group} for part, group in zip(parts, groups, strict=True)]

    optimizer = AdamW(grouped(ours), **SETTINGS)
    reference = torch.optim.AdamW(grouped(theirs), **SETTINGS)
    cosine = Schedule("cosine", 50, warmup=5, final=0.1)
    for step in range(50):
        cosine.apply(optimizer, step)
        for group, other in zip(optimizer.groups, reference.param_groups, strict=True):
            other["lr"] = group["lr"]
        for p, q in zip(ours, theirs, strict=True):
            g = rng.standard_normal(p.shape) * 10.0 ** rng.integers(-6, 3)
            p.grad, q.grad = g, torch.tensor(g)
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=0, atol=1e-12)
        state = reference.state[q]
        np.testing.assert_allclose(optimizer.m[p], state["exp_avg"].numpy(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            optimizer.v[p], state["exp_avg_sq"].numpy(), rtol=1e-12, atol=1e-15
        )


def test_gradients_given_and_gradients_kept_do_the_same():
    p, q = parameter(6), parameter(6)
    given, kept = AdamW([p], lr=0.1), AdamW([q], lr=0.1)
    for step in range(3):
        g = parameter(6, seed=step).data
        given.step({p: g})
        q.grad = g.copy()
        kept.step()
        assert p.grad is None
        assert np.array_equal(q.grad, g)
    assert np.array_equal(p.data, q.data)
    kept.zero_grad()
    assert q.grad is None


def test_a_step_writes_into_no_gradient():
    p = parameter(6)
    g = parameter(6, seed=1).data
    before = g.copy()
    AdamW([p], lr=0.1, weight_decay=0.1).step({p: g})
    assert np.array_equal(g, before)


def test_only_those_with_a_gradient_move():
    p, q = parameter(3), parameter(4)
    before = q.data.copy()
    optimizer = AdamW([p, q], lr=0.1)
    optimizer.step({p: np.ones(3)})
    assert np.array_equal(q.data, before)
    assert not optimizer.m[q].any()
    assert optimizer.m[p].all()


def test_state_is_held_for_what_is_trained_and_for_nothing_else():
    trained, frozen = parameter(3, 4), parameter(100, 100)
    frozen.requires_grad = False
    optimizer = AdamW([frozen, trained])
    assert set(optimizer.m) == set(optimizer.v) == {trained}
    assert optimizer.parameters() == [trained]
    assert optimizer.state_bytes == 2 * 3 * 4 * 8
    assert set(optimizer.state_dict()) == {"t", "m.0", "v.0"}
    assert optimizer.m[trained].dtype == np.float64
    assert AdamW([parameter(2, dtype=np.float32)]).state_bytes == 16


def test_it_stays_in_float32():
    p = parameter(5, dtype=np.float32)
    optimizer = AdamW([p], lr=0.1, weight_decay=0.1)
    optimizer.step({p: np.ones(5, np.float32)})
    assert p.dtype == optimizer.m[p].dtype == optimizer.v[p].dtype == np.float32


def test_many_large_parameters_move_as_they_would_alone(threads):
    """Above a million numbers the parameters are shared out to threads."""
    arrays = [np.random.default_rng(i).standard_normal((300, 500)) for i in range(8)]
    results = []
    for n in (1, 2, 3):
        threads(n)
        parameters = [Parameter(array.copy()) for array in arrays]
        optimizer = AdamW(parameters, lr=0.1)
        for _ in range(2):
            optimizer.step({p: p.data.copy() for p in parameters})
        results.append(np.concatenate([p.data for p in parameters]))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_a_saved_state_goes_on_bit_for_bit():
    p, q = parameter(5), parameter(5)
    straight, stopped = AdamW([p], lr=0.1), AdamW([q], lr=0.1)
    gradients = [parameter(5, seed=i).data for i in range(1, 7)]
    for g in gradients:
        straight.step({p: g})
    for g in gradients[:3]:
        stopped.step({q: g})
    state = {name: array.copy() for name, array in stopped.state_dict().items()}
    resumed = AdamW([q], lr=0.1)
    resumed.load_state_dict(state)
    for g in gradients[3:]:
        resumed.step({q: g})
    assert np.array_equal(p.data, q.data)
    assert resumed.t == 6


def test_the_state_of_other_parameters_is_refused_and_changes_nothing():
    optimizer = AdamW([parameter(5)])
    for other in (AdamW([parameter(4)]), AdamW([parameter(5), parameter(2)])):
        other.step({p: np.ones(p.shape) for p in other.parameters()})
        with pytest.raises(ConfigError, match="other parameters"):
            optimizer.load_state_dict(other.state_dict())
        assert optimizer.t == 0
        assert not any(m.any() for m in optimizer.m.values())


@pytest.mark.parametrize("nothing", [[], [{"params": []}], "frozen"])
def test_nothing_to_train_is_an_error_that_says_what_to_do(nothing):
    if nothing == "frozen":
        p = parameter(2)
        p.requires_grad = False
        nothing = [p]
    with pytest.raises(ConfigError, match=r"nothing is trainable.*get_peft_model.*requires_grad"):
        AdamW(nothing)


def test_a_parameter_that_is_given_twice_is_refused():
    p = parameter(2)
    for twice in ([p, p], [{"params": [p]}, {"params": [p], "lr": 0.1}]):
        with pytest.raises(ConfigError, match="twice"):
            AdamW(twice)


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"lr": 0}, "above 0"),
        ({"lr": -1e-3}, "above 0"),
        ({"lr": math.nan}, "above 0"),
        ({"lr": math.inf}, "finite"),
        ({"betas": (1.0, 0.9)}, r"in \[0, 1\)"),
        ({"betas": (0.9, -0.1)}, r"in \[0, 1\)"),
        ({"betas": (math.nan, 0.9)}, r"in \[0, 1\)"),
        ({"eps": 0}, "above 0"),
        ({"weight_decay": -0.1}, "0 or more"),
        ({"weight_decay": math.nan}, "0 or more"),
    ],
)
def test_settings_outside_of_what_is_allowed(setting, allowed):
    with pytest.raises(ConfigError, match=allowed):
        AdamW([parameter(2)], **setting)
    with pytest.raises(ConfigError, match=allowed):
        AdamW([{"params": [parameter(2)], **setting}])


# -- clipping


def gradients_of(*arrays):
    return {Parameter(np.zeros_like(a)): a for a in arrays}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 7.5])
def test_clipped_norm_is_at_most_what_was_asked_for(dtype, max_norm):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((30, 20), (500,), (1,))]
    clipped = gradients_of(*arrays)
    norm = clip_gradients(clipped, max_norm)
    flat = np.concatenate([a.ravel() for a in arrays]).astype(np.float64)
    assert norm == pytest.approx(np.linalg.norm(flat), rel=1e-6)
    after = np.concatenate([a.ravel() for a in clipped.values()]).astype(np.float64)
    assert np.linalg.norm(after) <= max_norm * (1 + 1e-6)
    assert np.linalg.norm(after) >= max_norm * (1 - 1e-6)
    np.testing.assert_allclose(after / max_norm, flat / np.linalg.norm(flat), rtol=1e-5)
    assert all(a.dtype == dtype for a in clipped.values())


@pytest.mark.parametrize("fill", ["normal", "positive", "equal"])
def test_clipping_is_as_exact_for_millions_of_numbers(fill):
    """A sum in float32 over as many numbers as an embedding of a real model has would drift."""
    rng = np.random.default_rng(0)
    shape = (2000, 1500)
    array = {"normal": rng.standard_normal, "positive": rng.random}.get(
        fill, lambda size: np.full(size, 0.1)
    )(shape).astype(np.float32)
    clipped = gradients_of(array)
    norm = clip_gradients(clipped, 1.0)
    exact = math.sqrt(float((array.astype(np.float64) ** 2).sum()))
    assert norm == pytest.approx(exact, rel=1e-6)
    (after,) = clipped.values()
    assert math.sqrt(float((after.astype(np.float64) ** 2).sum())) <= 1 + 1e-6


def test_small_gradients_are_left_as_they_are():
    small = np.array([0.3, -0.4])
    given = gradients_of(small)
    assert clip_gradients(given, 0.5) == 0.5
    assert next(iter(given.values())) is small


def test_clipping_writes_into_no_gradient():
    g = np.array([3.0, 4.0])
    clip_gradients(gradients_of(g), 1.0)
    assert g.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("max_norm", [0, -1.0, math.nan])
def test_a_norm_that_nothing_can_have(max_norm):
    with pytest.raises(ConfigError, match=r"max_norm .* must be above 0"):
        clip_gradients(gradients_of(np.ones(2)), max_norm)


def test_global_norm_is_that_of_one_long_vector():
    assert global_norm([np.array([[2.0]]), np.array([3.0, 6.0])]) == 7.0
    assert global_norm([]) == 0.0


# -- schedules


@given(
    st.sampled_from(["cosine", "linear", "constant"]),
    st.integers(1, 400),
    st.data(),
)
def test_schedules_follow_their_formulas(kind, total, data):
    warmup = data.draw(st.integers(0, total - 1))
    final = data.draw(st.floats(0, 1))
    schedule = Schedule(kind, total, warmup, final)
    for step in range(total + 10):
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            done = 1.0 if step >= total else (step - warmup) / (total - warmup)
            expected = {
                "cosine": final + (1 - final) * (1 + math.cos(math.pi * done)) / 2,
                "linear": final + (1 - final) * (1 - done),
                "constant": 1.0,
            }[kind]
        assert schedule.factor(step) == pytest.approx(expected, abs=1e-12)
        assert 0 <= schedule.factor(step) <= 1


def test_it_rises_to_the_full_rate_and_falls_to_its_end():
    schedule = Schedule("cosine", 100, warmup=10, final=0.1)
    assert [schedule.factor(i) for i in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert schedule.factor(55) == pytest.approx(0.55)
    assert schedule.factor(100) == pytest.approx(0.1)
    assert Schedule("linear", 100).factor(75) == pytest.approx(0.25)
    assert Schedule("constant", 100, warmup=2).factor(99) == 1.0
    assert [Schedule("linear", 4, warmup=4).factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1]


def test_it_sets_the_rate_of_each_group_from_what_that_group_was_given():
    optimizer = AdamW([{"params": [parameter(2)]}, {"params": [parameter(2)], "lr": 0.5}], lr=0.1)
    schedule = Schedule("linear", 10)
    for step in (5, 5, 0, 8):  # no step depends on those before it
        schedule.apply(optimizer, step)
        assert [g["lr"] for g in optimizer.groups] == pytest.approx(
            [0.1 * (1 - step / 10), 0.5 * (1 - step / 10)]
        )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("step", 10), "cosine, linear or constant"),
        (("cosine", 0), "at least one step"),
        (("cosine", 10, 11), "11 of warm-up"),
        (("cosine", 10, -1), "-1 of warm-up"),
        (("cosine", 10, 0, 1.5), "1.5"),
        (("cosine", 10, 0, math.nan), "nan"),
    ],
)
def test_schedules_that_are_none(settings, says):
    with pytest.raises(ConfigError, match=says):
        Schedule(*settings)
