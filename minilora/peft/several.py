"""What several adapters of one base do together: become a new one, and share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from minilora.autograd import grad_enabled
from minilora.errors import AdapterError
from minilora.peft.adapters import Adapters, check_seed
from minilora.peft.row_wise import BASE, Rows, using_rows
from minilora.peft.weighted import Combination, check_weights, combine, is_list


class SeveralAdapters(Adapters):
    """A frozen base whose adapters are combined, and used side by side."""

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "svd",
        *,
        svd_rank: int | None = None,
        density: float | None = None,
        majority_sign_method: Literal["total", "frequency"] = "total",
        seed: int = 0,
    ) -> None:
        """Attach a new adapter that is made out of others, frozen like a fresh one.

        combination_type   "cat": Σ w ΔW exactly; the rank is the sum of theirs
                           "svd": the nearest to that of rank `svd_rank` (None: their largest)
                           "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune": A and B
                           each combined by itself, which asks for equal ranks
                           the last four with "_svd" behind: ΔW combined, then cut to `svd_rank`
        density            share of the numbers that is kept, of all but the first three
        majority_sign_method   of "ties" and "dare_ties": large numbers have more to say ("total"),
                           or each one vote ("frequency")
        seed               of the numbers that "dare_" drops

        The formulas, and the papers, stand in `combining.py`.

        Raises AdapterError for names that do not exist, a name that does, weights that are not one
        for each, ranks that differ, adapters that are more than pairs A, B, and while one is
        merged; ConfigError for settings. Nothing is changed then.
        """
        how = Combination(combination_type, svd_rank, density, majority_sign_method, seed)
        check_seed(seed)
        check_weights(adapters, weights)
        for name in adapters:
            self._check_name(name)
        self._check_free(adapter_name)
        if self._switch.merged:
            raise AdapterError(
                f"adapter {self._switch.merged!r} is merged into the weights; unmerge_adapter() "
                "before combining adapters"
            )
        layers: Any = {name: dict(self.adapted(name)) for name in adapters}
        config, pairs = combine(layers, self.peft_config, weights, how)
        self._attach(adapter_name, config, seed=0, own=False)
        for path, layer in self.adapted(adapter_name):
            for p, array in zip(layer.parts(adapter_name).values(), pairs[path], strict=True):
                p.data[:] = array

    @contextmanager
    def using(self, adapter_names: Sequence[str] | None, n_rows: int) -> Iterator[None]:
        """Inside this `with` each row of a batch uses the adapter that is named for it.

        adapter_names   one for each row, "__base__" for none; None: the active one for all

        Of W x nothing is computed twice (`row_wise.py`). Raises AdapterError for names that do not
        exist or do not match the rows, while one is merged, and for adapters that have something
        which a part of the rows cannot use alone.
        """
        if adapter_names is None:
            yield
            return
        rows = self._rows(adapter_names)
        rows.check(n_rows)
        with using_rows(rows):
            yield

    def _rows(self, adapter_names: Sequence[str]) -> Rows:
        if not is_list(adapter_names):
            raise AdapterError(
                f"adapter_names {adapter_names!r} must be a list, with a name for each row"
            )
        if self._switch.merged:
            raise AdapterError(
                f"adapter {self._switch.merged!r} is merged into the weights, so every row has it; "
                "unmerge_adapter() before choosing adapters by row"
            )
        if self.model.model.checkpointing and grad_enabled():
            raise AdapterError(
                "adapter_names does not go with gradient checkpointing, which computes blocks "
                "again when the names are no longer known; switch that off, or use no_grad()"
            )
        for name in adapter_names:
            if not isinstance(name, str) or name != BASE:
                self._check_name(name)
        names = set(adapter_names)
        for name in names - {BASE}:
            for path, layer in self.adapted(name) if len(names) > 1 else ():
                if not layer.goes_by_row(name):
                    raise AdapterError(
                        f"adapter {name!r} has a {type(layer).__name__} at {path}, which cannot be "
                        "used by some rows of a batch alone; give these rows a batch of their own"
                    )
        return Rows(self._switch, [None if name == BASE else name for name in adapter_names])
