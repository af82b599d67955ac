"""What came of traffic: counts, latencies, which model answered, how good its scores were."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Scored:
    """One transaction that was scored.

    Attributes
    ----------
    inference_id : str
        Names it for ground truth.
    probability : float
        Of fraud.
    label : int or None
        The truth, which the sender knows and the model does not.
    """

    inference_id: str
    probability: float
    label: int | None = None


@dataclass(frozen=True)
class Answer:
    """What came of one request.

    Attributes
    ----------
    time : float
        When it was sent (seconds since 1970).
    status : int
        HTTP status; 0 without an answer.
    seconds : float
        Until the answer was there.
    kind : str
        Of the request.
    malformed : bool
        Whether it was meant to be refused.
    problem : str
        Why it failed; empty when the answer was right.
    model_version : str
        Which model answered; empty without a score.
    scored : tuple of Scored
    """

    time: float
    status: int
    seconds: float
    kind: str
    malformed: bool = False
    problem: str = ""
    model_version: str = ""
    scored: tuple[Scored, ...] = ()


@dataclass
class Report:
    """Answers, counted. Adding is safe from several threads.

    Attributes
    ----------
    answers : list of Answer
        In the order in which they came.
    """

    answers: list[Answer] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, answer: Answer) -> None:
        """Count one more."""
        with self._lock:
            self.answers.append(answer)

    def __add__(self, other: Report) -> Report:
        return Report([*self.answers, *other.answers])

    @property
    def sent(self) -> int:
        """Requests."""
        return len(self.answers)

    @property
    def failed(self) -> int:
        """Requests that a caller would call failed."""
        return sum(bool(answer.problem) for answer in self.answers)

    @property
    def refused(self) -> int:
        """Malformed requests that were refused as they should be."""
        return sum(answer.malformed and not answer.problem for answer in self.answers)

    @property
    def transactions(self) -> int:
        """Transactions that were scored."""
        return sum(len(answer.scored) for answer in self.answers)

    @property
    def frauds(self) -> int:
        """Scored transactions that are known to be fraud."""
        return sum(item.label == 1 for item in self.scored)

    @property
    def scored(self) -> list[Scored]:
        """All scored transactions."""
        return [item for answer in self.answers for item in answer.scored]

    @property
    def problems(self) -> list[str]:
        """Why requests failed, the commonest first."""
        return [text for text, _ in Counter(answer.problem for answer in self.answers if answer.problem).most_common()]

    @property
    def by_status(self) -> dict[int, int]:
        """Requests by HTTP status."""
        return dict(sorted(Counter(answer.status for answer in self.answers).items()))

    @property
    def by_model_version(self) -> dict[str, int]:
        """Transactions by the model that scored them, in the order in which the models appeared."""
        found: dict[str, int] = {}
        for answer in sorted(self.answers, key=lambda answer: answer.time):
            if answer.model_version:
                found[answer.model_version] = found.get(answer.model_version, 0) + len(answer.scored)
        return found

    def percentile(self, share: float) -> float:
        """Latency of requests that were scored (milliseconds); NaN without any."""
        took = [answer.seconds for answer in self.answers if answer.scored]
        return 1000 * float(np.quantile(took, share)) if took else math.nan

    @property
    def p50(self) -> float:
        """Median latency (milliseconds)."""
        return self.percentile(0.5)

    @property
    def p99(self) -> float:
        """99th percentile of latency (milliseconds)."""
        return self.percentile(0.99)

    @property
    def auc(self) -> dict[str, float]:
        """AUC ROC of what each model served, on known labels; NaN where only one class is known."""
        return {
            version: auc([item for answer in self.answers if answer.model_version == version for item in answer.scored])
            for version in self.by_model_version
        }


def auc(scored: Sequence[Scored]) -> float:
    """Area under the ROC curve of known labels; equal scores share their ranks.

    Examples
    --------
    >>> auc([Scored("a", 0.1, 0), Scored("b", 0.9, 1), Scored("c", 0.5, 0), Scored("d", 0.4, None)])
    1.0
    """
    known = [item for item in scored if item.label is not None]
    truth = np.array([item.label for item in known], dtype=bool)
    n_fraud, n_legit = int(truth.sum()), int((~truth).sum())
    if not n_fraud or not n_legit:
        return math.nan
    _, place, count = np.unique([item.probability for item in known], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((ranks[truth].sum() - n_fraud * (n_fraud + 1) / 2) / (n_fraud * n_legit))
