"""Published facts about the IEEE-CIS fraud table: what the sample imitates. No row of that table is here.

Numbers are re-typed from public analyses of ``train_transaction`` left join ``train_identity`` (590,540 rows, 434
columns): counts by category and time from AdamKadri-bit/fraud-detection-ml and the notebooks of
Shreevatsa123/transaction-fraud-detection-system; missing rates and null blocks as published by several; drift of
missing rates from jjabuk/ieee-cis-fraud-detection-eda (MIT). What none of them states is ours and marked so.
"""

from __future__ import annotations

import numpy as np

FIRST_ID = 2_987_000
ROWS = 590_540
FRAUDS = 20_663
FIRST_SECOND, LAST_SECOND = 86_400, 15_811_131  # TransactionDT
DAY = 86_400

# --- columns, in order -----------------------------------------------------------------------------------------------

INTEGERS = ("TransactionID", "isFraud", "TransactionDT", "card1")
TEXTS = (
    "ProductCD card4 card6 P_emaildomain R_emaildomain M1 M2 M3 M4 M5 M6 M7 M8 M9 id_12 id_15 id_16 id_23 id_27 id_28 "
    "id_29 id_30 id_31 id_33 id_34 id_35 id_36 id_37 id_38 DeviceType DeviceInfo"
).split()
COLUMNS: tuple[str, ...] = (
    *"TransactionID isFraud TransactionDT TransactionAmt ProductCD card1 card2 card3 card4 card5 card6".split(),
    *"addr1 addr2 dist1 dist2 P_emaildomain R_emaildomain".split(),
    *(f"C{k}" for k in range(1, 15)),
    *(f"D{k}" for k in range(1, 16)),
    *(f"M{k}" for k in range(1, 10)),
    *(f"V{k}" for k in range(1, 340)),
    *(f"id_{k:02d}" for k in range(1, 39)),
    "DeviceType",
    "DeviceInfo",
)
CORE: tuple[str, ...] = (  # ours: each family is there, and every pattern of fraud can be learnt from it
    *COLUMNS[: COLUMNS.index("D6")],
    *"D10 D11 D15 M1 M2 M3 M4 M5 M6 M7 M8 M9 V12 V45 V75 V87 V127 V130 V258 V283 V308 V313".split(),
    *"id_01 id_02 id_05 id_20 id_30 id_31 DeviceType DeviceInfo".split(),
)

# --- time ------------------------------------------------------------------------------------------------------------

BLOCK_DAYS = 30
BLOCK_ROWS = np.array([134_339, 89_399, 92_189, 98_615, 83_571, 86_934, 5_493.0])  # the last block has two days
BLOCK_FRAUD = np.array([2.53, 4.00, 4.04, 3.95, 3.41, 3.42, 3.42]) / 100
# Transactions and fraud by hour of day, relative. Known: fraud 10.61 % at hour 7 and 2.29 % at 13; the curve is ours.
HOUR_ROWS = np.array(
    [1.40, 1.25, 1.10, 0.90, 0.62, 0.38, 0.22, 0.14, 0.10, 0.11, 0.17, 0.33, 0.60]
    + [0.90, 1.20, 1.40, 1.55, 1.62, 1.65, 1.68, 1.66, 1.60, 1.55, 1.48]
)
HOUR_FRAUD = np.array(
    [0.95, 0.95, 1.00, 1.10, 1.45, 2.00, 2.60, 3.03, 2.80, 2.50, 1.90, 1.20, 0.80]
    + [0.65, 0.75, 0.85, 0.85, 0.90, 0.95, 0.95, 1.00, 1.00, 1.00, 1.00]
)

# --- products --------------------------------------------------------------------------------------------------------

PRODUCTS = ("W", "C", "R", "H", "S")
PRODUCT_ROWS = np.array([439_670, 68_519, 37_699, 33_024, 11_628.0])
PRODUCT_FRAUD = np.array([2.04, 11.69, 3.78, 4.77, 5.90]) / 100
PRODUCT_IDENTITY = np.array([0.0, 0.908, 0.996, 0.996, 0.996])  # share with an identity record
BLOCK_IDENTITY = np.array([43.2, 18.2, 18.8, 18.7, 17.7, 21.1, 21.1]) / 100


