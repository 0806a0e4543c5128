"""Where does the time of a training step go, and how much of it could not be helped?

One step after another is taken by one thread, in two ways that alternate. In the first, a clock is
read as each operation's forward and backward is entered and left; time inside of an operation is
its own, and time that is in none (Python, the tape, sums of gradients, the search for numbers that
are not finite) stands in a line of its own. In the second, the arrays themselves read the clock at
each matrix product, and count its multiplications. Of each part the median over the steps is
reported, and as the whole step the sum of its parts.

No product can be faster than the machine's peak, which is measured as well: by one large product.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from minilora.autograd import Function
from minilora.bases import load_base
from minilora.errors import ConfigError
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.quant.linear import PackedMatrix
from minilora.runtime import keep_memory, threads_set_to
from minilora.training import train_step

UPDATE, BETWEEN = "AdamW", "between operations"
LORA = LoraConfig(r=8, lora_alpha=16, target_modules=("q_proj", "v_proj"))
_WARM_UP = 2

Part = tuple[str, str]  # an operation, and "forward" or "backward"


@dataclass
class Meter:
    """Seconds, products' seconds and FLOPs of a step, by part."""

    seconds: dict[Part, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[Part, int] = field(default_factory=lambda: defaultdict(int))
    product_seconds: dict[Part, float] = field(default_factory=lambda: defaultdict(float))
    flops: dict[Part, int] = field(default_factory=lambda: defaultdict(int))
    within: list[Part] = field(default_factory=list)
    since: float = 0.0

    def switch(self, enter: Part | None) -> None:
        """From here on time belongs to the part entered, or to the one around the part left."""
        now = time.perf_counter()
        if self.within:
            self.seconds[self.within[-1]] += now - self.since
        if enter is None:
            self.within.pop()
        else:
            self.within.append(enter)
            self.calls[enter] += 1
        self.since = now

    def product(self, seconds: float, flops: int) -> None:
        part = self.within[-1] if self.within else (BETWEEN, "forward")
        self.product_seconds[part] += seconds
        self.flops[part] += flops


class _Timed(np.ndarray):
    """An array that tells its meter of the products it takes part in, as what comes of it does."""

    meter: Meter

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if options.get("out") is not None:
            options["out"] = tuple(_plain(x) for x in options["out"])
        plain = [_plain(x) for x in inputs]
        began = time.perf_counter()
        made = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            seconds = time.perf_counter() - began
            _Timed.meter.product(seconds, 2 * made.size * plain[0].shape[-1])
        return made.view(_Timed) if isinstance(made, np.ndarray) else made


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, _Timed) else x


@contextmanager
def metered(meter: Meter) -> Iterator[None]:
    """Inside this `with`, every operation and every update tells the meter when it runs."""
    _Timed.meter = meter
    wrapped = [(c, way) for c in _operations() for way in ("forward", "backward") if way in vars(c)]
    before = [(c, way, vars(c)[way]) for c, way in wrapped] + [(AdamW, "step", AdamW.step)]
    try:
        for owner, way, method in before:
            part = (UPDATE, "update") if owner is AdamW else (owner.__name__, way)
            setattr(owner, way, _telling(meter, part, method))
        yield
    finally:
        for owner, way, method in before:
            setattr(owner, way, method)


def _operations(of: type = Function) -> list[type]:
    found: list[type] = []
    sub: type
    for sub in of.__subclasses__():
        found += [sub, *_operations(sub)]
    return found


def _telling(meter: Meter, part: Part, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)  # the tape reads the inputs' names from forward's signature
    def told(*args: Any, **options: Any) -> Any:
        meter.switch(part)
        try:
            return method(*args, **options)
        finally:
            meter.switch(None)

    return told


