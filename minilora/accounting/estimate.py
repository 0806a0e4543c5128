"""The activations of a framework's step on a GPU: an estimate, and of what.

Korthikanti et al. (arXiv 2205.05198, section 4.1) count what a layer of GPT keeps for backward,
34·s·b·h + 5·a·s²·b bytes at 16 bits. Here the same count for this architecture, without dropout
and its masks, with grouped keys, SwiGLU and RMSNorm, and for what is trained: a matrix that is
frozen keeps no input.

A token and layer keeps, in numbers (C channels, H·D and K·D of queries and keys, F of the MLP):

    the two norms      2 C          attention   2 H·D + 2 K·D   (q and the output; k and v)
    gate and up        2 F          inputs      C for q, k, v;  C for gate, up;  F for down: those
                                                of which one at least is trained or has a bypass
    attention weights  H·T          only if they are kept, as in the paper; flash attention does not

and the end keeps 2 C and, as in the paper, the logits at 32 bits. Where blocks are computed again
in backward, each keeps the C numbers of its input, and one block at a time is whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from minilora.accounting.counts import Method, keeps_input
from minilora.config import ModelConfig

SOURCE = "Korthikanti et al., arXiv 2205.05198, adapted to this architecture"
FORMULA = (
    "2 bytes · B·T·(L·(2C + 2HD + 2KD + 2F + inputs of trained matrices [+ H·T]) + 2C) + 4·B·T·V"
)
CHECKPOINTED = "2 bytes · B·T·(L·C + one block + 2C) + 4·B·T·V"
LEFT_OUT = (
    "the GPU's own context and workspace, fragmentation, temporaries, what unfused operations keep "
    "besides (such as SiLU's output), and a matrix that QLoRA has unpacked for use"
)


@dataclass(frozen=True)
class Estimate:
    """Bytes of activations, about.

    layers   of all blocks and the last norm;  logits  of the head, at 32 bits
    """

    layers: int
    logits: int
    formula: str
    source: str = SOURCE
    left_out: str = LEFT_OUT

    @property
    def total(self) -> int:
        return self.layers + self.logits


def estimate(
    config: ModelConfig,
    method: Method,
    batch_size: int,
    length: int,
    *,
    checkpointing: bool = False,
    attention_weights: bool = False,
) -> Estimate:
    """What a framework's step keeps for backward, with 16-bit activations.

    attention_weights   the softmax of every layer is kept, H·T numbers a token
    """
    if method.name == "prompt":
        length += method.tokens
    tokens = batch_size * length
    block = _block(config, method) + (config.n_heads * length if attention_weights else 0)
    L, C = config.n_layers, config.hidden_size
    kept = L * C + block if checkpointing else L * block
    return Estimate(
        layers=2 * tokens * (kept + 2 * C),
        logits=4 * tokens * config.vocab_size,
        formula=CHECKPOINTED if checkpointing else FORMULA,
    )


def _block(c: ModelConfig, method: Method) -> int:
    """Numbers that one block keeps for one token, attention weights apart."""
    C, F, HD, KD = c.hidden_size, c.intermediate_size, c.n_heads * c.D, c.K * c.D
    kept = 2 * C + 2 * HD + 2 * KD + 2 * F
    names = keeps_input(c, method)
    if names & {"q_proj", "k_proj", "v_proj"}:
        kept += C
    if names & {"gate_proj", "up_proj"}:
        kept += C
    if "down_proj" in names:
        kept += F
    if method.name == "adapter":  # two of them: the input, and the bottleneck around its bend
        kept += 2 * (C + 2 * method.bottleneck)
    return kept
