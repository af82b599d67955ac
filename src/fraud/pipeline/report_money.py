"""What a change of the traffic costs: reviews and frauds that go through, in the unit of the amounts.

Costs are those that the model's threshold was chosen with (``review_cost`` and ``fraud_cost`` of 02_train). What is not
known is said, never guessed: without truth nobody knows what got through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fraud.plaintext import count, money, percent

if TYPE_CHECKING:
    from fraud.pipeline.report import Findings

SHORT = 6 * 3600.0  # a shorter window (seconds) is not scaled to a day
WHOLE = 0.95  # share of payments with truth from which what is lost is taken as known


@dataclass(frozen=True)
class Costs:
    """What training measured on rows that the model had not seen.

    Attributes
    ----------
    review_cost, fraud_cost : float
        Of one review; of one missed fraud beside its amount.
    review_rate : float
        Share of payments at or above the threshold.
    loss : float
        Worth of missed frauds, per payment.
    worth : float
        Mean worth of one fraud: its amount and ``fraud_cost``.
    """

    review_cost: float
    fraud_cost: float
    review_rate: float
    loss: float
    worth: float


@dataclass
class Money:
    """Money of a window.

    Attributes
    ----------
    per : str
        ``day`` or ``1,000 payments``.
    reviews, lost : float or None
        What reviews cost more than at training, and what was lost more; None when it cannot be told.
    whole : bool
        Whether truth has arrived for nearly all payments; else ``lost`` is a lower bound.
    sentences : list of str
        The same in words; the first says it all.
    """

    per: str
    reviews: float | None = None
    lost: float | None = None
    whole: bool = False
    sentences: list[str] = field(default_factory=list)


def costs_of(metrics: Mapping[str, Any]) -> Costs | None:
    """Read costs and their expectation from ``metrics.json``; None when they are not all there."""
    try:
        given, at = metrics["hyperparameters"], metrics["at_threshold"]
        n = int(metrics["n_validation"])
        frauds = float(metrics["fraud_rate_validation"]) * n
        return Costs(
            review_cost=float(given["review_cost"]),
            fraud_cost=float(given["fraud_cost"]),
            review_rate=float(at["review_rate"]),
            loss=float(at["lost"]) / n,
            worth=(float(at["caught"]) + float(at["lost"])) / frauds,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def money_of(findings: Findings, rates: tuple[float, float | None]) -> Money:
    """Say what the change costs.

    Parameters
    ----------
    findings : Findings
    rates : tuple of float
        Share sent to review at training and in the window.

    Returns
    -------
    Money
    """
    costs = findings.costs
    if not findings.verdict["n"]:
        return Money("day", sentences=["Money cannot be told: there are no payments in the window."])
    if not findings.judged:
        return Money("day", sentences=["Money cannot be told: what was captured is too little to stand for the rest."])
    by_day = findings.span >= SHORT
    factor = findings.payments * 86_400 / findings.span if by_day else 1000.0  # payments that the unit stands for
    found = Money("day" if by_day else "1,000 payments")
    reviews = _reviews(found, costs, rates, factor)
    lost = _lost(found, findings, factor)
    found.sentences = [_together(found, costs is not None), reviews, lost]
    return found


def _reviews(found: Money, costs: Costs | None, rates: tuple[float, float | None], factor: float) -> str:
    before, after = rates
    if after is None:
        return "Reviews: how many payments go to review cannot be told, for no scores were captured."
    said = (
        f"Reviews: {after * factor:,.0f} per {found.per} instead of {before * factor:,.0f} "
        f"({percent(after)} of payments, {percent(before)} at training)"
    )
    if costs is None:
        return f"{said}."
    found.reviews = (after - before) * factor * costs.review_cost
    sign = "more" if found.reviews >= 0 else "less"
    return f"{said}: {money(abs(found.reviews))} {sign} per {found.per} at {money(costs.review_cost)} a review."


def _lost(found: Money, findings: Findings, factor: float) -> str:
    costs, traffic = findings.costs, findings.traffic
    judged = (findings.verdict.get("performance") or {}).get("judged")
    if costs and judged and judged.get("recall") is not None:
        return _of_cohort(found, costs, findings.verdict["performance"]["reference"], judged, factor)
    labels = [findings.truth[name].label if name in findings.truth else None for name in traffic.inference_id]
    known = sum(label is not None for label in labels)
    expected = f"at training's quality {money(costs.loss * factor)} per {found.per} would get through" if costs else ""
    if not known:
        said = f"Fraud that goes through: not known, for truth has arrived for none of {count(len(labels), 'payment')}"
        return f"{said}; {expected}." if expected else f"{said}."
    rows = zip(labels, traffic.score, traffic.amount, strict=True)
    missed = [amount for label, score, amount in rows if label == 1 and score < findings.threshold]
    frauds = sum(label == 1 for label in labels)
    said = (
        f"Fraud that goes through: of {count(frauds, 'fraud')} known so far {len(missed):,} "
        f"{'was' if len(missed) == 1 else 'were'} approved"
    )
    if costs is None:
        return f"{said}; truth has arrived for {known:,} of {len(labels):,} payments."
    worth = sum((0.0 if amount != amount else amount) + costs.fraud_cost for amount in missed)
    change, found.whole = (worth / len(labels) - costs.loss) * factor, known >= WHOLE * len(labels)
    if found.whole or change > 0:  # with part of the truth what is lost is a lower bound: less says nothing
        found.lost = change
    least = "" if found.whole else "at least "
    rest = "" if known == len(labels) else f", and truth has arrived for only {known:,} of {len(labels):,} payments"
    return (
        f"{said}, worth {money(worth)} (amounts, and {money(costs.fraud_cost)} each): {least}"
        f"{money(worth / len(labels) * factor)} per {found.per}{rest}; {expected}."
    )


def _of_cohort(
    found: Money, costs: Costs, reference: Mapping[str, Any], judged: Mapping[str, Any], factor: float
) -> str:
    """What got through of the newest payments whose truth is in, at the pace of this window."""
    rates = [(one.get("fraud_rate") or 0.0) * (1 - (one.get("recall") or 0.0)) for one in (judged, reference)]
    now, before = (rate * costs.worth * factor for rate in rates)
    found.lost, found.whole = now - before, True
    return (
        f"Fraud that goes through: {money(now)} per {found.per} instead of {money(before)}, as in the newest payments "
        f"whose truth is in ({judged['start'][:10]} to {judged['end'][:10]}: {percent(judged['fraud_rate'])} fraud, "
        f"{percent(judged['recall'])} of it found; {money(costs.worth)} a fraud)."
    )


def _together(found: Money, known: bool) -> str:
    if not known:
        return "Money cannot be told: the costs that this model was trained with are not stored."
    if found.reviews is None:
        return "Money cannot be told: no scores were captured."
    parts = f"reviews {_signed(found.reviews)}"
    if found.lost is None:
        return (
            f"Of the money only the reviews can be told: {_signed(found.reviews)} per {found.per} against training, "
            "in the unit of the amounts."
        )
    total = found.reviews + found.lost
    word, least = "costs" if total >= 0 else "saves", "" if found.whole else "at least "
    return (
        f"Against training this traffic {word} {least if total >= 0 else ''}{money(abs(total))} per {found.per}: "
        f"{parts}, fraud that goes through {least}{_signed(found.lost)}, in the unit of the amounts."
    )


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "−") + money(abs(value))