def product_mix() -> np.ndarray:
    """Share of each product in each 30-day block, array of shape (7, 5).

    C and S are steady; R and H carry the fall of identity records after the first block (that is how their published
    drift reads), and all is scaled to the published totals.
    """
    share = PRODUCT_ROWS / PRODUCT_ROWS.sum()
    weight = BLOCK_ROWS / BLOCK_ROWS.sum()
    steady = share[1] * PRODUCT_IDENTITY[1] + share[4] * PRODUCT_IDENTITY[4]
    falling = np.clip((BLOCK_IDENTITY - steady) / PRODUCT_IDENTITY[2], 0.01, None)
    falling *= (share[2] + share[3]) / float(weight @ falling)
    mix = np.empty((7, 5))
    mix[:, 1], mix[:, 4] = share[1], share[4]
    mix[:, 2] = falling * share[2] / (share[2] + share[3])
    mix[:, 3] = falling * share[3] / (share[2] + share[3])
    mix[:, 0] = 1 - mix[:, 1:].sum(axis=1)
    return mix


# --- categories: (value, rows); the last number of a pair of lists is how much likelier fraud is there -------------

CARD4 = {"visa": 384_767, "mastercard": 189_217, "american express": 8_328, "discover": 6_651}
CARD6 = {"debit": 439_938, "credit": 148_986, "debit or credit": 30, "charge card": 15}
P_EMAILS = {
    "gmail.com": 228_355, "yahoo.com": 100_934, "hotmail.com": 45_250, "anonymous.com": 36_998, "aol.com": 28_289,
    "comcast.net": 7_888, "icloud.com": 6_267, "outlook.com": 5_096, "msn.com": 4_092, "att.net": 4_033,
    "live.com": 3_000, "sbcglobal.net": 2_900, "verizon.net": 2_700, "ymail.com": 2_400, "bellsouth.net": 1_900,
    "yahoo.com.mx": 1_500, "me.com": 1_500, "cox.net": 1_400, "optonline.net": 1_000, "charter.net": 800,
    "live.com.mx": 750, "rocketmail.com": 660, "mail.com": 559, "earthlink.net": 510, "gmail": 500,
    "outlook.es": 440, "mac.com": 430, "juno.com": 320, "protonmail.com": 80,
}  # fmt: skip
R_EMAILS = {
    "gmail.com": 57_147, "hotmail.com": 27_509, "anonymous.com": 20_529, "yahoo.com": 11_842, "aol.com": 3_701,
    "outlook.com": 2_507, "comcast.net": 1_800, "yahoo.com.mx": 1_500, "icloud.com": 1_400, "msn.com": 850,
    "live.com": 760, "live.com.mx": 750, "verizon.net": 620, "sbcglobal.net": 550, "outlook.es": 430, "mail.com": 120,
    "protonmail.com": 40,
}  # fmt: skip
DESKTOP, MOBILE = 85_165, 55_645  # rows by DeviceType

# --- missing values --------------------------------------------------------------------------------------------------
# Each mask: columns, published missing %, presence by product (W C R H S, relative), how much rarer it is in the first
# block, and the draw it shares: masks with the same draw are nested, as in the published table. Shapes follow the
# published null rates early and late: M1-3 0.69 -> 0.28, M7-9 0.84 -> 0.39, V12-34 0.31 -> 0.08, D2 0.58 -> 0.42.

