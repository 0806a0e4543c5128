"""Checkpointing: keep what goes into a block, and compute the block again when backward comes by.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. One more forward
pass is paid for, and what the block would have kept from forward to backward is saved.
"""

from __future__ import annotations

from minilora.autograd import Function, Tensor, backward, no_grad


class Checkpoint(Function):
    """y = f(x, θ)     dx, dθ: f once more, on a tape of its own, and back over that

    θ are the trained leaves that f reads. They are inputs here, so that backward leads to them.

    Kept: x. What f keeps is there only while backward passes this operation.
    """

    def forward(ctx, x, *parameters, f, leaves):
        ctx.f, ctx.leaves = f, leaves
        ctx.save(x=x if any(vars(ctx.needs).values()) else None)
        with no_grad():
            return f(Tensor(x)).data

    def backward(ctx, dy):
        x = Tensor(ctx.saved.x, requires_grad=ctx.needs.x)
        gradients = backward(ctx.f(x), dy)
        return gradients.get(x), *(gradients[leaf] for leaf in ctx.leaves)
