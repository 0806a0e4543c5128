"""Frozen means not computed: a LoRA step makes nothing of a frozen weight's shape.

Every operation is run on arrays that report what is made from them, so a gradient that is
computed and dropped is seen as well as one that is handed on; planted ones prove it.
"""

from collections import Counter

import numpy as np
import pytest

from minilora.autograd import Function, backward, tape
from minilora.ops.embedding import Embedding
from minilora.ops.lora import LoRALinear
from minilora.ops.matmul import Linear, rows
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import train_step

QV = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])


class Watched(np.ndarray):
    """An array that tells `Watch` of every product and every array that is made from it."""

    watch = None

    def __array_finalize__(self, source):
        if source is not None and self.base is None:
            Watched.watch.made[self.shape] += 1

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        given = [_plain(x) for x in inputs]
        if out:
            options["out"] = tuple(_plain(x) for x in out)
        result = getattr(ufunc, method)(*given, **options)
        if ufunc is np.matmul:
            Watched.watch.products += [x.shape[-2:] for x in given]
        if isinstance(result, np.ndarray) and not out:
            Watched.watch.made[result.shape] += 1
        return _watched(result)

    def __array_function__(self, function, types, args, options):
        result = super().__array_function__(function, types, args, options)
        if isinstance(result, np.ndarray):
            Watched.watch.made[result.shape] += 1
        return _watched(result)

    def dot(self, other):
        return np.matmul(self, other)


def _plain(x):
    return x.view(np.ndarray) if isinstance(x, Watched) else x


def _watched(x):
    return x.view(Watched) if isinstance(x, np.ndarray) else x


class Watch:
    """While it is on, forward and backward of every operation are run on watched arrays.

    made       shape → how many arrays of that shape were made
    products   the matrices that went into products, by the shapes of their last two axes
    """

    def __init__(self, monkeypatch):
        self.made, self.products = Counter(), []
        monkeypatch.setattr(Watched, "watch", self)
        monkeypatch.setenv("MINILORA_THREADS", "1")
        for op in _all_operations(Function):
            for part in ("forward", "backward"):
                if part in vars(op):
                    monkeypatch.setattr(op, part, _on_watched_arrays(vars(op)[part]))
        for name in ("zeros", "empty", "ones", "full"):
            for each in (name, f"{name}_like"):
                monkeypatch.setattr(np, each, self._counting(getattr(np, each)))

    def _counting(self, make):
        def made(*args, **options):
            array = make(*args, **options)
            self.made[array.shape] += 1
            return array

        return made

    def like(self, shapes):
        """How many arrays were made that end in one of these shapes, or one turned over."""
        wanted = {*shapes, *(shape[::-1] for shape in shapes)}
        return sum(n for shape, n in self.made.items() if shape[-2:] in wanted)

    def uses(self, shape):
        """How many factors of products were a matrix of this shape, or one turned over."""
        return sum(factor in (shape, shape[::-1]) for factor in self.products)


def _all_operations(op):
    for each in op.__subclasses__():
        yield each
        yield from _all_operations(each)


def _on_watched_arrays(method):
    def watched(ctx, *arrays, **options):
        for name, array in vars(ctx.saved).items():
            setattr(ctx.saved, name, _watched(array))
        result = method(ctx, *map(_watched, arrays), **options)
        return tuple(map(_plain, result)) if isinstance(result, tuple) else _plain(result)

    watched.__wrapped__ = method  # forward's own signature names the inputs
    return watched


FROZEN_SHAPES = {(24, 24), (12, 24), (40, 24), (24, 40), (31, 24)}


def watched_step(model, batch, monkeypatch):
    optimizer = AdamW(model.parameters())
    with monkeypatch.context() as patch:
        watch = Watch(patch)
        train_step(model, optimizer, *batch, max_grad_norm=1.0)
    return watch


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_nothing_of_a_frozen_weights_shape_is_made(
    tiny, tiny_batch, monkeypatch, targets, dropout, tied
):
    config = LoraConfig(r=4, target_modules=targets, lora_dropout=dropout)
    model = get_peft_model(tiny(tied=tied), config)
    watch = watched_step(model, tiny_batch, monkeypatch)
    assert watch.like({p.shape for p in model.parameters() if p.requires_grad}) > 0
    assert watch.like(FROZEN_SHAPES) == 0


def test_a_frozen_matrix_goes_into_two_products_and_into_one_below_the_adapters(
    tiny, tiny_batch, monkeypatch
):
    """Forward, and the way back to what lies below; a trained one goes the same ways.

    In the first layer nothing lies below q, k and v that is trained.
    """
    watch = watched_step(get_peft_model(tiny(), QV), tiny_batch, monkeypatch)
    assert watch.uses((24, 24)) == (1 + 2) + (2 + 2)  # q and o, layer by layer
    assert watch.uses((12, 24)) == (1 + 1) + (2 + 2)  # k and v
    assert watch.uses((40, 24)) == 3 * 2 * 2  # gate, up and down
    assert watch.uses((31, 24)) == 2  # the head
    upper = LoraConfig(r=4, target_modules=["layers.1.self_attn.v_proj"])
    watch = watched_step(get_peft_model(tiny(), upper), tiny_batch, monkeypatch)
    assert watch.uses((24, 24)) == (1 + 1) + (1 + 2)
    assert watch.uses((12, 24)) == (1 + 1) + (1 + 1)
    assert watch.uses((40, 24)) == 3 * (1 + 2)
    assert watch.uses((31, 24)) == 2


