"""Who pays in the sample: cards, clients and their devices, and the patterns of fraud that come and go.

Nothing here depends on the number of rows: a client is the same person in a table of any size. Values are ours unless
`fraud.demo.sample_facts` states them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from fraud.demo import sample_facts as facts

CLIENTS = 40_000
CARDS = 13_553  # distinct card1
POOLS = np.array([0.60, 0.18, 0.09, 0.09, 0.04])  # clients by product
LATENTS = ("velocity", "tenure", "match", "identity", "spend")
SYSTEMS = ("Windows 10", "Windows 7", "iOS 11.2.1", "Android 7.0", "Mac OS X 10_12_6", "Linux", "iOS 11.1.2")
SYSTEM_SHARE = np.array([0.34, 0.17, 0.17, 0.16, 0.11, 0.01, 0.04])
MOBILE = np.array([False, False, True, True, False, False, True])
DEVICES: tuple[tuple[str, ...], ...] = (  # DeviceInfo by system
    ("Windows", "rv:57.0", "Trident/7.0"),
    ("Windows", "rv:52.0", "Trident/7.0"),
    ("iOS Device",),
    ("SM-J700M Build/MMB29K", "SM-G610M Build/MMB29K", "hi6210sft Build/MRA58K", "Moto G (4) Build/NPJ25.93-14"),
    ("MacOS", "rv:57.0"),
    ("Linux", "rv:56.0"),
    ("iOS Device",),
)
SCREENS: tuple[tuple[str, ...], ...] = (
    ("1920x1080", "1366x768", "1600x900"),
    ("1366x768", "1280x1024", "1920x1080"),
    ("1334x750", "2208x1242", "1136x640"),
    ("1280x720", "2220x1080", "1920x1080"),
    ("2560x1600", "1440x900", "2880x1800"),
    ("1920x1080", "1366x768"),
    ("2436x1125", "1334x750"),
)
DEVICE_NAMES = tuple(sorted({name for names in DEVICES for name in names} | {"SM-A300H Build/LRX22G", "KFFOWI Build"}))
SCREEN_NAMES = tuple(sorted({name for names in SCREENS for name in names} | {"1024x768", "800x600"}))


@dataclass(frozen=True)
class Pattern:
    """One way of committing fraud.

    Attributes
    ----------
    name : str
        What an investigator would call it.
    days : tuple of two floats
        Onset and end, in days of the calendar (0 to 183).
    weight : float
        How common it is while it lasts.
    products : str
        Where it happens.
    shift : mapping of str to float
        How far it moves each latent factor (standard deviations).
    amount : tuple of three floats or None
        Low, high (dollars) and the share of its payments that lie between them.
    credit : float
        How much likelier a credit card is hit.
    emails : sequence of str
        Addresses that the fraudster brings, and ``email_share`` how often.
    system : str
        Operating system of the fraudster's device, and ``device`` its DeviceInfo; ``system_share`` how often.
    fresh : float
        Above 1: clients without history are likelier.
    """

    name: str
    days: tuple[float, float]
    weight: float
    products: str = "WCRHS"
    shift: Mapping[str, float] = field(default_factory=dict)
    amount: tuple[float, float, float] | None = None
    credit: float = 2.5
    emails: Sequence[str] = ()
    email_share: float = 0.5
    system: str = ""
    device: str = ""
    system_share: float = 0.6
    fresh: float = 1.3


PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "stolen card", (-1, 999), 1.0, shift={"velocity": 1.5, "tenure": -0.9, "match": -1.1, "spend": 0.8},
        credit=3.0, emails=("hotmail.com", "outlook.com", "mail.com", "gmail.com"), email_share=0.4,
    ),
    Pattern(
        "card testing", (-1, 70), 1.1, "WC", {"velocity": 2.3, "match": -0.9, "spend": -1.2}, (1.0, 12.0, 0.8), 1.2,
        ("anonymous.com", "mail.com"), 0.4, "Linux", "Linux", 0.4, 1.1,
    ),
    Pattern(
        "account takeover", (25, 115), 1.0, "WRH", {"velocity": -0.4, "tenure": 1.7, "identity": 1.8, "match": 0.9},
        (180.0, 420.0, 0.6), 2.0, ("gmail.com", "icloud.com"), 0.2, "Mac OS X 10_12_6", "MacOS", 0.5, 0.7,
    ),
    Pattern(
        "device farm", (85, 999), 1.2, "CHS", {"identity": -1.8, "velocity": 0.7, "spend": 1.3}, (20.0, 60.0, 0.6), 2.5,
        ("outlook.com", "protonmail.com"), 0.45, "Android 7.0", "hi6210sft Build/MRA58K", 0.75, 1.2,
    ),
    Pattern(
        "gift cards", (120, 999), 1.3, "WRS", {"spend": 2.0, "tenure": -1.3, "match": 1.0, "velocity": -0.7},
        (95.0, 210.0, 0.75), 4.0, ("anonymous.com", "aol.com"), 0.35, "iOS 11.2.1", "iOS Device", 0.5, 1.5,
    ),
    Pattern(  # never by itself: `fraud.demo.sample_shift` puts it into a table, where no model has seen it
        "synthetic identity", (999, 999), 1.0, "WCRHS", {"velocity": -1.8, "match": 2.0, "identity": 0.4},
        (60.0, 110.0, 0.8), 0.4, ("comcast.net", "att.net", "msn.com"), 0.85, "Windows 10", "Windows", 0.8, 0.4,
    ),
)  # fmt: skip


def stream(*words: int | str) -> np.random.Generator:
    """Make the random generator that belongs to these words: the same on every machine and in every process."""
    numbers = [zlib.crc32(word.encode()) if isinstance(word, str) else word for word in words]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def cumulative(weights: np.ndarray) -> np.ndarray:
    """Cumulative shares, the last of which is exactly 1."""
    total = np.cumsum(np.asarray(weights, dtype=np.float64))
    return total / total[-1]


def choose(rng: np.random.Generator, shares: np.ndarray, rows: int) -> np.ndarray:
    """Draw ``rows`` indices with these cumulative shares."""
    return np.minimum(np.searchsorted(shares, rng.random(rows), side="right"), len(shares) - 1)


@dataclass(frozen=True)
class Population:
    """Clients and their cards; arrays of shape (CLIENTS,) unless stated.

    Attributes
    ----------
    card1, card2, card3, card4, card5, card6, addr1, addr2 : ndarray
        Values, ``card4`` and ``card6`` as indices into the facts' lists.
    email, system, device, screen : ndarray of int
        Indices.
    start : ndarray of float
        Day on which the client came, before the first day of the table.
    effect : ndarray of shape (CLIENTS, 5)
        What stays the same in a client's latent factors.
    activity : ndarray of float
        How often the client pays, relative.
    pools : list of ndarray
        Clients by product.
    kept : dict
        Shares that were asked for; here, because they must not outlive their clients.
    """

    card1: np.ndarray
    card2: np.ndarray
    card3: np.ndarray
    card4: np.ndarray
    card5: np.ndarray
    card6: np.ndarray
    addr1: np.ndarray
    addr2: np.ndarray
    email: np.ndarray
    system: np.ndarray
    device: np.ndarray
    screen: np.ndarray
    start: np.ndarray
    effect: np.ndarray
    activity: np.ndarray
    pools: list[np.ndarray]
    kept: dict[tuple[int, str], np.ndarray] = field(default_factory=dict, repr=False)

    def shares(self, product: int, pattern: Pattern | None) -> np.ndarray:
        """Cumulative share of each client of a product's pool, for legitimate payments or a pattern's victims."""
        key = (product, pattern.name if pattern else "")
        if key not in self.kept:
            pool = self.pools[product]
            weights = self.activity[pool]
            if pattern:  # victims: active or not, but credit cards and discover cards are likelier
                weights = weights**0.3 * np.where(self.card6[pool] == 1, pattern.credit, 1.0)
                weights = weights * np.where(self.card4[pool] == 3, 2.2, 1.0)
            self.kept[key] = cumulative(weights)
        return self.kept[key]

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


@lru_cache(maxsize=2)
def population(seed: int) -> Population:
    """Make the clients of a seed (milliseconds, then remembered)."""
    rng = stream(seed, "cards")
    number = np.sort(rng.permutation(np.arange(1_000, 18_397))[:CARDS])
    rng.shuffle(number)
    card2 = np.clip(np.rint(362.6 + 158 * rng.standard_normal(CARDS)), 100, 600)
    card3 = np.array([150, 185, 119, 144, 106, 231])[
        choose(rng, cumulative([0.885, 0.095, 0.005, 0.005, 0.005, 0.005]), CARDS)
    ]
    card5 = np.array([226, 224, 166, 102, 117, 138, 195, 137, 237, 162])[
        choose(rng, cumulative([0.50, 0.14, 0.10, 0.05, 0.045, 0.04, 0.04, 0.025, 0.04, 0.02]), CARDS)
    ]
    card4 = choose(rng, cumulative(list(facts.CARD4.values())), CARDS)
    card6 = choose(rng, cumulative(list(facts.CARD6.values())), CARDS)

    rng = stream(seed, "clients")
    card = choose(rng, cumulative((np.arange(CARDS) + 4.0) ** -0.8), CLIENTS)
    addr1 = np.clip(np.rint(290.7 + 101 * rng.standard_normal(CLIENTS)), 100, 540)
    addr2 = np.where(rng.random(CLIENTS) < 0.99, 87, np.rint(10 + 92 * rng.random(CLIENTS)))
    email = choose(rng, cumulative(list(facts.P_EMAILS.values())), CLIENTS)
    system = choose(rng, cumulative(SYSTEM_SHARE), CLIENTS)
    device = _index(DEVICES, DEVICE_NAMES, system, rng)
    screen = _index(SCREENS, SCREEN_NAMES, system, rng)
    start = -np.minimum(640, np.exp(4.9 + 1.0 * rng.standard_normal(CLIENTS)))
    effect = 0.45 * rng.standard_normal((CLIENTS, len(LATENTS)), dtype=np.float32)
    activity = np.exp(1.6 * rng.standard_normal(CLIENTS))
    home = choose(rng, cumulative(POOLS), CLIENTS)
    pools = [np.flatnonzero(home == product) for product in range(len(POOLS))]
    return Population(
        number[card], card2[card], card3[card], card4[card], card5[card], card6[card], addr1, addr2, email, system,
        device, screen, start, effect, activity, pools,
    )  # fmt: skip


def _index(
    names: tuple[tuple[str, ...], ...], all_names: tuple[str, ...], system: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw for each client one of the names that its system may have; earlier names are commoner."""
    draw = rng.random(len(system)) ** 2
    found = np.empty(len(system), dtype=np.int64)
    for at, choices in enumerate(names):
        mine = system == at
        codes = np.array([all_names.index(name) for name in choices])
        found[mine] = codes[(draw[mine] * len(choices)).astype(int)]
    return found
