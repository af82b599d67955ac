"""The quality gate: whether the challenger may be deployed.

Non-inferiority on the same later rows: the whole interval of the paired difference must lie above minus the margin
(Schuirmann's confidence interval rule). So a challenger that is better passes, one that is worse does not, and where
the rows cannot tell, the champion stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fraud.errors import QualityGateError


@dataclass(frozen=True)
class Check:
    """One demand on the challenger: what it is, what was found, whether it is met."""

    name: str
    found: str
    wanted: str
    passed: bool


def checks(metrics: Mapping[str, Any], p: SimpleNamespace) -> list[Check]:
    """Hold a model against every demand.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``; with ``comparison`` when a model is in service, measured on the same rows.
    p : SimpleNamespace
        ``min_auc``, ``max_auc_drop``, ``max_segment_drop``.

    Returns
    -------
    list of Check
    """
    auc = metrics["auc"]
    found = [Check("floor", f"AUC ROC {auc:.4f}", f"at least {p.min_auc:g} (min_auc)", auc >= p.min_auc)]
    comparison = metrics.get("comparison")
    if comparison is None:
        return found
    change = comparison["auc"]
    found.append(
        Check(
            "another model",
            "identical scores" if metrics["identical"] else "other scores",
            "other scores, for a tie keeps the champion",
            not metrics["identical"],
        )
    )
    found.append(
        Check(
            "not worse than the champion",
            f"AUC ROC {change['difference']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})",
            f"surely above {-p.max_auc_drop:+g} (max_auc_drop)",
            change["low"] >= -p.max_auc_drop,
        )
    )
    for row in metrics["segments"]:
        if row.get("difference") is None:
            continue
        worse = row["difference"] < -p.max_segment_drop and row["high"] < 0
        if worse:
            found.append(
                Check(
                    f"segment {row['by']} {row['segment']}",
                    f"AUC ROC {row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})",
                    f"not surely worse, or by less than {p.max_segment_drop:g} (max_segment_drop)",
                    False,
                )
            )
    judged = sum(row.get("difference") is not None for row in metrics["segments"])
    if judged and found[-1].passed:
        found.append(Check("no segment worse", f"{judged} segments judged", f"{p.max_segment_drop:g}", True))
    return found


def decide(metrics: Mapping[str, Any], p: SimpleNamespace) -> str:
    """Say whether the challenger may be deployed.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``.
    p : SimpleNamespace
        As `checks` takes it.

    Returns
    -------
    str
        One sentence.

    Raises
    ------
    QualityGateError
        When it may not; the endpoint stays as it is.
    """
    refused = [check for check in checks(metrics, p) if not check.passed]
    if refused:
        reasons = "; ".join(f"{check.name}: {check.found}, wanted {check.wanted}" for check in refused)
        stays = "the champion stays" if "comparison" in metrics else "nothing is deployed"
        raise QualityGateError(f"The challenger is refused, {stays}. {reasons[0].upper()}{reasons[1:]}.")
    auc = metrics["auc"]
    if "comparison" not in metrics:
        return f"AUC ROC {auc:.4f} is above the floor of {p.min_auc:g}, and nothing is in service: it may be deployed."
    change = metrics["comparison"]["auc"]
    verdict = "is better than" if change["low"] > 0 else "is not worse than"
    return (
        f"The challenger {verdict} the champion: AUC ROC {auc:.4f} against {metrics['champion_auc']:.4f} on the same "
        f"{metrics['n_validation']:,} later rows, {change['difference']:+.4f} ({change['low']:+.4f} to "
        f"{change['high']:+.4f}). It may be deployed."
    )
