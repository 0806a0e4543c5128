"""Nearly the same text, found without comparing every text with every other: MinHash and LSH.

A text becomes the set of its shingles, runs of three words. Two texts are as near as the share of
shingles that they have in common, |A ∩ B| / |A ∪ B| (Jaccard). Of each set 128 minima under
different hashes are kept: two sets have the same minimum with just that probability, so the share
of equal minima estimates the nearness (Broder 1997, "On the resemblance and containment of
documents"). Minima in bands: whoever agrees in all of one band is looked at, nobody else (Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", 3.4).

However long a text is, some 3,500 bytes of it are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal
from zlib import crc32

import numpy as np

from minilora.data.matching import normalized, words_and_signs
from minilora.errors import ConfigError, require

Shingle = Literal["words", "characters"]
DEFAULT_SIZE: dict[Shingle, int] = {"words": 3, "characters": 5}
THRESHOLD = 0.8
MINIMA = 128
# More texts in one bucket that are not near one another share only what all texts share, such as
# the frame that a template puts around them; to look at all of them takes quadratic time.
FULLEST_BUCKET = 16
_PURPOSE = "finding near duplicates (or do without: near=None, --near off)"
# Shingles that are hashed at once, so that a text of megabytes does not take gigabytes.
_PIECE = 2048


def shingles(text: str, kind: Shingle = "words", size: int | None = None) -> set[str]:
    """Runs of `size` words (by default 3) or characters (5) of a text; a sign (+, #) is a word.

    A text shorter than that is its own only shingle, so two such are near only if they are the
    same; an empty one has none.
    """
    n = size or DEFAULT_SIZE[kind]
    if kind == "characters":
        return {text[i : i + n] for i in range(max(1, len(text) - n + 1))} if text else set()
    found = words_and_signs(text)
    if not found:
        return {text} if text else set()
    return {" ".join(found[i : i + n]) for i in range(max(1, len(found) - n + 1))}


class NearIndex:
    """Items, each of one or several texts, and which of them are near one that is asked about.

    Items are near if each of their texts is near the other's: nearness ≥ `threshold`, in
    [0.5, 1], estimated to ± 0.04. Of pairs that are just at the threshold 95 % or more are found,
    of nearer ones nearly all, except in buckets that are full (`FULLEST_BUCKET`).

    texts: of how many texts an item is made, 1 or 2.
    kind, size: of the shingles. same: what is done to a text before it is cut into them.

    Raises ConfigError for values outside of this, MissingExtraError without `datasketch`.
    """

    def __init__(
        self,
        threshold: float = THRESHOLD,
        *,
        texts: int = 1,
        kind: Shingle = "words",
        size: int | None = None,
        same: Callable[[str], str] = normalized,
    ):
        if not 0.5 <= threshold <= 1:
            raise ConfigError(f"the threshold {threshold} must be from 0.5 to 1, e.g. 0.8")
        if kind not in DEFAULT_SIZE:
            raise ConfigError(f"the shingle {kind!r} must be one of {', '.join(DEFAULT_SIZE)}")
        if size is not None and size < 1:
            raise ConfigError(f"the shingle's size {size} must be a whole number from 1")
        library = require("datasketch", extra="data", purpose=_PURPOSE)
        self._minhash = library.MinHash
        self._options = {"num_perm": MINIMA, "seed": 1, "hashfunc": _hash, "scheme": "affine32"}
        self._permutations = library.MinHash(**self._options).permutations
        self.threshold, self.kind, self.size, self.same = threshold, kind, size, same
        in_band = 8 if threshold >= 0.75 else 4
        self._bands = MINIMA // in_band
        # A band takes its part from each text, so both must agree for a bucket to be shared.
        self._from_each = in_band // texts
        rng = np.random.default_rng(0)
        self._mix = rng.integers(2**63, size=(in_band, 1), dtype=np.uint64) * 2 + 1
        self._salts = rng.integers(2**63, size=self._bands, dtype=np.uint64)
        self._buckets: dict[int, tuple[int, ...]] = {}
        self._signatures: list[np.ndarray] = []
        self._keys: list[int] = []

    def signature(self, *texts: str) -> np.ndarray:
        """The minima of each text (texts, 128), uint32: what is kept of an item."""
        return np.stack([self._minima(text) for text in texts])

    def add(self, key: int, signature: np.ndarray) -> None:
        """Keep an item under a number of one's own, such as that of its line."""
        place = len(self._keys)
        self._keys.append(key)
        self._signatures.append(signature)
        for bucket in self._buckets_of(signature):
            held = self._buckets.get(bucket, ())
            if len(held) < FULLEST_BUCKET:
                self._buckets[bucket] = (*held, place)

    def near(self, signature: np.ndarray) -> list[tuple[int, float]]:
        """The keys of the items near this one, in the order of `add`, and how near they are.

        The nearness of an item of several texts is that of its farthest.
        """
        places: set[int] = set()
        for bucket in self._buckets_of(signature):
            places.update(self._buckets.get(bucket, ()))
        found = []
        for place in sorted(places):
            share = (self._signatures[place] == signature).mean(axis=-1).min()
            if share >= self.threshold:
                found.append((self._keys[place], float(share)))
        return found

    def _minima(self, text: str) -> np.ndarray:
        made = self._minhash(permutations=self._permutations, **self._options)
        found = list(shingles(self.same(text), self.kind, self.size))
        for first in range(0, len(found), _PIECE):
            made.update_batch(found[first : first + _PIECE])
        return made.hashvalues

    def _buckets_of(self, signature: np.ndarray) -> Iterable[int]:
        """A number for each band, the same where all of its minima are the same."""
        used = signature[:, : self._bands * self._from_each].astype(np.uint64)
        bands = used.reshape(len(signature), self._bands, self._from_each)
        rows = bands.transpose(1, 0, 2).reshape(self._bands, -1)
        return ((rows @ self._mix)[:, 0] + self._salts).tolist()


def _hash(shingle: str) -> int:
    return crc32(shingle.encode("utf-8", "surrogatepass"))
