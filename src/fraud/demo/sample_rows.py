"""What happens in one chunk of the sample: when, who, which product, fraud or not and of which pattern.

All columns are later derived from this `Scene`, so a table with fewer columns holds the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fraud.demo import sample_facts as facts
from fraud.demo.sample_people import LATENTS, PATTERNS, Pattern, Population, choose, cumulative, population, stream

WINDOW = 2.0  # days for which a group of stolen cards is in use
DAYS = 183
STEADY_BLOCK = 4


@dataclass
class Scene:
    """One chunk, array by array of shape (n,).

    Attributes
    ----------
    seed, chunk : int
        Where its random draws come from.
    index : ndarray of int
        Number of each row in the table.
    second : ndarray of int
        TransactionDT.
    product, pattern : ndarray of int
        Indices; ``pattern`` is -1 for a legitimate payment.
    fraud : ndarray of bool
    client : ndarray of int
    latent : ndarray of shape (n, 5), float32
    strength : ndarray of float
        How clearly a fraud shows its pattern; 0 looks legitimate.
    people : Population
    steady : bool
        Whether nothing but the patterns of fraud changes with time.
    """

    seed: int
    chunk: int
    index: np.ndarray
    second: np.ndarray
    product: np.ndarray
    pattern: np.ndarray
    fraud: np.ndarray
    client: np.ndarray
    latent: np.ndarray
    strength: np.ndarray
    people: Population
    steady: bool = False

    def __len__(self) -> int:
        return len(self.index)

    @property
    def day(self) -> np.ndarray:
        """Day of the calendar, from 0."""
        return self.second // facts.DAY - 1

    @property
    def hour(self) -> np.ndarray:
        """Hour of the day."""
        return self.second // 3600 % 24

    @property
    def block(self) -> np.ndarray:
        """30-day block, 0 to 6; always the same one in a steady world."""
        return np.where(self.steady, STEADY_BLOCK, np.minimum(self.day // facts.BLOCK_DAYS, 6))

    @property
    def age(self) -> np.ndarray:
        """Days by which browsers and the like have aged."""
        return np.where(self.steady, STEADY_BLOCK * facts.BLOCK_DAYS, self.day)

    def factor(self, name: str) -> np.ndarray:
        """One latent factor."""
        return np.asarray(self.latent[:, LATENTS.index(name)])

    def rng(self, name: str) -> np.random.Generator:
        """Random draws of one family of columns, independent of all others."""
        return stream(self.seed, self.chunk, name)


@lru_cache(maxsize=4)
def _calendar(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Second of the calendar at each cumulated share of rows: blocks, days and hours have their published weights."""
    rng = stream(seed, "calendar")
    day = np.clip(np.exp(0.16 * rng.standard_normal(DAYS)), 0.6, 1.7)
    weight = np.zeros((DAYS, 24))
    for block, rows in enumerate(facts.BLOCK_ROWS):
        days = slice(block * facts.BLOCK_DAYS, min((block + 1) * facts.BLOCK_DAYS, DAYS))
        part = day[days, None] * facts.HOUR_ROWS[None, :]
        weight[days] = rows * part / part.sum()
    share = np.concatenate([[0.0], cumulative(weight.ravel())])
    second = facts.FIRST_SECOND + 3600.0 * np.arange(DAYS * 24 + 1)
    second[-1] = facts.LAST_SECOND
    return share, second


@lru_cache(maxsize=4)
def _bursts(seed: int) -> np.ndarray:
    """How much likelier than usual fraud is in each two-hour slot; mean 1."""
    slots = stream(seed, "bursts").standard_gamma(2.5, DAYS * 12)
    return np.asarray(slots / slots.mean())