GROWTH = np.array([0, 0.5, 0.65, 0.8, 0.95, 1.0, 1.0])  # how a column that begins to be collected gets there
_W, _WC, _ALL = (1, 0, 0, 0, 0), (1, 1, 0.03, 0.03, 0.03), (1, 1, 1, 1, 1)
_ID, _HRS = (0, 0.9, 1, 1, 1), (0, 0, 1, 1, 1)
MASKS: tuple[tuple[str, float, tuple[float, ...], float, str], ...] = (
    ("card2", 1.512683, _ALL, 1, "card2"),
    ("card3", 0.265012, _ALL, 1, "card"),
    ("card4", 0.267044, _ALL, 1, "card"),
    ("card6", 0.266028, _ALL, 1, "card"),
    ("card5", 0.721204, _ALL, 1, "card5"),
    ("addr1 addr2", 11.126427, (0.995, 0.09, 0.97, 0.97, 0.97), 1, "addr"),
    ("dist1", 59.652352, _W, 1, "dist1"),
    ("dist2", 93.628374, (0, 0.2, 0.28, 0.28, 0.28), 1, "dist2"),
    ("P_emaildomain", 15.994852, (0.80, 1, 1, 1, 1), 1, "email"),
    ("R_emaildomain", 76.751617, (0.001, 0.94, 0.92, 0.92, 0.92), 1, "recipient"),
    ("D1 V281-283 V288-289 V296 V300-301 V313-315", 0.214888, _ALL, 1, "D1"),
    ("D2", 47.549192, (0.56, 0.45, 0.42, 0.42, 0.42), 0.85, "tenure"),
    ("D3", 44.514851, (0.60, 0.55, 0.35, 0.35, 0.35), 0.85, "tenure"),
    ("D4", 28.604667, _W, 1, "V35"),
    ("D5", 52.467403, (0.50, 0.55, 0.30, 0.30, 0.30), 0.85, "tenure"),
    ("D6", 87.606767, (0.01, 1, 0.02, 0.02, 0.15), 1, "D6"),
    ("D7", 93.40993, (0.003, 0.52, 0.01, 0.01, 0.05), 1, "D6"),
    ("D8 D9 id_09 id_10", 87.31229, (0, 0.42, 0.6, 0.55, 0.5), 1, "D8"),
    ("D10", 12.873302, _WC, 1, "V12"),
    ("D12", 89.041047, (0.002, 0.9, 0.02, 0.02, 0.1), 1, "D6"),
    ("D13", 89.509263, (0.01, 0.8, 0.02, 0.02, 0.1), 1, "D13"),
    ("D14", 89.469469, (0.01, 0.8, 0.02, 0.02, 0.1), 1, "D13"),
    ("D15", 15.090087, _WC, 0.985, "V12"),
    ("M1 M2 M3", 45.907136, _W, 0.6, "M1"),
    ("M4", 47.658753, (0.5, 1, 0.02, 0.02, 0.02), 0.95, "M4"),
    ("M5", 59.349409, _W, 1, "M5"),
    ("M6", 28.678836, _W, 1, "V35"),
    ("M7", 58.635317, _W, 0.4, "M1"),
    ("M8 M9", 58.633115, _W, 0.4, "M1"),
    ("V1-11 D11", 47.293494, _W, 0.6, "M1"),
    ("V12-34", 12.881939, _WC, 1, "V12"),
    ("V35-52", 28.612626, _W, 1, "V35"),
    ("V53-74", 13.05517, _WC, 1, "V12"),
    ("V75-94", 15.098723, _WC, 0.985, "V12"),
    ("V95-137", 0.053172, _ALL, 1, "V95"),
    ("V138-142 V146-149 V153-158 V161-163", 86.123717, _HRS, 1, "HRS"),
    ("V143-145 V150-152 V159-160 V164-166", 86.122701, _HRS, 1, "HRS"),
    ("V167-168 V172-173 V176-179 V181-183 V186-187 V190-193 V196 V199 V202-207 V211-216", 76.35537, _ID, 1, "id"),
    ("V169-171 V174-175 V180 V184-185 V188-189 V194-195 V197-198 V200-201 V208-210", 76.323534, _ID, 1, "id"),
    ("V217-219 V223-226 V228-233 V235-237 V240-244 V246-249 V252-254 V257-258 V260-269 V273-278", 77.913435,
     (0, 0.8, 1, 1, 1), 1, "id"),
    ("V220-222 V227 V234 V238-239 V245 V250-251 V255-256 V259 V270-272", 76.053104, _ID, 1, "id"),
    ("V279-280 V284-287 V290-295 V297-299 V302-312 V316-321", 0.002032, _ALL, 1, "V279"),
    ("V322-339", 86.054967, _HRS, 1, "HRS"),
    ("id_01 id_12", 75.576083, _ID, 1, "id"),
    ("id_02", 76.145223, _ID, 1, "id"),
    ("id_03 id_04", 88.768923, (0, 0.4, 0.5, 0.5, 0.5), 1, "D8"),
    ("id_05 id_06", 76.823755, _ID, 1, "id"),
    ("id_07 id_08", 99.12707, _HRS, 1, "rare"),
    ("id_11 id_28 id_29", 76.127273, _ID, 1, "id"),
    ("id_13", 78.440072, _ID, 0.9, "id_13"),
    ("id_14", 86.445626, _HRS, 1, "HRS"),
    ("id_15 id_35 id_36 id_37 id_38", 76.126088, _ID, 1, "id"),
    ("id_16", 78.098012, _ID, 1, "id_16"),
    ("id_17", 76.399736, _ID, 1, "id"),
    ("id_18", 92.360721, _ID, 1, "id_18"),
    ("id_19", 76.408372, _ID, 1, "id"),
    ("id_20", 76.418024, _ID, 1, "id"),
    ("id_21", 99.126393, _HRS, 1, "rare"),
    ("id_22 id_23 id_27", 99.124699, _HRS, 1, "rare"),
    ("id_24", 99.196159, _HRS, 1, "rare"),
    ("id_25", 99.130965, _HRS, 1, "rare"),
    ("id_26", 99.125715, _HRS, 1, "rare"),
    ("id_30", 86.865411, _HRS, 1, "HRS"),
    ("id_31", 76.245132, _ID, 1, "id"),
    ("id_32", 86.861855, _HRS, 1, "HRS"),
    ("id_33", 87.589494, _HRS, 1, "id_33"),
    ("id_34", 86.824771, _HRS, 1, "HRS"),
    ("DeviceType", 76.155722, _ID, 1, "id"),
    ("DeviceInfo", 79.90551, (0, 0.7, 0.95, 0.95, 0.95), 1, "DeviceInfo"),
)  # fmt: skip


