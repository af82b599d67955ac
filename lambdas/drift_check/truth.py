"""Reports of fraud that arrive in ``labels/``, joined with the captured scores: how good the model has been, by week.

Nothing is read twice. The hourly count hands over the scores of new captured files (`append_scores`), which become
small immutable parts by day of scoring. `performance_of` puts the parts of a day together once, gives each report to
the day of its payment, and keeps the counts of each day. So a check costs the new files; where traffic is large, the
reports meet the days that they are about once a day.

The state is a manifest: it names every object it rests on, they are named by their content, and it is written last. Of
two checks at the same moment one wins as a whole, and what the other had read is read again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from truth_state import SCORE, Day, Files, Item, Items, State, report_type

from fraud import labels
from fraud.cohort import COHORTS, DAY, DELAYS, EDGES, UNIT, WEEK, Cohort, id_hash, weeks
from fraud.errors import DataError
from fraud.label_files import read_label_file
from fraud.performance import delay_of, judge_performance

FILES = 500  # label files read in one check; the others wait for the next
OVERLAP = 2 * DAY  # a listing shows an object by then; one of many parts came when its first part did
EARLY = 20_000  # label files before the newest hours; with more, they are listed once a day
KEPT_DAYS = 2  # a report waits so long for its payment, whose capture may be late
EAGER_BYTES = 32 << 20  # of scores; with more, reports are joined once a day
ROWS = 5_000_000  # payments put into their days in one check; the others follow in the next


def append_scores(
    put: Callable[[str, bytes], Any],
    endpoint: str,
    model_version: str,
    ids: Sequence[str] | np.ndarray,
    scores: Sequence[float | None],
    times: Sequence[float],
) -> list[str]:
    """Keep the scores of new captured records, before the record that they are counted is written.

    The same records give the same objects, so handing them over again does no harm. One call a check, with all its new
    files, keeps the objects few.

    Parameters
    ----------
    put : callable
        ``(key, body)``; writes over what is there, which has the same content.
    endpoint, model_version : str
        Of the model that answered.
    ids : sequence of str, or ndarray of uint64, of shape (n,)
        Inference ids, or their `fraud.cohort.id_hash`.
    scores : sequence of float or None
        None and NaN are passed over.
    times : sequence of float
        When each was scored (seconds since 1970).

    Returns
    -------
    list of str
        Keys written, one for each day of scoring.
    """
    hashes = ids if isinstance(ids, np.ndarray) else np.fromiter(map(id_hash, ids), np.uint64, len(ids))
    score, moment = np.array(scores, np.float64), np.asarray(times, np.float64)
    usable = ~np.isnan(score) & np.isfinite(moment)
    hashes, score, moment = hashes[usable], score[usable].clip(0, 1), moment[usable]
    rows = np.empty(len(hashes), SCORE)
    rows["id"], rows["score"], rows["second"] = hashes, score, moment % DAY
    number = (moment // DAY).astype(np.int64)
    keys = []
    for day in np.unique(number).tolist():
        body = first_of_each(rows[number == day]).tobytes()
        keys.append(f"drift/{endpoint}/scores/{model_version}/{_date(day)}/{hashlib.sha256(body).hexdigest()[:16]}.bin")
        put(keys[-1], body)
    return keys


def performance_of(
    list_items: Items,
    read_bytes: Callable[[str], bytes],
    endpoint: str,
    baseline: Mapping[str, Any],
    now: float,
    policy: Mapping[str, Any],
    put: Callable[[str, bytes], Any] | None = None,
    columns: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """Read the reports that came since the last check and judge the model by them.

    Parameters
    ----------
    list_items : callable
        ``(prefix, after="") -> objects`` with ``key``, ``etag`` and ``modified``, in the order of their keys.
    read_bytes : callable
        ``(key) -> body``; `FileNotFoundError` when there is none. Other errors are passed on: a failed read is no
        silence.
    endpoint : str
        Endpoint name.
    baseline : mapping
        ``baseline.json`` of the model in service.
    now : float
        Seconds since 1970.
    policy : mapping
        As `fraud.performance.POLICY`.
    put : callable, optional
        ``(key, body)``; without it nothing is written, and all is done again the next time.
    columns : sequence of str, optional
        ``label_columns`` of the release, for CSV files.

    Returns
    -------
    dict or None
        As `fraud.performance.judge_performance`; None when the baseline knows no performance, or nothing was scored.
    """
    if not (known := baseline.get("performance")):
        return None
    version, today, delay = baseline["model_version"], int(now // DAY), delay_of(known, policy)
    files = Files(list_items, read_bytes, put)
    state_key = f"drift/{endpoint}/truth/{version}/state.json"

    def judge(state: State, before: bytes) -> dict[str, Any] | None:
        joining = state.joined != today or state.size <= EAGER_BYTES
        first = today - COHORTS * WEEK - int(delay) - 1
        parts = _parts(files, f"drift/{endpoint}/scores/{version}/", first) if joining else {}
        if not parts and not state.days:
            return None
        new = _reports(files, state, now, min(parts, default=0), labels.label_columns(columns))
        waiting = latest(np.concatenate([files.reports(state.waiting), new]))
        if joining:
            state.days = {day: one for day, one in state.days.items() if day >= first}
            if delay > 0:
                parts.pop(today, None)  # nothing is said about a day before it is over: it is put together once
            waiting, whole = _join(files, f"drift/{endpoint}/", version, state, parts, waiting, known["threshold"])
            expired = waiting["day"] < today - KEPT_DAYS
            state.unknown += int(expired.sum())
            waiting, state.joined = waiting[~expired], today if whole else -1
        state.waiting = files.keep(f"drift/{endpoint}/truth/{version}/waiting", waiting, state.waiting)
        if (after := state.to_bytes()) != before:
            files.write(state_key, after)
        days = {day: one.counts for day, one in state.days.items()}
        found = judge_performance(known, weeks(days, now, delay), policy)
        found["summary"]["notes"] += state.notes()
        for rule in found["rules"] if state.unread else ():  # those read first are no fair sample
            rule |= {"fired": False, "detail": f"{rule['detail']}, while reports wait to be read"}
        return found

    try:
        return judge(*State.read(files, state_key))
    except (FileNotFoundError, DataError):  # what the state rests on is gone or damaged, and can be made anew
        return judge(State(), b"")


def _parts(files: Files, prefix: str, first: int) -> dict[int, list[str]]:
    """Parts of the days from one on, by day number."""
    found: dict[int, list[str]] = {}
    for key in (item.key for item in files.list(prefix, f"{prefix}{_date(max(first, 0))}")):
        year, month, day = key.removeprefix(prefix).split("/")[:3]
        found.setdefault(int(datetime(int(year), int(month), int(day), tzinfo=UTC).timestamp()) // DAY, []).append(key)
    return found


def _reports(files: Files, state: State, now: float, first: int, columns: labels.LabelColumns) -> np.ndarray:
    """Reports in label files that were not read before, oldest file first; the state remembers what was.

    Which files are new, S3's own time says: a file may have any name, and be put into the folder of any hour. What came
    before the first payment was scored is about none of them.
    """
    today, seen = int(now // DAY), set(state.seen)
    state.horizon, state.since = state.horizon or float(first * DAY), state.since or f"labels/{_date(first)}/"
    listed = list(files.list("labels/", state.since))
    if whole := state.swept != today or state.early <= EARLY:
        before = list(itertools.takewhile(lambda item: item.key <= state.since, files.list("labels/")))
        state.swept, state.early = today, len(before)
        listed += before
    fresh = [item for item in listed if item.modified >= state.horizon and _mark(item) not in seen]
    fresh.sort(key=lambda item: (item.modified, item.key))
    batches = [np.empty(0, report_type(1))]
    for item in fresh[:FILES]:
        try:
            body = files.read(item.key)
        except FileNotFoundError:
            continue  # gone since it was listed
        told, problems, _ = read_label_file(body, item.key, columns, item.modified)
        name = item.key.removeprefix("labels/").encode()
        rows = [(id_hash(one.inference_id), one.time, one.label, today, False, name) for one in told]
        batches.append(np.array(rows, report_type(max(1, len(name)))))
        state.bad |= {item.key: len(problems)}
        seen.add(_mark(item))
    unread = fresh[FILES:]
    state.unread = len(unread)
    if unread:
        state.swept = -1  # they must be found again
    if whole:  # else some that came before have not been listed
        state.horizon = max(state.horizon, min([now - OVERLAP, *(item.modified for item in unread)]))
        seen &= {_mark(item) for item in listed if item.modified >= state.horizon}
        there = {item.key for item in listed}
        state.bad = {key: n for key, n in state.bad.items() if key in there}  # one that was taken away is mended
    state.bad = {key: n for key, n in state.bad.items() if n}
    state.unreadable = sum(state.bad.values())
    state.since = max(state.since, labels.hour_folder(max(0.0, state.horizon)))
    state.seen = sorted(seen)
    return np.concatenate(batches)


def _mark(item: Item) -> str:
    """Names an object as it came: one that was written over, or delivered again, is another."""
    return f"{id_hash(f'{item.modified!r} {item.etag} {item.key}'):x}"


def _join(
    files: Files,
    root: str,
    version: str,
    state: State,
    parts: Mapping[int, Sequence[str]],
    reports: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, bool]:
    """Put new parts into their days, give each report to the day of its payment, count again what changed.

    Returns
    -------
    reports : ndarray of `report_type`
        Those whose payment was not found.
    whole : bool
        Whether all parts are in their days.
    """
    taken = 0
    whole = True
    for day in sorted({*parts, *state.days}, reverse=True):  # most reports are about the newest
        one = state.days.get(day) or Day([], "", 0, "", Cohort())
        new = [key for key in parts.get(day, ()) if _name(key) not in one.parts]
        if new and taken > ROWS:
            new, whole = [], False
        asked = np.ones(len(reports), bool) if new else ~reports["tried"]
        if not (new or asked.any()):
            continue
        scores = files.rows(one.scores, SCORE)
        if new:
            scores = first_of_each(np.concatenate([scores, *(files.rows(key, SCORE) for key in new)]))
            taken += len(scores)
        mine = asked & within(reports["id"], scores["id"])
        if not (new or mine.any()):
            continue
        known = latest(np.concatenate([files.reports(one.reports), reports[mine]]))
        reports = reports[~mine]
        place = f"{root}truth/{version}/{_date(day)}"
        state.days[day] = Day(
            sorted([*one.parts, *map(_name, new)]),
            files.keep(f"{place}-scores", scores, one.scores) if new else one.scores,
            len(scores),
            files.keep(f"{place}-reports", known, one.reports),
            count(scores, known, day, threshold),
        )
    reports["tried"] = True
    return reports, whole


def within(ids: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which ids are among those in rising order."""
    if not len(ordered):
        return np.zeros(len(ids), bool)
    return np.asarray(ordered[np.searchsorted(ordered, ids).clip(max=len(ordered) - 1)] == ids)


