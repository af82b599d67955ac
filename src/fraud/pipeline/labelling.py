"""Labels of live rows: truth first, else by age, else by the model's own score if that is asked for.

A pseudo-label is the model's opinion of its own doubt. It is capped, weighted, never grades, and here every policy is
held against the truth that has arrived since, whether it is in force or not.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.labels import MATURE, PSEUDO, TRUTH, UNKNOWN
from fraud.pipeline.partitions import to_parquet
from fraud.pipeline.truth import Truth

SOURCES = (TRUTH, MATURE, PSEUDO, UNKNOWN)
OFF, THRESHOLD, CONFIDENT = POLICIES = ("off", "threshold", "confident")
DAY = 86_400.0
COMPLETE = 0.95  # share of a day's rows with a known label from which the day says what its scores were worth
Z = 1.645  # of the one-sided 95 % bound
LABEL_COLUMNS = {
    "inference_id": pa.string(), "label": pa.int8(), "label_source": pa.string(), "label_time": pa.float64(),
    "weight": pa.float32(),
}  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """How rows without truth are labelled.

    Attributes
    ----------
    maturity_days : float
        Age from which silence means legitimate (days).
    pseudo_labels : {'off', 'threshold', 'confident'}
        Whether younger rows are labelled by their own score: by a threshold, or only at two calibrated ends.
    threshold : float
        Score from which ``threshold`` says fraud.
    purity : float
        Share of the rows that ``confident`` calls fraud that must be fraud; and how much rarer than overall frauds
        must be among those that it calls legitimate.
    weight : float
        Of a pseudo-labelled row in training.
    max_share : float
        Largest share of pseudo-labels among all labelled rows.
    """

    maturity_days: float = 30.0
    pseudo_labels: str = OFF
    threshold: float = 0.5
    purity: float = 0.9
    weight: float = 0.5
    max_share: float = 0.2


@dataclass(frozen=True)
class Ends:
    """Scores at or beyond which ``confident`` dares to label; None where the truth proves none.

    Attributes
    ----------
    low, high : float or None
        At or below is legitimate, at or above is fraud.
    rows : int
        Rows with a known label that proved it.
    """

    low: float | None = None
    high: float | None = None
    rows: int = 0


@dataclass
class Labelled:
    """Live rows with their labels.

    Attributes
    ----------
    rows : DataFrame
        The live rows with ``label``, ``label_source``, ``weight``, ``label_time``.
    history : DataFrame
        ``__id``, ``label``, ``label_time`` of truth about transactions of the history.
    counterfactual : DataFrame
        Per policy ``fraud``, ``legitimate`` and ``unlabelled``: what it would make of rows that nothing is known of;
        ``judged``, ``wrong``, ``frauds`` and ``frauds_missed``: what it would have said of rows whose truth has come.
    ends : Ends
        Of the policy ``confident``.
    capped : int
        Pseudo-labels that were dropped because there were too many.
    """

    rows: pl.DataFrame
    history: pl.DataFrame
    counterfactual: pl.DataFrame
    ends: Ends
    capped: int


def label(rows: pl.DataFrame, truth: pl.DataFrame, moment: dt.datetime, policy: Policy, n_history: int = 0) -> Labelled:
    """Label live rows as they were known at a moment.

    Parameters
    ----------
    rows : DataFrame
        With ``__id``, ``__time`` and ``__score``; each id once.
    truth : DataFrame
        As `fraud.pipeline.truth.Truth.newest`.
    moment : datetime
        Whose knowledge counts.
    policy : Policy
        For rows without truth.
    n_history : int
        Labelled rows beside these, for the cap.

    Returns
    -------
    Labelled
        ``history`` is empty.
    """
    now, maturity = moment.timestamp(), policy.maturity_days * DAY
    known = rows.join(truth.select("__id", "label", "label_time"), on="__id", how="left", maintain_order="left")
    mature = pl.col("label").is_null() & (now - pl.col("__time") >= maturity)
    known = known.with_columns(
        label=pl.when(mature).then(pl.lit(0, pl.Int8)).otherwise("label"),
        label_time=pl.when(mature).then(pl.col("__time") + maturity).otherwise("label_time"),
        label_source=pl.when(mature)
        .then(pl.lit(MATURE))
        .when(pl.col("label").is_not_null())
        .then(pl.lit(TRUTH))
        .otherwise(pl.lit(UNKNOWN)),
    )
    ends = calibrate(*_scored(still_silent(known, now)), policy.purity)
    opinion = _opinion(policy.pseudo_labels, policy, ends)
    said = known.with_columns(opinion=pl.when(pl.col("label").is_null()).then(opinion))
    wanted = said.filter(pl.col("opinion").is_not_null())["__id"]
    room = _room(n_history + known.height - int(known["label"].null_count()), policy.max_share)
    kept = wanted if len(wanted) <= room else draw(wanted, room, "pseudo")
    pseudo = pl.col("__id").is_in(kept.implode())
    labelled = said.with_columns(
        label=pl.when(pseudo).then("opinion").otherwise("label"),
        label_time=pl.when(pseudo).then("__time").otherwise("label_time"),
        label_source=pl.when(pseudo).then(pl.lit(PSEUDO)).otherwise("label_source"),
    ).drop("opinion")
    weight = {TRUTH: 1.0, MATURE: 1.0, PSEUDO: policy.weight, UNKNOWN: 0.0}
    labelled = labelled.with_columns(weight=pl.col("label_source").replace_strict(weight, return_dtype=pl.Float32))
    return Labelled(
        labelled, truth.clear().drop("source_key"), counterfactual(known, policy, now), ends, len(wanted) - len(kept)
    )


def still_silent(known: pl.DataFrame, now: float) -> pl.DataFrame:
    """Rows that show what a score is worth when nothing has been said of a payment yet.

    They come from days on which nearly every row has a label: of a young day only the frauds are known. And frauds that
    were reported sooner than the unknown rows have now been silent for are left out: such rows are not among those that
    an opinion would label, and what is left with a high score is less often fraud.

    Parameters
    ----------
    known : DataFrame
        Live rows with ``__time``, ``__score``, ``label``, ``label_source`` and ``label_time``.
    now : float
        Seconds since 1970.
    """
    day = (pl.col("__time") // DAY).alias("day")
    share = pl.col("label").is_not_null().mean().over(day)
    complete = known.filter((share >= COMPLETE) & pl.col("label").is_not_null() & pl.col("__score").is_not_null())
    silence = known.filter(pl.col("label").is_null()).select((now - pl.col("__time")).median()).item()
    told_early = (pl.col("label_source") == TRUTH) & (pl.col("label_time") - pl.col("__time") < (silence or 0.0))
    return complete.filter(~told_early)


def _scored(known: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return known["__score"].to_numpy(), known["label"].to_numpy()


def calibrate(score: np.ndarray, label: np.ndarray, purity: float) -> Ends:
    """Find the ends at which a score is as good as a label, as the truth proves it.

    Above the high end at least ``purity`` of the rows are fraud; below the low end frauds are at most ``1 - purity``
    times as frequent as among all rows. Both hold for the 95 % bound of Wilson's interval (Wilson 1927, J. Am. Stat.
    Assoc. 22:209), so that few rows prove nothing.

    Parameters
    ----------
    score : ndarray of shape (n_rows,)
    label : ndarray of shape (n_rows,)
        1 fraud, 0 legitimate.
    purity : float

    Returns
    -------
    Ends
    """
    if not len(score):
        return Ends()
    order = np.argsort(score, kind="stable")
    score, fraud = score[order], label[order].astype(np.float64)
    n = len(score)
    ends_here = np.append(score[1:] != score[:-1], True)  # equal scores stay together
    below, frauds_below = np.arange(1, n + 1), np.cumsum(fraud)
    low = ends_here & (_wilson(frauds_below, below, +1) <= (1 - purity) * fraud.mean())
    starts_here = np.insert(score[1:] != score[:-1], 0, True)
    above, frauds_above = n - np.arange(n), fraud.sum() - np.concatenate(([0.0], frauds_below[:-1]))
    high = starts_here & (_wilson(frauds_above, above, -1) >= purity)
    return Ends(
        float(score[np.flatnonzero(low)[-1]]) if low.any() else None,
        float(score[np.flatnonzero(high)[0]]) if high.any() else None,
        n,
    )


def _wilson(hits: np.ndarray, n: np.ndarray, side: int) -> np.ndarray:
    """One-sided bound of a share: the upper one for ``side`` +1, the lower one for -1."""
    share = hits / n
    middle = share + Z * Z / (2 * n)
    spread = Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return np.asarray((middle + side * spread) / (1 + Z * Z / n))


def _opinion(name: str, policy: Policy, ends: Ends) -> pl.Expr:
    """Label that a policy gives a row by its score; null where it gives none."""
    score, none = pl.col("__score"), pl.lit(None, pl.Int8)
    if name == THRESHOLD:
        return pl.when(score.is_not_nan()).then((score >= policy.threshold).cast(pl.Int8))
    if name == CONFIDENT:
        low = score <= (-math.inf if ends.low is None else ends.low)
        high = score >= (math.inf if ends.high is None else ends.high)
        one, zero = pl.lit(1, pl.Int8), pl.lit(0, pl.Int8)
        return pl.when(score.is_nan()).then(none).when(high).then(one).when(low).then(zero).otherwise(none)
    return none


def _room(labelled: int, max_share: float) -> int:
    """How many pseudo-labels make up a share beside so many others."""
    return math.floor(labelled * max_share / (1 - max_share) + 1e-9) if max_share < 1 else 1 << 62


def draw(ids: pl.Series, n: int, salt: str) -> pl.Series:
    """Draw ids at random, but the same ones each time and whatever the order they come in."""
    ranked = sorted(ids, key=lambda name: hashlib.sha256(f"{salt}|{name}".encode()).digest())
    return pl.Series(ids.name, sorted(ranked[:n]), pl.String)


def counterfactual(known: pl.DataFrame, policy: Policy, now: float) -> pl.DataFrame:
    """Tell what each policy would make of the rows, and how wrong it would have been.

    Policies are judged on the later half of the rows that `still_silent` gives; the ends of ``confident`` are those
    that the earlier half proves, as it would have known them then.

    Parameters
    ----------
    known : DataFrame
        Live rows, before any pseudo-label.
    policy : Policy
        Threshold and purity.
    now : float
        Seconds since 1970.

    Returns
    -------
    DataFrame
        As `Labelled.counterfactual`.
    """
    complete = still_silent(known, now).sort("__time", "__id")
    earlier, judged = complete.head(complete.height // 2), complete.tail(complete.height - complete.height // 2)
    ends, then = calibrate(*_scored(complete), policy.purity), calibrate(*_scored(earlier), policy.purity)
    young = known.filter(pl.col("label").is_null())
    found = []
    for name in POLICIES:
        would = young.with_columns(said=_opinion(name, policy, ends))["said"]
        past = judged.with_columns(said=_opinion(name, policy, then)).filter(pl.col("said").is_not_null())
        frauds = past.filter(pl.col("label") == 1)
        found.append(
            {
                "policy": name,
                "fraud": int((would == 1).sum()),
                "legitimate": int((would == 0).sum()),
                "unlabelled": int(would.null_count()),
                "judged": past.height,
                "wrong": past.filter(pl.col("said") != pl.col("label")).height,
                "frauds": frauds.height,
                "frauds_missed": frauds.filter(pl.col("said") == 0).height,
            }
        )
    return pl.DataFrame(found)


def review_slice(labelled: pl.DataFrame, n: int) -> pl.DataFrame:
    """Draw payments of unknown label at random for people to look at.

    Frauds that are found because the model pointed at them teach nothing about those it overlooks; a random slice does.

    Returns
    -------
    DataFrame
        ``inference_id``, ``scored_at``, and ``label`` and ``label_time``, which are empty: filled in, the CSV can be
        put into ``labels/`` as it stands.
    """
    unknown = labelled.filter(pl.col("label_source") == UNKNOWN)
    drawn = unknown.filter(pl.col("__id").is_in(draw(unknown["__id"], n, "review").implode())).sort("__id")
    moment = pl.from_epoch(pl.col("__time").cast(pl.Int64), time_unit="s").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    empty = pl.lit(None, pl.String)
    return drawn.select(pl.col("__id").alias("inference_id"), moment.alias("scored_at"), label=empty, label_time=empty)


def to_frame(labelled: Labelled) -> pa.Table:
    """``labels.parquet``: live rows with a label, and truth about the history; what is unknown is not trained on."""
    live = labelled.rows.filter(pl.col("label_source") != UNKNOWN).sort("__time", "__id")
    past = labelled.history.sort("__id").with_columns(label_source=pl.lit(TRUTH), weight=pl.lit(1.0, pl.Float32))
    names: Sequence[str] = ("__id", *list(LABEL_COLUMNS)[1:])
    both = pl.concat([live.select(names), past.select(names)], how="vertical_relaxed").rename({"__id": "inference_id"})
    return both.to_arrow().cast(pa.schema(LABEL_COLUMNS.items()))


def from_parquet(body: bytes) -> pa.Table:
    """Read what `to_parquet` wrote."""
    return pq.ParquetFile(io.BytesIO(body)).read()


def aside_to_parquet(truth: Truth, unknown: pl.DataFrame) -> bytes:
    """``labels_aside.parquet``: every statement that does not count, with the reason."""
    kinds = {"inference_id": pa.string(), "label": pa.int8(), "label_time": pa.float64(), "source_key": pa.string()}
    table = pl.concat([truth.aside, unknown]).rename({"__id": "inference_id"}).to_arrow()
    return to_parquet(table.cast(pa.schema([*kinds.items(), ("why", pa.string())])))