def expand(names: str) -> list[str]:
    """Turn ``"V1-3 D11"`` into ``["V1", "V2", "V3", "D11"]``."""
    found: list[str] = []
    for name in names.split():
        first, dash, last = name.partition("-")
        found += [f"V{k}" for k in range(int(first[1:]), int(last) + 1)] if dash else [first]
    return found


def presence(missing: float, shape: tuple[float, ...], early: float) -> np.ndarray:
    """Probability that a value is there, by block and product, array of shape (7, 5), so that the total is right.

    Parameters
    ----------
    missing : float
        Published share of missing values (%).
    shape : tuple of 5 floats
        Relative presence by product.
    early : float
        Factor on the first block; it grows to 1 as `GROWTH` says.
    """
    cells = product_mix() * (BLOCK_ROWS / BLOCK_ROWS.sum())[:, None]
    relative = np.repeat(np.array(shape, dtype=float)[None, :], 7, axis=0)
    relative *= (early + (1 - early) * GROWTH)[:, None]
    wanted = 1 - missing / 100
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        if (np.minimum(1, middle * relative) * cells).sum() < wanted:
            low = middle
        else:
            high = middle
    return np.minimum(1, high * relative)


def fraud_rates() -> np.ndarray:
    """Probability of fraud by block, product and hour of day, array of shape (7, 5, 24), with the published margins."""
    mix, weight = product_mix(), BLOCK_ROWS / BLOCK_ROWS.sum()
    hours = HOUR_ROWS / HOUR_ROWS.sum()
    by_hour = HOUR_FRAUD / float(hours @ HOUR_FRAUD)
    rates = np.repeat(PRODUCT_FRAUD[None, :], 7, axis=0)
    for _ in range(50):  # fit blocks and products in turn
        rates *= (BLOCK_FRAUD / (rates * mix).sum(axis=1))[:, None]
        rates *= PRODUCT_FRAUD * (mix * weight[:, None]).sum(axis=0) / (rates * mix * weight[:, None]).sum(axis=0)
    return np.minimum(0.9, rates[:, :, None] * by_hour)
