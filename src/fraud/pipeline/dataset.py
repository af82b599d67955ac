"""01_merge_data: history, live traffic and what is known of its labels become one training set, named by a manifest.

Nothing is copied: the manifest names immutable parts of the ledger. What belongs to the run is small: the labels of the
live rows, and ``dataset.json``. The manifest is written last; once it exists, the run's data never change.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import polars as pl

from fraud import labels
from fraud.errors import DataError
from fraud.pipeline import history, labelling, live, quality
from fraud.pipeline.clock import DAY, seconds
from fraud.pipeline.labelling import SOURCES
from fraud.pipeline.live import Live
from fraud.pipeline.roles import Roles
from fraud.pipeline.runs import Run
from fraud.pipeline.storage import Storage, join
from fraud.schema import Schema

BINS = 20  # of the score histogram


@dataclass
class MergeResult:
    """What was merged, for the notebook to tell and to draw.

    Attributes
    ----------
    rows : dict of str to int
        ``history`` and ``live``.
    label_sources : dict of str to int
        Rows per ``history``, ``truth``, ``mature``, ``pseudo``, ``unknown``.
    counts : dict of str to int
        What happened on the way: objects, lines, bad lines, duplicates, rows already in the history, labels …
    captured : DataFrame
        ``hour``, ``variant``, ``rows``.
    coverage : DataFrame
        ``age_days``, ``source``, ``rows``: which labels rows of an age have.
    scores : DataFrame
        ``low``, ``high``, ``rows``: histogram of the live scores.
    fraud_rate : DataFrame
        ``source``, ``rows``, ``fraud``, ``fraud_rate``.
    findings : DataFrame
        What is wrong with live columns, as `fraud.pipeline.quality.find` tells it.
    leaks : list of dict
        History columns that give the answer away and are not excluded.
    bad_lines : list of dict
        ``{"file", "line", "reason"}`` of captured and label lines that could not be read.
    notes : list of str
        What a person should know.
    time_span : tuple of float
        First and last moment of the rows (seconds since 1970).
    content_sha256 : str
        Of all that the manifest names.
    as_of : str
        The moment whose knowledge was used.
    manifest_uri : str
        ``s3://`` address for the training job.
    frozen : bool
        Whether the run had its data already; they have been left as they were.
    """

    rows: dict[str, int]
    label_sources: dict[str, int]
    counts: dict[str, int]
    captured: pl.DataFrame
    coverage: pl.DataFrame
    scores: pl.DataFrame
    fraud_rate: pl.DataFrame
    findings: pl.DataFrame
    leaks: list[dict[str, Any]]
    bad_lines: list[dict[str, Any]]
    notes: list[str]
    time_span: tuple[float, float]
    content_sha256: str
    as_of: str
    manifest_uri: str
    frozen: bool = False

    def problems(self) -> pl.DataFrame:
        """What a person should look at: live columns, and history columns that give the answer away."""
        leaks = [
            {"column": leak["column"], "finding": "tells the label", "share": 1.0, "detail": f"AUC {leak['auc']} alone"}
            for leak in self.leaks
        ]
        return pl.concat([self.findings, pl.DataFrame(leaks, schema=self.findings.schema)], how="vertical")

    def record(self) -> dict[str, Any]:
        """What the run record keeps: plain JSON without rows."""
        return {
            "rows": self.rows,
            "label_sources": self.label_sources,
            "counts": self.counts,
            "fraud_rate": self.fraud_rate.to_dicts(),
            "findings": self.findings.to_dicts(),
            "leaks": self.leaks,
            "notes": self.notes,
            "time_span": list(self.time_span),
            "content_sha256": self.content_sha256,
            "as_of": self.as_of,
            "manifest": self.manifest_uri,
        }


def build(
    storage: Storage,
    run_id: str,
    *,
    target: str,
    id_column: str = "",
    time_column: str = "",
    amount_column: str = "",
    exclude_columns: Sequence[str] = (),
    time_origin: str = "",
    endpoint_name: str = "",
    lookback_days: float = 30,
    maturity_days: float = 30,
    pseudo_labels: str = "off",
    pseudo_label_threshold: float = 0.5,
    max_bad_share: float = 0.01,
    as_of: str = "",
) -> MergeResult:
    """Merge history and labelled live traffic into the training set of a run.

    Parameters
    ----------
    storage : Storage
        The bucket.
    run_id : str
        The run that the training set belongs to.
    target, id_column, time_column, amount_column : str
        Columns of the history with a meaning; all but the target may be empty.
    exclude_columns : sequence of str
        Columns that no model sees.
    time_origin : str
        ISO 8601 moment at which a numeric time column is 0; empty chooses it.
    endpoint_name : str
        Whose captured traffic is merged; empty merges history alone.
    lookback_days, maturity_days : float
        How far back traffic is taken, and from which age on silence means legitimate (days).
    pseudo_labels : {'off', 'threshold'}
        Whether younger rows are labelled by their own score.
    pseudo_label_threshold : float
        Score at or above which a pseudo-label is fraud.
    max_bad_share : float
        Share of captured or label lines that may be unreadable.
    as_of : str
        ISO 8601 moment whose knowledge is used; empty is now. The same moment gives the same bytes.

    Raises
    ------
    DataError
        One sentence that names file, column and row or line; no data of the run have been written then.
    """
    moment = dt.datetime.fromtimestamp(seconds(as_of, "as_of"), dt.UTC) if as_of else dt.datetime.now(dt.UTC)
    if pseudo_labels not in labels.POLICIES:
        raise DataError(f"pseudo_labels is {pseudo_labels!r}, but it must be one of {', '.join(labels.POLICIES)}.")
    roles = Roles(target, id_column, time_column, amount_column)
    past = history.ingest(storage, roles, list(exclude_columns), time_origin)
    schema = released_schema(storage, endpoint_name)
    start = moment - dt.timedelta(days=lookback_days)
    traffic = live.compact(
        storage,
        endpoint_name,
        start,
        moment,
        types=past.types,
        roles=roles,
        schema=schema,
        run_id=run_id,
        max_bad_share=max_bad_share,
    )
    repeated = past.holding(storage, traffic.rows["__id"])["__id"]
    rows = traffic.rows.filter(~pl.col("__id").is_in(repeated.implode()))
    settings = (maturity_days, pseudo_labels, pseudo_label_threshold)
    labelled = labelling.label(storage, rows, start, moment, max_bad_share, settings)
    sources = {"history": past.rows} | {
        name: labelled.rows.filter(pl.col("label_source") == name).height for name in SOURCES
    }
    used = set(rows["part"].unique())
    parts = [{name: part[name] for name in ("key", "rows", "sha256")} for part in past.parts]
    parts += [part for part in traffic.parts if part["key"] in used]
    body = labelling.to_parquet(labelled.rows)
    times = [*past.time_span, *([rows["__time"].min(), rows["__time"].max()] if rows.height else [])]
    document = {
        "schema_version": 1,
        "roles": roles.to_dict(),
        "exclude": sorted(set(exclude_columns)),
        "rows": {"history": past.rows, "live": rows.height},
        "label_sources": sources,
        "time_span": [min(times), max(times)],
        "columns": past.types,
        "parts": parts,
        "as_of": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode() + hashlib.sha256(body).digest())
    document["content_sha256"] = digest.hexdigest()
    frozen = _write(storage, run_id, document, body)
    counts = (
        traffic.counts | labelled.counts | {"already_in_history": repeated.len(), "converted_tables": past.converted}
    )
    return MergeResult(
        rows=document["rows"],
        label_sources=sources,
        counts=counts,
        captured=_captured(traffic),
        coverage=_coverage(labelled.rows, moment),
        scores=_histogram(rows["__score"]),
        fraud_rate=_fraud_rate(past, labelled.rows),
        findings=quality.find(traffic.profile, past.types, past.sources, schema),
        leaks=[leak for leak in past.leaks if leak["column"] not in exclude_columns],
        bad_lines=traffic.bad + labelled.bad,
        notes=past.notes,
        time_span=(min(times), max(times)),
        content_sha256=frozen["content_sha256"] if frozen else document["content_sha256"],
        as_of=document["as_of"],
        manifest_uri=storage.uri(join("runs", run_id, "data/train.manifest")),
        frozen=bool(frozen),
    )


def released_schema(storage: Storage, endpoint: str) -> Schema | None:
    """Schema of the model in service; None when nothing was released."""
    pointer = storage.read_json(join("releases", endpoint, "current.json"), default=None) if endpoint else None
    return Schema.from_json(storage.get(pointer["schema_key"])) if pointer else None


def _write(storage: Storage, run_id: str, document: dict[str, Any], body: bytes) -> dict[str, Any] | None:
    """Write the run's data, the manifest last; a run that has its manifest keeps what it has, which is returned."""
    folder = join("runs", run_id, "data/")
    manifest = join(folder, "train.manifest")
    names = [join(folder, "labels.parquet"), join(folder, "dataset.json")]
    if not storage.exists(manifest):
        storage.put(names[0], body)
        storage.write_json(names[1], document)
        entries = [{"prefix": storage.uri("")}, *(part["key"] for part in document["parts"]), *names]
        storage.put_once(manifest, json.dumps(entries, indent=0).encode(), "application/json")
        return None
    kept: dict[str, Any] = storage.read_json(names[1])
    return kept


