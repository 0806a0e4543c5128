"""What the rows of `four_bits` say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from minilora.experiments.four_bits import reading
from minilora.experiments.four_bits.reading import KEPT, Row, error_at
from minilora.experiments.lab import stats
from minilora.experiments.lab.stats import percent
from minilora.quant import DATA_TYPES

FOUR = [f for f, bits in DATA_TYPES.items() if bits == 4]
SMALL = 0.03  # of W: a ΔW up to there is called small
SLOWER = 1.05  # times as long


def answer(rows: list[Row]) -> str:
    """A line for each part of the question, and what went wrong last."""
    lines = [best_format(rows, source) for source in ("normal", "skills")]
    lines += [doubled(rows), abilities(rows), learnt(rows), small_merges(rows), trained(rows)]
    return "\n".join([*lines, costs(rows), failures(rows)])


def best_format(rows: Sequence[Row], source: str) -> str:
    """Which four-bit format is nearest at blocks of 64, by each of two measures."""
    what = {"normal": "N(0, 1)", "skills": "the base's matrices"}[source]
    usual = {"block_size": 64, "double_quant": False}
    found = {f: e for f in FOUR if (e := error_at(rows, source, f, **usual))}
    if len(found) < 2:
        return f"Formats on {what}: not measured."
    by_mae = sorted(found, key=lambda f: found[f]["relative"])
    by_snr = sorted(found, key=lambda f: -found[f]["snr"])
    alike = by_mae[0] == by_snr[0]
    verdict = (
        f"{by_mae[0]} is best in both"
        if alike
        else f"{by_mae[0]} is best in error, {by_snr[0]} in signal to noise: no format wins both"
    )
    said = "; ".join(
        f"{f} {100 * found[f]['relative']:.1f} % and {found[f]['snr']:.1f} dB in "
        f"{found[f]['bits']:g} bits"
        for f in by_mae
    )
    return f"Blocks of 64 on {what}, mean error and signal to noise: {said}: {verdict}."


def doubled(rows: Sequence[Row]) -> str:
    """What quantizing the constants saves and costs, nf4 in blocks of 64."""
    said = []
    for source, what in (("normal", "N(0, 1)"), ("skills", "the base's matrices")):
        plain, twice = (
            error_at(rows, source, "nf4", block_size=64, double_quant=d) for d in (False, True)
        )
        if plain and twice:
            more = twice["mae"] / plain["mae"] - 1
            said.append(
                f"{plain['bits'] - twice['bits']:.3f} bits saved, {more:+.1%} error on {what}"
            )
    return f"Double quantization of nf4 in blocks of 64: {'; '.join(said) or 'not measured'}."


def abilities(rows: Sequence[Row]) -> str:
    """What the base can still do in each format."""
    some = stats.where(rows, role="base")
    whole = next((r for r in some if r["data_type"] is None), None)
    if whole is None or len(some) < 2:
        return "The base in few bits: not measured."
    said = "; ".join(
        f"{r['data_type']} in blocks of {r['block_size']:,} {100 * r['old']:.1f} % "
        f"(loss {r['nll'] / whole['nll']:.2f} times)"
        for r in some
        if r is not whole
    )
    told = f"The base's skills, in floats {100 * whole['old']:.1f} %: {said}."
    usual = {f: r for f in FOUR for r in stats.where(some, data_type=f, block_size=64)}
    if len(usual) < 2:
        return told
    least = min(usual, key=lambda f: usual[f]["nll"])
    return f"{told} Of four bits in blocks of 64, the least loss: {least}."


def learnt(rows: Sequence[Row]) -> str:
    """LoRA against QLoRA on each format, one rate for all."""
    arms = reading.tunings(rows)
    lora = stats.column(arms.get("LoRA", []), "new")
    if not lora or len(arms) < 2:
        return "LoRA against QLoRA: not measured."
    said = "; ".join(
        f"{arm} {percent(new)} ({stats.against(new, lora)})"
        for arm, each in arms.items()
        if arm != "LoRA" and (new := stats.column(each, "new"))
    )
    return f"New skill, LoRA {percent(lora)}; against it: {said or 'not measured'}."


def small_merges(rows: Sequence[Row]) -> str:
    """Whether requantizing keeps a small ΔW of known size, in Gaussian matrices."""
    claim = '"merging back into four bits keeps the adapter"'
    said, kept = [], []
    for name in reading.merged_formats(rows):
        each = reading.merges(rows, name)
        small = [e for size, es in each.items() if size <= SMALL for e in es]
        if not small:
            continue
        arrives = [e["survives"] for e in small]
        if DATA_TYPES[name] == 4:
            kept += arrives
        moved = max(e["moved"] for e in small)
        enough = [size for size, es in each.items() if min(e["survives"] for e in es) >= KEPT]
        said.append(
            f"{name} {min(arrives):.0%} to {max(arrives):.0%} of it, at most {moved:.2%} of the "
            "codes moved"
            + (f", {KEPT:.0%} from a ΔW of {min(enough):.0%} of W on" if enough else "")
        )
    if not said:
        return f"{claim}: not measured."
    verdict = "not measured"
    if kept:
        verdict = "confirmed" if min(kept) >= KEPT else "not here" if max(kept) < KEPT else "partly"
    return f"{claim}, ΔW of up to {SMALL:.0%} of W: {verdict}: {'; '.join(said)}."


def trained(rows: Sequence[Row]) -> str:
    """The same for adapters that were trained: what of their gain is left; and accuracy."""
    gains = reading.gains(rows)
    if not gains:
        return "Trained adapters merged back: not measured."
    said = "; ".join(
        f"of one of {sum(s for s, _ in each) / len(each):.0%} of W (lr {lr:g}) "
        f"{percent(k for _, k in each)} is left"
        for lr, each in gains.items()
    )
    arms = {a: r for a, r in reading.tunings(rows).items() if reading.back(r)}
    ways = "; ".join(
        f"{arm} apart {percent(reading.right(each, 'apart'))}, into 32 bits "
        f"{percent(reading.right(each, 'float32'))}, into 16 "
        f"{percent(reading.right(each, 'bfloat16'))}, back {percent(reading.back(each))}"
        for arm, each in arms.items()
    )
    return (
        f"Adapters trained on nf4 and merged back, of their gain in likelihood: {said}. "
        f"Right after each way to merge: {ways or 'not measured'}."
    )


def costs(rows: Sequence[Row]) -> str:
    """Whether a step beside few bits is faster, and what it holds."""
    claim = '"fewer bits, so a faster step"'
    some = stats.where(rows, role="step")
    if not some:
        return f"{claim}: not measured."
    r = some[0]
    lora, qlora = r["bytes"]["lora"], r["bytes"]["qlora"]
    times = r["times_lora"]
    verdict = "confirmed" if times < 1 / SLOWER else "not here"
    return (
        f"{claim}: {verdict}: a step takes {times:.2f} times as long as LoRA's. Weights held: "
        f"{qlora['weights'] / lora['weights']:.2f} of LoRA's; at the peak of a step "
        f"{qlora['peak'] / lora['peak']:.2f}, for activations are as they were."
    )


def failures(rows: Sequence[Row]) -> str:
    """Runs that diverged, listed."""
    lost = [f"{r['arm']} lr {r['lr']:g} seed {r['seed']}" for r in rows if r.get("diverged")]
    return f"Diverged: {'; '.join(lost) or 'none'}."
