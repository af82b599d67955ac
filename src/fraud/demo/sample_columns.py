"""The columns of the sample, family by family, from what happened (`fraud.demo.sample_rows.Scene`).

Shapes are IEEE-CIS's, values are ours: amounts follow the published quartiles, every null mask is exactly shared
within its block, and V columns are collinear within small groups.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa

from fraud.demo import sample_facts as facts
from fraud.demo.sample_people import DEVICE_NAMES, MOBILE, PATTERNS, SCREEN_NAMES, SYSTEMS, choose, cumulative
from fraud.demo.sample_rows import Scene
from fraud.demo.sample_v import v_columns

Columns = dict[str, np.ndarray]
_AMOUNT = {  # dollars at these quantiles, by product; together they give the published quartiles and mean
    "at": (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.9999, 1.0),
    "W": (1.0, 25.0, 52.0, 75.0, 129.0, 460.0, 1_200.0, 4_000.0, 31_937.391),
    "C": (0.251, 8.0, 20.0, 33.0, 54.0, 115.0, 240.0, 700.0, 5_191.0),
    "R": (5.0, 25.0, 50.0, 125.0, 200.0, 500.0, 800.0, 1_800.0, 2_000.0),
    "H": (5.0, 15.0, 30.0, 50.0, 100.0, 200.0, 400.0, 1_000.0, 1_800.0),
    "S": (3.0, 10.0, 20.0, 35.0, 60.0, 200.0, 500.0, 1_400.0, 1_600.0),
}
# log level of each count for W and for the other products; C3 hardly ever is above 0
_C_LEVEL = np.array([0.55, 0.55, -2.6, -3.2, 0.0, 0.35, -3.4, -3.2, 0.2, -3.2, 0.4, -3.3, 1.1, 0.4])
_C_OTHER = np.array([0.75, 0.85, -2.6, 0.35, -4.0, 0.3, 0.1, 0.45, -4.0, 0.45, 0.35, 0.2, 0.3, 0.1])
_M_LEVEL = {"M1": 3.7, "M2": 1.25, "M3": 0.8, "M5": -0.1, "M6": -0.1, "M7": -1.1, "M8": -0.35, "M9": 1.0}
_BROWSERS = (
    "chrome",
    "mobile safari",
    "ie 11.0 for desktop",
    "safari generic",
    "edge",
    "firefox",
    "chrome for android",
)


def build(scene: Scene, wanted: Collection[str]) -> dict[str, pa.Array]:
    """Make the wanted columns of a chunk.

    Returns
    -------
    dict of str to pyarrow Array
        In no particular order; doubles, 64-bit integers and strings, with nulls.
    """
    there = masks(scene)
    found: Columns = {
        "TransactionID": facts.FIRST_ID + scene.index,
        "isFraud": scene.fraud.astype(np.int64),
        "TransactionDT": scene.second,
        "card1": scene.people.card1[scene.client].astype(np.int64),
    }
    for family in (_payment, _counts, _delays, _matches, _identity, _device):
        found |= family(scene, there)
    found |= v_columns(scene, [name for name in wanted if name[0] == "V"])
    return {name: _arrow(name, found[name], there.get(name)) for name in wanted}


def _arrow(name: str, values: np.ndarray, there: np.ndarray | None) -> pa.Array:
    absent = None if there is None else ~there
    if name in facts.TEXTS:
        lexicon = LEXICONS[name]
        codes = pa.array(values.astype(np.int32), mask=absent)
        return pa.DictionaryArray.from_arrays(codes, pa.array(lexicon)).cast(pa.string())
    if name in facts.INTEGERS:
        return pa.array(values.astype(np.int64))
    return pa.array(values.astype(np.float64), mask=absent)


@lru_cache(maxsize=1)
def _presence() -> list[tuple[list[str], np.ndarray, str]]:
    return [(facts.expand(names), facts.presence(*rest), draw) for names, *rest, draw in facts.MASKS]


def masks(scene: Scene) -> dict[str, np.ndarray]:
    """Tell for each column where it has a value; columns of one block share one array."""
    fresh = np.ones(len(scene))
    for at, pattern in enumerate(PATTERNS):
        fresh = np.where((scene.pattern == at) & (scene.strength > 0), pattern.fresh, fresh)
    draws: dict[str, np.ndarray] = {}
    there: dict[str, np.ndarray] = {}
    for names, probability, draw in _presence():
        if draw not in draws:
            draws[draw] = scene.rng(f"mask {draw}").random(len(scene))
            if draw in ("tenure", "M4", "email"):  # a client without history: its delays and matches are missing
                draws[draw] = draws[draw] ** (1 / fresh)
        shared = draws[draw] < probability[scene.block, scene.product]
        there |= dict.fromkeys(names, shared)
    return there


def _payment(scene: Scene, there: dict[str, np.ndarray]) -> Columns:
    people, client = scene.people, scene.client
    rng = scene.rng("payment")
    emails = list(facts.P_EMAILS)
    email = people.email[client].copy()
    recipients = np.array([EMAILS.index(name) for name in facts.R_EMAILS])
    other = recipients[choose(rng, cumulative(list(facts.R_EMAILS.values())), len(scene))]
    own = np.array([EMAILS.index(name) for name in emails])
    email = own[email]
    brought, which = rng.random(len(scene)), rng.random(len(scene))
    for at, pattern in enumerate(PATTERNS):
        if pattern.emails:
            mine = (scene.pattern == at) & (brought < pattern.email_share * (scene.strength > 0))
            codes = np.array([EMAILS.index(name) for name in pattern.emails])
            email = np.where(mine, codes[(which * len(codes)).astype(int)], email)
    recipient = np.where(rng.random(len(scene)) < np.where(scene.fraud, 0.75, 0.5), email, other)
    far = rng.standard_normal(len(scene))
    return {
        "TransactionAmt": _amount(scene, scene.rng("amount")),
        "ProductCD": scene.product,
        "card2": people.card2[client],
        "card3": np.where((scene.product == 1) & (rng.random(len(scene)) < 0.6), 185, people.card3[client]),
        "card4": people.card4[client],
        "card5": people.card5[client],
        "card6": people.card6[client],
        "addr1": people.addr1[client],
        "addr2": people.addr2[client],
        "dist1": np.minimum(10_286, np.floor(np.exp(2.6 + 1.9 * far + 0.35 * scene.factor("identity")))),
        "dist2": np.minimum(11_623, np.floor(np.exp(3.3 + 1.9 * far))),
        "P_emaildomain": email,
        "R_emaildomain": recipient,
    }


def _amount(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Heavy-tailed amounts with the price points that people know: whole dollars, .95, multiples of 25."""
    draw = rng.random(len(scene))
    draw = draw ** np.exp(-0.15 * scene.factor("spend"))
    amount = np.empty(len(scene))
    for at, product in enumerate(facts.PRODUCTS):
        mine = scene.product == at
        amount[mine] = np.exp(np.interp(draw[mine], _AMOUNT["at"], np.log(_AMOUNT[product])))
    kind, cents = rng.random(len(scene)), rng.random(len(scene))
    whole = np.maximum(1, np.rint(amount))
    priced = np.select([kind < 0.35, kind < 0.65], [whole, whole - 0.05], np.round(amount, 2))
    priced = np.where((scene.product >= 2) & (kind < 0.7), np.maximum(5, np.rint(amount / 25) * 25), priced)
    priced = np.where(scene.product == 1, np.round(amount, 3), priced)
    for at, pattern in enumerate(PATTERNS):
        if pattern.amount:
            low, high, share = pattern.amount
            mine = (scene.pattern == at) & (cents < share * (scene.strength > 0))
            between = low * (high / low) ** rng.random(len(scene))
            priced = np.where(mine, np.round(between, 2), priced)
    return np.asarray(np.clip(priced, 0.251, 31_937.391))


