"""What rows of tunings say of forgetting: the claims that are usual, and how they fare here.

A difference needs seeds that lie apart (`stats.apart`), and the words about size are these: an
adapter "largely avoids" forgetting if it keeps at least half of the old skills, and more than full
fine-tuning does; old data "helps" if it gives back at least half of what is lost without it, and
"helps a little" if less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minilora.experiments.forgetting.arms import (
    EASY,
    LEVEL,
    Arm,
    Row,
    arms,
    language_rows,
    nll_at,
    rate,
    seeds_text,
    share,
)
from minilora.experiments.lab.stats import apart, percent, spread, where

HALF = 0.5
NOTHING = "no difference shown"
USUAL_REPLAY = (0.05, 0.1)
PUBLISHED = (
    "Published, not measured here: PEFT's public board, Llama-3.2-3B on MetaMathQA: full "
    "fine-tuning at lr 1e-5 has accuracy 0.472 and forgets 0.030, LoRA r=64 with rsLoRA 0.513 and "
    "0.111."
)


def answer(rows: list[Row]) -> str:
    """Whether LoRA avoids forgetting, whether old data helps, and what else decides it."""
    every = [a for a in arms(rows) if a.rows[0].get("lr_by") != "other"]
    parts = (
        avoids(every),
        switched_off(rows),
        helps(every),
        _rates(arms(rows)),
        _stopping(every),
        _language(rows),
        failures(arms(rows)),
        PUBLISHED,
    )
    return "\n".join(filter(None, parts))


def compared(lora: Sequence[float], full: Sequence[float]) -> str:
    """Which of the two keeps more, as far as their seeds tell."""
    which = apart(lora, full)
    if which == NOTHING:
        return which
    less = "less" if spread(lora)[0] > spread(full)[0] else "more"
    suggests = "which suggests that " if which.startswith("suggests") else ""
    return f"{suggests}LoRA forgets {less}"


def pairs(every: list[Arm], replay: float) -> tuple[list[str], list[bool | None]]:
    """Full against each adapter on the same task: in words, and whether it largely avoids it.

    None where it keeps enough, but not shown to be more than full fine-tuning keeps.
    """
    said: list[str] = []
    held: list[bool | None] = []
    mixed = [a for a in every if a.replay == replay and a.left]
    for full in (a for a in mixed if a.method == "full"):
        task, others = full.rows[0]["task"], []
        for lora in (a for a in mixed if a.method != "full" and a.rows[0]["task"] == task):
            verdict = compared(lora.left, full.left)
            enough = spread(lora.left)[0] >= HALF
            held.append(None if enough and verdict == NOTHING else enough and "less" in verdict)
            others.append(f"{lora.method} {lora.kept} ({verdict})")
        if others:
            said.append(f"{task}: full {full.kept}, {', '.join(others)}")
    return said, held


def avoids(every: list[Arm]) -> str:
    """The claim that LoRA largely avoids forgetting, adapter on, without replay."""
    said, held = pairs(every, 0.0)
    if not said:
        return '"LoRA largely avoids forgetting": not measured.'
    seeds = seeds_text([a for a in every if a.replay == 0])
    return (
        f'"LoRA largely avoids forgetting": {_overall(held)}. Old skills kept at {share(LEVEL)} of '
        f"the new one, adapter on, no old data ({seeds}): {'; '.join(said)}."
    )


def _overall(held: Sequence[bool | None]) -> str:
    """A verdict over all cases; None is one in which nothing was shown."""
    if all(each is None for each in held):
        return "not shown"
    return "confirmed" if all(held) else "only in part" if any(held) else "not here"


def switched_off(rows: Iterable[Row]) -> str:
    """What is left with the adapter switched off."""
    off = [r for r in where(rows, role="report") if r.get("off_is_base") is not None]
    if not off:
        return "Adapter off: not measured."
    same = sum(r["off_is_base"] for r in off)
    bits = "the base bit for bit" if same == len(off) else "NOT the base bit for bit"
    return (
        f"Adapter off, the test has old skills at {percent(r['old_off'] for r in off)} and the new "
        f"one at {percent(r['new_off'] for r in off)}: {bits}, in {same} of {len(off)} runs."
    )


def helps(every: list[Arm]) -> str:
    """The claim that 5 to 10 % of old data helps, by task and method."""
    groups: dict[tuple[str, str], dict[float, Arm]] = {}
    for a in every:
        groups.setdefault((a.rows[0]["task"], a.method), {})[a.replay] = a
    said: list[str] = []
    verdicts: list[bool | None] = []
    for (task, method), by_share in groups.items():
        with_old = [by_share[s] for s in USUAL_REPLAY if s in by_share and by_share[s].left]
        without = by_share.get(0.0)
        if without is None or not without.left or not with_old:
            continue
        word = _returned(without, max(with_old, key=lambda a: spread(a.left)[0]))
        verdicts.append(None if word == NOTHING else word.startswith("helps,"))
        shares = ", ".join(f"{by_share[s].kept} at {share(s)}" for s in sorted(by_share))
        said.append(f"{task}, {method}: {shares} ({word})")
    if not said:
        return '"Mixing in 5–10 % of general data helps": not measured.'
    return (
        f'"Mixing in 5–10 % of general data helps": {_overall(verdicts)}. Kept by share '
        f"of old data: {'; '.join(said)}."
    )


def _returned(without: Arm, best: Arm) -> str:
    """How much of the loss comes back, in words and as a share."""
    which, lost_to = apart(best.left, without.left), spread(without.left)[0]
    gain = spread(best.left)[0] - lost_to
    loss = spread(r["curve"][0]["old"] for r in without.rows)[0] - lost_to
    if which == NOTHING or loss <= 0:
        return NOTHING
    word = "harms" if gain < 0 else "helps" if gain >= HALF * loss else "helps a little"
    seeds = "" if which == "differ" else ", as far as so few seeds tell"
    return (
        f"{word}, {100 * gain / loss:.0f} % of the loss comes back at {share(best.replay)}{seeds}"
    )


def _rates(every: list[Arm]) -> str:
    """What other learning rates do, without old data."""
    groups: dict[tuple[str, str], list[Arm]] = {}
    for a in (a for a in every if a.replay == 0):
        groups.setdefault((a.rows[0]["task"], a.method), []).append(a)
    said = [
        f"{task}, {method}: " + ", ".join(f"{a.kept} at {rate(a.lr)}" for a in some)
        for (task, method), some in groups.items()
        if len(some) > 1
    ]
    return f"By learning rate: {'; '.join(said)}." if said else ""


def _stopping(every: list[Arm]) -> str:
    """Stopping at 90 % against going on, for the arms of the easy task."""
    said = []
    for a in every:
        if a.rows[0]["task"] == EASY and a.left:
            verdict = apart(a.left, a.at_end)
            if verdict != NOTHING:
                more = "stopping" if spread(a.left)[0] > spread(a.at_end)[0] else "going on"
                suggests = "seems to keep" if verdict.startswith("suggests") else "keeps"
                verdict = f"{more} {suggests} more"
            on = f"{percent(a.left)} and {percent(a.at_end)}"
            said.append(f"{a.method}, ρ {share(a.replay)}: {on} ({verdict})")
    return f"Stopped at {share(LEVEL)}, and gone on to the end: {'; '.join(said)}." if said else ""


def _language(rows: Iterable[Row]) -> str:
    rows = list(rows)
    some = language_rows(rows)
    if not some:
        why = next((r["skipped"] for r in rows if r.get("skipped")), None)
        why = why or "it needs `minilora fetch smollm2`"
        return f"SmolLM2: not measured ({why})."
    said = []
    for r in some:
        level, last = nll_at(r), r["curve"][-1]
        at = "never reaches 90 %" if level is None else f"{level:.2f} at {share(LEVEL)}"
        end = f"{last['general_nll']:.2f} at the end, with {share(last['new'])}"
        gone = ", diverged" if r.get("diverged") else ""
        said.append(f"{Arm([r]).method} lr {rate(r['lr'])}: {at}, {end}{gone}")
    start = some[0]["curve"][0]["general_nll"]
    return (
        f"SmolLM2, orders, loss on general text in nats a token (single runs; {start:.2f} before): "
        f"{'; '.join(said)}."
    )


def failures(every: list[Arm]) -> str:
    """Arms of which a run diverged or never got to the level."""
    said = [f"{a.rows[0]['task']}, {a.label}: {a.missed}" for a in every if a.missed]
    return f"Not counted: {'; '.join(said)}." if said else ""