def test_the_watch_sees_what_full_fine_tuning_makes(tiny, tiny_batch, monkeypatch):
    watch = watched_step(tiny(), tiny_batch, monkeypatch)
    for shape, at_least in {(24, 24): 4, (12, 24): 4, (40, 24): 6, (31, 24): 2}.items():
        assert watch.like({shape}) >= at_least


def _wasteful(product):
    """LoRA's backward that computes W's gradient, too, and drops it."""
    backward = LoRALinear.backward

    def wasteful(ctx, dh):
        if ctx.needs.A:
            product(dh, ctx.saved.x)
        return backward(ctx, dh)

    return wasteful


def _into_a_buffer(dh, x):
    buffer = np.empty((dh.shape[-1], x.shape[-1]), np.float32)
    np.matmul(rows(dh).T, rows(x), out=buffer)


@pytest.mark.parametrize(
    "product",
    [
        lambda dh, x: rows(dh).T @ rows(x),
        lambda dh, x: rows(x).T @ rows(dh),
        lambda dh, x: np.swapaxes(dh, -1, -2) @ x,
        lambda dh, x: np.dot(rows(dh).T, rows(x)),
        lambda dh, x: rows(dh).T.dot(rows(x)),
        lambda dh, x: np.einsum("bto,bti->oi", dh, x),
        lambda dh, x: np.tensordot(dh, x, ((0, 1), (0, 1))),
        _into_a_buffer,
    ],
)
def test_the_watch_catches_a_gradient_that_is_computed_and_dropped(
    tiny, tiny_batch, monkeypatch, product
):
    model = get_peft_model(tiny(), QV)
    monkeypatch.setattr(LoRALinear, "backward", _wasteful(product))
    watch = watched_step(model, tiny_batch, monkeypatch)
    assert watch.like({(24, 24)}) >= 2
    assert watch.like({(12, 24)}) >= 2
    assert watch.like({(40, 24), (31, 24)}) == 0


def test_the_watch_catches_it_in_the_matrices_without_adapters(tiny, tiny_batch, monkeypatch):
    keep, backward = Linear.forward, Linear.backward

    def forward(ctx, x, W, b=None):
        y = keep(ctx, x, W, b)
        ctx.save(x=x)
        return y

    def wasteful(ctx, dy):
        dW = rows(dy).T @ rows(ctx.saved.x)
        dx, wanted = backward(ctx, dy)
        return dx, wanted if wanted is None else dW

    monkeypatch.setattr(Linear, "forward", forward)
    monkeypatch.setattr(Linear, "backward", wasteful)
    watch = watched_step(get_peft_model(tiny(), QV), tiny_batch, monkeypatch)
    assert watch.like({(40, 24)}) >= 6
    assert watch.like({(24, 24)}) >= 2


def test_the_watch_catches_an_embedding_whose_gradient_is_made_for_nothing(
    tiny, tiny_batch, monkeypatch
):
    forward = Embedding.forward

    def wasteful(ctx, W, *, ids):
        np.zeros(W.shape, W.dtype)
        return forward(ctx, W, ids=ids)

    monkeypatch.setattr(Embedding, "forward", wasteful)
    watch = watched_step(get_peft_model(tiny(), QV), tiny_batch, monkeypatch)
    assert watch.like({(31, 24)}) == 1


def test_the_watch_catches_zeros_that_stand_for_a_frozen_weights_gradient(
    tiny, tiny_batch, monkeypatch
):
    model = get_peft_model(tiny(), QV)

    def wasteful(loss, hand_in):
        zeros = {p: np.zeros_like(p.data) for p in model.parameters() if not p.requires_grad}
        assert zeros
        return backward(loss, hand_in=hand_in)

    monkeypatch.setattr("minilora.training.backward", wasteful)
    watch = watched_step(model, tiny_batch, monkeypatch)
    assert watch.like({(40, 24)}) == 6


def test_backward_stops_below_the_lowest_adapter(tiny, tiny_batch):
    ids, labels = tiny_batch
    upper = LoraConfig(r=4, target_modules=["layers.1.self_attn.v_proj"])
    whole = [type(op).__name__ for op in tape(tiny().loss(ids, labels))]
    model = get_peft_model(tiny(), upper)
    short = [type(op).__name__ for op in tape(model.loss(ids, labels))]
    assert whole.count("Attention") == 2
    assert short.count("Attention") == 1
    assert "Embedding" in whole
    assert "Embedding" not in short
    assert short[-1] == "LoRALinear"
    assert set(backward(model.loss(ids, labels))) == set(model.trainable_parameters())