def scene(rows: int, seed: int, chunk: int, size: int, steady: bool = False) -> Scene:
    """Draw chunk number ``chunk`` (of ``size`` rows) of a table of ``rows`` rows."""
    index = np.arange(chunk * size, min((chunk + 1) * size, rows))
    n = len(index)
    rng = stream(seed, chunk, "scene")
    people = population(seed)
    at = (index + rng.random(n)) / rows  # one draw within each row's own share of time: sorted, whatever the size
    second = np.minimum(np.interp(at, *_calendar(seed)), facts.LAST_SECOND).astype(np.int64)
    day, hour = second // facts.DAY - 1, second // 3600 % 24
    block = np.where(steady, STEADY_BLOCK, np.minimum(day // facts.BLOCK_DAYS, 6))

    mix = np.cumsum(facts.product_mix(), axis=1)
    product = (rng.random(n)[:, None] > mix[block, :4]).sum(axis=1)
    rate = facts.fraud_rates()[block, product, hour] * _bursts(seed)[np.minimum(second // 7200 - 12, DAYS * 12 - 1)]
    fraud = rng.random(n) < np.minimum(rate, 0.95)
    pattern = _patterns(day, product, fraud, rng.random(n))
    client = _clients(people, seed, chunk, rows, second, product, fraud, pattern)
    latent, strength = draw_latents(stream(seed, chunk, "latent"), people, client, fraud, pattern)
    return Scene(seed, chunk, index, second, product, pattern, fraud, client, latent, strength, people, steady)


def _patterns(day: np.ndarray, product: np.ndarray, fraud: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Pattern of each fraud: those that are active that day and happen with that product, by weight."""
    active = np.stack([(day >= p.days[0]) & (day < p.days[1]) for p in PATTERNS], axis=1)
    suits = np.array([[name in p.products for p in PATTERNS] for name in facts.PRODUCTS])
    weight = active * suits[product] * np.array([p.weight for p in PATTERNS])
    share = np.cumsum(weight, axis=1)
    found = (draw[:, None] * share[:, -1:] >= share).sum(axis=1)
    return np.where(fraud, np.minimum(found, len(PATTERNS) - 1), -1)


def _clients(
    people: Population,
    seed: int,
    chunk: int,
    rows: int,
    second: np.ndarray,
    product: np.ndarray,
    fraud: np.ndarray,
    pattern: np.ndarray,
) -> np.ndarray:
    """Who pays: clients that recur, some of them several times in a row; frauds hit a few cards in bursts."""
    n = len(second)
    rng = stream(seed, chunk, "clients")
    client = np.empty(n, dtype=np.int64)
    for kind in range(len(facts.PRODUCTS)):
        mine = np.flatnonzero((product == kind) & ~fraud)
        picked = people.pools[kind][choose(rng, people.shares(kind, None), len(mine))]
        again = rng.random(len(mine)) < 0.12  # the client of the row before, in this product
        if len(mine):
            again[0] = False
        source = np.maximum.accumulate(np.where(again, 0, np.arange(len(mine))))
        client[mine] = picked[source]
    stolen = max(1, round(rows * 0.035 * WINDOW / 182 / 12))  # cards in use at a time, by product and pattern
    window = (second / facts.DAY / WINDOW).astype(np.int64)
    where = np.flatnonzero(fraud)
    draw = rng.random(len(where))
    for key in sorted(set(zip(window[where].tolist(), product[where].tolist(), pattern[where].tolist(), strict=True))):
        mine = (window[where] == key[0]) & (product[where] == key[1]) & (pattern[where] == key[2])
        chosen = PATTERNS[key[2]]
        group = people.pools[key[1]][choose(stream(seed, "stolen", *key), people.shares(key[1], chosen), stolen)]
        client[where[mine]] = group[(draw[mine] ** 1.5 * stolen).astype(int)]
    return client


def draw_latents(
    rng: np.random.Generator, people: Population, client: np.ndarray, fraud: np.ndarray, pattern: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Latent factors: a client's own, noise with heavy tails, and what a pattern of fraud adds."""
    n = len(client)
    noise = rng.standard_normal((n, len(LATENTS)), dtype=np.float32)
    noise *= np.where(rng.random(n) < 0.12, 1.7, 0.9).astype(np.float32)[:, None]
    latent = people.effect[client] + noise
    strength = np.where(rng.random(n) < 0.08, 0.0, np.clip(1.45 + 0.4 * rng.standard_normal(n), 0.1, 2.2)) * fraud
    for at, item in enumerate(PATTERNS):
        latent[pattern == at] += vector(item) * strength[pattern == at, None].astype(np.float32)
    return latent, strength


def vector(pattern: Pattern) -> np.ndarray:
    """A pattern's shift as an array in the order of the latent factors."""
    return np.array([pattern.shift.get(name, 0.0) for name in LATENTS], dtype=np.float32)