def _counts(scene: Scene, there: dict[str, np.ndarray]) -> Columns:
    """C1 to C14: heavy-tailed counts that move together."""
    rng = scene.rng("C")
    velocity = scene.factor("velocity")[:, None]
    level = np.where((scene.product == 0)[:, None], _C_LEVEL, _C_OTHER)
    own = rng.standard_normal((len(scene), 14), dtype=np.float32)
    busy = np.where(scene.client % 80 == 0, 4.0, 0.0)[:, None]  # shops and agencies that pay all day
    known = 0.35 * scene.factor("tenure")[:, None] * np.array([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0])
    counts = np.floor(np.exp(level + 0.9 * velocity + 0.6 * own + busy * (level > -2) + known))
    return {f"C{k + 1}": np.minimum(counts[:, k], 4_685) for k in range(14)}


def _delays(scene: Scene, there: dict[str, np.ndarray]) -> Columns:
    """D1 to D15: days since something; day - D1 is constant for a client that is known."""
    rng = scene.rng("D")
    n, tenure = len(scene), scene.factor("tenure")
    known = there["D2"]
    age = np.floor(scene.day - scene.people.start[scene.client])
    if scene.steady:  # clients leave and others come: nobody grows older on average
        age = np.floor(np.mod(scene.day - 7 * scene.people.start[scene.client], 420))
    # A fraudster's victim looks older or younger than the client is
    age = np.where(scene.fraud, np.floor(age * np.exp(0.5 * tenure)), age)
    d1 = np.where(known, np.clip(age, 1, 640), 0)
    gap = np.floor(-np.log1p(-rng.random(n)) * np.exp(2.6 + 0.5 * tenure))
    d3 = np.minimum(gap, np.maximum(d1, 0))
    extra = rng.standard_normal((n, 6), dtype=np.float32)

    def older(at: int, zero: float, level: float) -> np.ndarray:
        grown = np.floor(np.exp(level + 0.55 * tenure + 0.9 * extra[:, at]))
        return np.asarray(np.where(extra[:, at] < zero, 0.0, np.where(known, d1 + grown * 0.3, grown))).clip(0, 870)

    rare = rng.random((n, 5))
    return {
        "D1": d1, "D2": d1, "D3": d3,
        "D4": older(0, -0.5, 4.0), "D5": np.floor(d3 * (0.5 + rare[:, 0])), "D6": older(1, 0.2, 3.5),
        "D7": np.floor(d3 * 0.7), "D8": np.round(np.exp(3.5 + 1.6 * extra[:, 2] + 0.4 * tenure), 6),
        "D9": np.round(scene.hour / 24, 6), "D10": older(3, -0.3, 4.1), "D11": older(4, -0.7, 4.4),
        "D12": older(1, 0.3, 3.2), "D13": np.where(rare[:, 1] < 0.9, 0, np.floor(rare[:, 2] * 600)),
        "D14": np.where(rare[:, 3] < 0.8, 0, np.floor(rare[:, 4] * 600)), "D15": older(5, -0.6, 4.3),
    }  # fmt: skip