def profile_step(
    base: str = "skills",
    method: str = "lora",
    *,
    batch_size: int = 32,
    length: int = 64,
    steps: int = 9,
    progress: str | None = "profiling",
) -> dict[str, Any]:
    """The report: rows by operation, and the step and the machine they belong to.

    steps   taken in each of the two ways

    Raises ConfigError for a method that is neither lora nor full, or a length that the base's
    context has no room for; and what `load_base` raises.
    """
    model: Any = load_base(base)
    _check(method, length, model.config.max_positions)
    if method == "lora":
        model = get_peft_model(model, LORA, seed=1)
    optimizer = AdamW(model.parameters(), lr=1e-5)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (batch_size, length))

    def step(meter: Meter) -> Meter:
        with metered(meter):
            began = time.perf_counter()
            train_step(model, optimizer, ids, ids, threads=1)
            whole = time.perf_counter() - began
        meter.seconds[BETWEEN, "between"] = whole - sum(meter.seconds.values())
        return meter

    keep_memory()
    with threads_set_to(1):
        peak = peak_rate()
        plainly, watched = [], []
        for i in tqdm(
            range(_WARM_UP + steps),
            desc=progress, unit="step", disable=progress is None, leave=False, dynamic_ncols=True,
        ):  # fmt: skip
            a = step(Meter())
            with _timed_weights(model):
                b = step(Meter())
            if i >= _WARM_UP:
                plainly.append(a)
                watched.append(b)
        peak = max(peak, peak_rate())
    about = {"base": base, "method": method, "batch_size": batch_size, "length": length}
    return about | {"steps": steps} | _report(_median(plainly), _median(watched), peak)


def _check(method: str, length: int, longest: int) -> None:
    if method not in ("lora", "full"):
        raise ConfigError(f"method {method!r} must be lora or full")
    if not 2 <= length <= longest:
        raise ConfigError(f"length {length} must be from 2 to this base's context, {longest}")


@contextmanager
def _timed_weights(model: Any) -> Iterator[None]:
    """The weights tell of products; everything computed from them then does, too."""
    # A product with a packed weight is told of by its other factor.
    weights = {p: p.data for p in model.parameters() if not isinstance(p.data, PackedMatrix)}
    try:
        for p, array in weights.items():
            p.data = array.view(_Timed)
        yield
    finally:
        for p, array in weights.items():
            p.data = array


def peak_rate(n: int = 1024, times: int = 6) -> float:
    """FLOP a second of a large float32 product by as many threads as BLAS now has: the best."""
    x = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    y = np.empty_like(x)
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        np.matmul(x, x, out=y)
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 / min(seconds)


def _median(meters: list[Meter]) -> Meter:
    """Of each part the median over the steps, so that one disturbed moment shows in none."""

    def middle(of: str) -> dict[Part, Any]:
        each = [getattr(m, of) for m in meters]
        return {part: statistics.median_low(amounts[part] for amounts in each) for part in each[0]}

    return Meter(middle("seconds"), middle("calls"), middle("product_seconds"), middle("flops"))


def _report(plainly: Meter, watched: Meter, peak: float) -> dict[str, Any]:
    whole = sum(plainly.seconds.values())
    names = dict.fromkeys(name for name, _ in plainly.seconds)
    rows = [_row(name, plainly, watched) for name in names]
    rows.sort(key=lambda row: -row["seconds"])
    products, flops = sum(watched.product_seconds.values()), sum(watched.flops.values())
    return {
        "step_seconds": whole,
        "product_seconds": products,
        "product_share": products / whole,
        "flops": flops,
        "product_rate": flops / products,
        "step_rate": flops / whole,
        "peak_rate": peak,
        "rows": rows,
    }


def _row(name: str, plainly: Meter, watched: Meter) -> dict[str, Any]:
    """One operation. What is neither forward nor backward is in `seconds` only."""

    def both(amounts: dict[Part, Any]) -> Any:
        return sum(amount for (op, _), amount in amounts.items() if op == name)

    products, flops = both(watched.product_seconds), both(watched.flops)
    return {
        "op": name,
        "calls": plainly.calls.get((name, "forward"), 0) + plainly.calls.get((name, "update"), 0),
        "forward_seconds": plainly.seconds.get((name, "forward"), 0.0),
        "backward_seconds": plainly.seconds.get((name, "backward"), 0.0),
        "seconds": both(plainly.seconds),
        "product_seconds": products,
        "flops": flops,
        "product_rate": flops / products if flops else None,
    }