# figures


def _captured(traffic: Live) -> pl.DataFrame:
    hour = pl.from_epoch((pl.col("__time") // 3600 * 3600).cast(pl.Int64), time_unit="s").alias("hour")
    return (
        traffic.rows.group_by(hour, pl.col("__variant").alias("variant"))
        .agg(pl.len().cast(pl.Int64).alias("rows"))
        .sort("hour", "variant")
    )


def _coverage(labelled: pl.DataFrame, moment: dt.datetime) -> pl.DataFrame:
    age = ((moment.timestamp() - pl.col("__time")) // DAY).cast(pl.Int64).alias("age_days")
    return (
        labelled.group_by(age, pl.col("label_source").alias("source"))
        .agg(pl.len().cast(pl.Int64).alias("rows"))
        .sort("age_days", "source")
    )


def _histogram(scores: pl.Series) -> pl.DataFrame:
    counted = Counter(min(BINS - 1, int(score * BINS)) for score in scores.drop_nulls())
    return pl.DataFrame(
        [(at / BINS, (at + 1) / BINS, counted[at]) for at in range(BINS)],
        schema={"low": pl.Float64, "high": pl.Float64, "rows": pl.Int64},
        orient="row",
    )


def _fraud_rate(past: history.History, labelled: pl.DataFrame) -> pl.DataFrame:
    rows = [("history", past.rows, past.frauds)]
    for name in SOURCES[:-1]:
        mine = labelled.filter(pl.col("label_source") == name)["label"]
        rows.append((name, mine.len(), int(mine.sum())))
    table = pl.DataFrame(rows, schema={"source": pl.String, "rows": pl.Int64, "fraud": pl.Int64}, orient="row")
    rate = pl.when(pl.col("rows") > 0).then(pl.col("fraud") / pl.col("rows"))
    return table.with_columns(fraud_rate=rate)


ROLES_KEY = "raw/_roles.json"
PASSED_ON = (
    "time_origin", "endpoint_name", "lookback_days", "maturity_days", "pseudo_labels", "pseudo_label_threshold",
    "max_bad_share", "as_of",
)  # fmt: skip
ROLE_PARAMETERS = {"target": "target", "id": "id_column", "time": "time_column", "amount": "amount_column"}


def merge(run: Run, p: SimpleNamespace) -> MergeResult:
    """Build the training set of a run with the parameters of 01_merge_data.

    Roles that the parameters leave empty are those that were delivered with the history, in ``raw/_roles.json``.

    Parameters
    ----------
    run : Run
        The run.
    p : SimpleNamespace
        Parameters of 01_merge_data.

    Returns
    -------
    MergeResult

    Raises
    ------
    DataError
        When neither names the target; and as `build`.
    """
    said = run.storage.read_json(ROLES_KEY, default={})
    given = vars(p)
    chosen = {name: given[name] or said.get(role, "") for role, name in ROLE_PARAMETERS.items()}
    if not chosen["target"]:
        raise DataError(
            f"No target column is known: set the parameter target, or deliver the history with "
            f"`fraud history put TABLE` (it writes {run.storage.uri(ROLES_KEY)})."
        )
    return build(
        run.storage,
        run.run_id,
        **chosen,
        exclude_columns=p.exclude_columns or said.get("exclude", []),
        **{name: given[name] for name in PASSED_ON},
    )
