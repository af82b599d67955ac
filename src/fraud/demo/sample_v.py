"""V1 to V339: engineered columns that come in collinear groups, three kinds of them."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import numpy as np

from fraud.demo import sample_facts as facts
from fraud.demo.sample_people import LATENTS
from fraud.demo.sample_rows import Scene

GROUP = 3  # neighbouring columns that say the same
_DOLLARS = {*range(126, 138), *range(159, 161), *range(164, 167), *range(202, 217), *range(263, 279)} | {
    *range(306, 322), *range(331, 340)
}  # fmt: skip
_COUNTS = {*range(95, 126), *range(143, 159), *range(167, 202), *range(217, 263), *range(279, 306), *range(322, 331)}


@lru_cache(maxsize=1)
def _families() -> list[tuple[str, list[str]]]:
    """Columns by null mask, in order."""
    found = [(names, [name for name in facts.expand(names) if name[0] == "V"]) for names, *_ in facts.MASKS]
    return [(names, columns) for names, columns in found if columns]


def _factor(number: int) -> str:
    """The latent factor that a column mostly follows."""
    if number in _DOLLARS:
        return "spend"
    if number <= 11 or 279 <= number <= 305:
        return "tenure" if number % 4 == 1 else "velocity"
    if number <= 94:
        return "match"
    return "velocity" if number <= 125 or number >= 322 else "identity"


def v_columns(scene: Scene, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Make the wanted V columns.

    Each follows one latent factor and a group's own noise closely: neighbours are collinear, as in the published
    table, where 89 principal components keep 95 % of the variance within blocks.
    """
    found: dict[str, np.ndarray] = {}
    asked = set(wanted)
    for name, columns in _families():
        if not asked & set(columns):
            continue
        rng = scene.rng(f"V {name}")
        groups = (len(columns) + GROUP - 1) // GROUP
        shared = rng.standard_normal((len(scene), groups), dtype=np.float32)
        own = rng.standard_normal((len(columns), len(scene)), dtype=np.float32)
        for at, column in enumerate(columns):
            if column in asked:
                number = int(column[1:])
                factor = scene.latent[:, LATENTS.index(_factor(number))]
                value = 0.65 * factor + 0.75 * shared[:, at // GROUP] + 0.18 * own[at]
                found[column] = _value(number, value)
    return found


def _value(number: int, value: np.ndarray) -> np.ndarray:
    """Turn a factor's value into what such a column holds: dollars, a count, or a small whole number."""
    level = (number * 0.618034) % 1.0
    if number in _DOLLARS:
        return np.asarray(
            np.where(value < 0.3 - level, 0.0, np.round(np.exp(3.2 + 1.3 * level + 1.1 * value.astype(float)), 4))
        )
    if number in _COUNTS:
        return np.asarray(np.minimum(np.floor(np.exp(0.4 * level + 0.9 * value)), 1_000))
    return np.clip(np.floor(0.75 + 0.5 * level + 0.8 * value), 0, 7)