def first_of_each(rows: np.ndarray) -> np.ndarray:
    """Sort payments by id; of several with one id the earliest stays.

    Of one day, that is: what is sent again after midnight counts as scored on both days. To know better, each day would
    have to be compared with all before it.
    """
    rows = rows[np.lexsort((rows["score"], rows["second"], rows["id"]))]
    return rows[np.r_[True, rows["id"][1:] != rows["id"][:-1]]] if len(rows) else rows


def latest(reports: np.ndarray) -> np.ndarray:
    """Sort reports by id; of several about one payment the newest stays: the rule of `fraud.labels.resolve`, for many.

    Of several at one moment that in the later file, and within one file fraud.
    """
    reports = reports[np.lexsort((reports["label"], reports["file"], reports["time"], reports["id"]))]
    return reports[np.r_[reports["id"][1:] != reports["id"][:-1], True]] if len(reports) else reports


def count(scores: np.ndarray, reports: np.ndarray, day: int, threshold: float) -> Cohort:
    """Count a day.

    Parameters
    ----------
    scores : ndarray of SCORE
        One for each payment, sorted by id.
    reports : ndarray of `report_type`
        At most one for each, of these payments only, sorted by id.
    day : int
        Day number.
    threshold : float
        From which a payment is flagged.
    """
    score = scores["score"].astype(np.float64)
    place = np.searchsorted(scores["id"], reports["id"])
    fraud, told = np.zeros(len(score), bool), np.zeros(len(score), bool)
    told[place], fraud[place] = True, reports["label"] == 1
    flagged = scores["score"] >= np.float32(threshold)  # both are rounded, so that equal ones stay equal
    bins = np.searchsorted(EDGES, score, side="right")
    parts = np.rint(score * UNIT).astype(np.int64)
    late = (reports["time"] - (day * DAY + scores["second"][place]))[reports["label"] == 1] // DAY
    delays = np.bincount(np.clip(late, 0, DELAYS - 1).astype(np.int64), minlength=DELAYS)
    return Cohort(
        start=float(day * DAY),
        end=float((day + 1) * DAY),
        scored=np.bincount(bins, minlength=len(EDGES) + 1).tolist(),
        fraud=np.bincount(bins[fraud], minlength=len(EDGES) + 1).tolist(),
        told=int(told.sum()),
        flagged=int(flagged.sum()),
        caught=int((flagged & fraud).sum()),
        flagged_told=int((flagged & told).sum()),
        expected=int(parts.sum()),
        expected_flagged=int(parts[flagged].sum()),
        delays=delays.tolist(),
    )


def _date(day: int) -> str:
    return f"{datetime.fromtimestamp(day * DAY, UTC):%Y/%m/%d}"


def _name(key: str) -> str:
    return key.rsplit("/", 1)[-1]