def _matches(scene: Scene, there: dict[str, np.ndarray]) -> Columns:
    """M1 to M9: whether names and addresses match; M4 has three levels and is the strongest."""
    rng = scene.rng("M")
    match = scene.factor("match")
    noise = {name: rng.standard_normal(len(scene), dtype=np.float32) for name in [*_M_LEVEL, "M4"]}
    found = {name: (level + 0.85 * match + noise[name] > 0).astype(int) for name, level in _M_LEVEL.items()}
    level = -1.0 * match + noise["M4"] + np.where(scene.product == 1, 1.2, -0.6)
    return found | {"M4": (level > -0.35).astype(int) + (level > 0.75)}


def _identity(scene: Scene, there: dict[str, np.ndarray]) -> Columns:
    """id_01 to id_38 without the device: scores, counts and short codes."""
    rng = scene.rng("id")
    n, z = len(scene), scene.factor("identity")
    noise = {k: rng.standard_normal(n, dtype=np.float32) for k in range(1, 39)}
    draw = {k: rng.random(n) for k in range(1, 39)}

    def often(k: int, usual: float, share: float, other: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.asarray(np.where(draw[k] < share, usual, other(noise[k])))

    def yes(k: int, level: float, weight: float = 0.5) -> np.ndarray:
        return (level + weight * z + noise[k] > 0).astype(int)

    return {
        "id_01": np.clip(-5 * np.floor(np.exp(0.35 - 0.55 * z + 0.6 * noise[1])), -100, 0),
        "id_02": np.clip(np.floor(np.exp(11.3 - 0.35 * z + 0.9 * noise[2])), 1, 999_595),
        "id_03": often(3, 0, 0.85, lambda e: np.clip(np.rint(2 * e), -13, 10)),
        "id_04": often(4, 0, 0.97, lambda e: np.clip(-np.rint(5 * np.abs(e)), -28, 0)),
        "id_05": often(5, 0, 0.45, lambda e: np.clip(np.rint(5 * e + 2 * z), -72, 52)),
        "id_06": often(6, 0, 0.45, lambda e: np.clip(-np.floor(np.abs(12 * e) * np.exp(-0.3 * z)), -100, 0)),
        "id_07": np.clip(np.rint(13 + 11 * noise[7]), -46, 61), "id_08": np.clip(np.rint(-38 + 26 * noise[8]), -100, 0),
        "id_09": often(9, 0, 0.85, lambda e: np.clip(np.rint(3 * e), -36, 25)),
        "id_10": often(10, 0, 0.95, lambda e: np.clip(-np.rint(8 * np.abs(e)), -100, 0)),
        "id_11": often(11, 100, 0.95, lambda e: np.round(np.clip(97 + 1.5 * e, 90, 100), 2)),
        "id_12": yes(12, 1.0, 0.2), "id_13": np.clip(np.rint(48 + 9 * noise[13] - 0.04 * scene.age), 10, 64),
        "id_14": -60 * np.clip(np.rint(5.5 + 1.6 * noise[14]), -11, 11), "id_15": (yes(15, 0.2) + yes(16, -1.2)),
        "id_16": yes(16, 0.3), "id_17": np.where(yes(17, 0.1), 166, 225) + 0.0,
        "id_18": np.array([15, 13, 12, 18, 20.0])[choose(rng, cumulative([6, 2.5, 1, 0.3, 0.2]), n)],
        "id_19": np.clip(np.rint(353 + 141 * noise[19] - 25 * z), 100, 671),
        "id_20": np.clip(np.rint(404 + 152 * noise[20] + 45 * z), 100, 661),
        "id_21": np.rint(252 + 550 * np.abs(noise[21])), "id_22": often(22, 14, 0.9, lambda e: np.rint(30 + 8 * e)),
        "id_23": (draw[23] > 0.65).astype(int) + (draw[23] > 0.88),
        "id_24": often(24, 11, 0.6, lambda e: np.rint(16 + 4 * e)),
        "id_25": np.rint(np.clip(330 + 97 * noise[25], 100, 548)),
        "id_26": np.rint(np.clip(149 + 32 * noise[26], 100, 216)),
        "id_27": (draw[27] > 0.997).astype(int), "id_28": yes(28, 0.1), "id_29": yes(28, 0.0),
        "id_32": np.where(draw[32] < 0.7, 24, 32) + 0.0,
        "id_34": np.minimum(3, (draw[34] > 0.77).astype(int) + (draw[34] > 0.992)),
        "id_35": yes(35, 0.2, -0.4), "id_36": (draw[36] > 0.95).astype(int), "id_37": yes(37, 0.8, 0.2),
        "id_38": yes(38, 0.1, 0.35),
    }  # fmt: skip


def _device(scene: Scene, there: dict[str, np.ndarray]) -> Columns:
    """Operating system, browser (which ages: its version grows with time), screen and device."""
    rng = scene.rng("device")
    people, client, n = scene.people, scene.client, len(scene)
    system, device = people.system[client].copy(), people.device[client].copy()
    screen = people.screen[client]
    brought, odd = rng.random(n), rng.random(n)
    for at, pattern in enumerate(PATTERNS):
        if pattern.system:
            mine = (scene.pattern == at) & (brought < pattern.system_share * (scene.strength > 0))
            system = np.where(mine, SYSTEMS.index(pattern.system), system)
            device = np.where(mine, DEVICE_NAMES.index(pattern.device), device)
    usual = np.array([0, 2, 1, 6, 3, 5, 1])[system]
    kind = np.where((odd < 0.3) & (system <= 1), np.array([0, 4, 5])[(odd * 10).astype(int).clip(0, 2)], usual)
    version = np.clip((scene.age / 22 - rng.random(n) * 1.6).astype(int), 0, 8)
    return {
        "id_30": system, "id_31": kind * 9 + version, "id_33": screen,
        "DeviceType": MOBILE[system].astype(int), "DeviceInfo": device,
    }  # fmt: skip


def _browser(kind: int, version: int) -> str:
    name = _BROWSERS[kind]
    if name == "chrome":
        return f"chrome {59 + version}.0"
    if name == "chrome for android":
        return f"chrome {59 + version}.0 for android"
    if name == "mobile safari":
        return "mobile safari 10.0" if version < 2 else "mobile safari 11.0"
    if name == "edge":
        return f"edge {14 + version // 2}.0"
    return f"firefox {55 + version}.0" if name == "firefox" else name


EMAILS: tuple[str, ...] = tuple(sorted({*facts.P_EMAILS, *facts.R_EMAILS}))
_TF = ("F", "T")
LEXICONS: dict[str, Sequence[str]] = {
    "ProductCD": facts.PRODUCTS, "card4": tuple(facts.CARD4), "card6": tuple(facts.CARD6), "P_emaildomain": EMAILS,
    "R_emaildomain": EMAILS, **{f"M{k}": _TF for k in range(1, 10)}, "M4": ("M0", "M1", "M2"),
    "id_12": ("NotFound", "Found"), "id_15": ("New", "Found", "Unknown"), "id_16": ("NotFound", "Found"),
    "id_23": ("IP_PROXY:TRANSPARENT", "IP_PROXY:ANONYMOUS", "IP_PROXY:HIDDEN"), "id_27": ("Found", "NotFound"),
    "id_28": ("New", "Found"), "id_29": ("NotFound", "Found"), "id_30": SYSTEMS,
    "id_31": tuple(_browser(kind, version) for kind in range(7) for version in range(9)), "id_33": SCREEN_NAMES,
    "id_34": ("match_status:2", "match_status:1", "match_status:0", "match_status:-1"),
    **{f"id_{k}": _TF for k in (35, 36, 37, 38)}, "DeviceType": ("desktop", "mobile"), "DeviceInfo": DEVICE_NAMES,
}  # fmt: skip
