"""01_merge_data: history, live traffic and what is known of its labels become one training set, named by a manifest.

Nothing is copied: the manifest names immutable parts of the ledger. What belongs to the run is small: the labels of the
live rows, and ``dataset.json``. The manifest is written last; once it exists, the run's data never change.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import polars as pl

from fraud.errors import DataError
from fraud.labels import LabelColumns
from fraud.pipeline import combined, history, labelling, live, merged_tables, processing, quality, truth
from fraud.pipeline.clock import seconds
from fraud.pipeline.labelling import SOURCES, Policy
from fraud.pipeline.live import Elsewhere
from fraud.pipeline.roles import Roles
from fraud.pipeline.runs import Run
from fraud.pipeline.storage import Storage, join
from fraud.plaintext import shown
from fraud.schema import Schema


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
        ``age_days``, ``source``, ``rows``, ``fraud``: which labels rows of an age have.
    scores : DataFrame
        ``low``, ``high``, ``rows``: histogram of the live scores.
    fraud_rate : DataFrame
        ``source``, ``rows``, ``fraud``, ``fraud_rate``.
    findings : DataFrame
        What is wrong with the data, as `fraud.pipeline.quality.find` tells it.
    counterfactual : DataFrame
        What each pseudo-label policy would do, as `fraud.pipeline.labelling.Labelled` has it.
    ends : dict
        Scores at which the policy ``confident`` labels, and how many rows prove them.
    versions : DataFrame
        ``model_version``, ``rows``, ``absent`` columns, ``retyped`` values and how the rows were ``taken``.
    bad_lines : list of dict
        ``{"file", "line", "reason"}`` of captured and label lines that could not be read.
    label_files : list of dict
        Label files with lines that could not be read, as `fraud.pipeline.truth.unreadable` tells them.
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
    review_uri, combined_uri : str
        ``s3://`` address of the payments to review, and of the one CSV; empty when they were not asked for.
    frozen : bool
        Whether the run had its data already; they have been left as they were.
    label_columns : LabelColumns
        Of CSV files in ``labels/``.
    """

    rows: dict[str, int]
    label_sources: dict[str, int]
    counts: dict[str, int]
    captured: pl.DataFrame
    coverage: pl.DataFrame
    scores: pl.DataFrame
    fraud_rate: pl.DataFrame
    findings: pl.DataFrame
    counterfactual: pl.DataFrame
    ends: dict[str, Any]
    versions: pl.DataFrame
    bad_lines: list[dict[str, Any]]
    label_files: list[dict[str, Any]]
    notes: list[str]
    time_span: tuple[float, float]
    content_sha256: str
    as_of: str
    manifest_uri: str
    review_uri: str = ""
    combined_uri: str = ""
    frozen: bool = False
    label_columns: LabelColumns = LabelColumns()

    def counterfactual_sentence(self, chosen: str) -> str:
        """Say what pseudo-labels would have got wrong."""
        told = []
        for row in self.counterfactual.to_dicts():
            if row["judged"]:
                share = row["frauds_missed"] / row["frauds"] if row["frauds"] else 0.0
                told.append(
                    f"*{row['policy']}* would have labelled {row['judged']:,} payments whose truth has come, "
                    f"{row['wrong']:,} of them wrongly, and called {share:.0%} of {row['frauds']:,} frauds legitimate"
                )
        if not told:
            return f"No day's truth is complete yet, so no policy can be judged. In force is **{chosen}**."
        return f"{'; '.join(told)}. In force is **{chosen}**."

    @property
    def warnings(self) -> list[str]:
        """What the console says beside the mark of success: each label file with lines that could not be read."""
        return truth.warnings_of(self.label_files)

    def labels_sentence(self) -> str:
        """Say which label files could not be read, for the notebook."""
        told = [f"`{shown(text, 400).replace('`', '´')}`" for text in self.warnings]  # a key may hold anything
        lines = f"{self.counts['bad_label_lines']:,} of {self.counts['label_lines']:,} lines of label files"
        return f"{lines} could not be read. {' '.join(told)}"

    def check_quality(self, gate: str) -> str:
        """Say what was found in one sentence, or stop the run: see `fraud.pipeline.quality.check`."""
        return html.escape(quality.check(self.findings, gate), quote=False)  # names of columns and files are anybody's

    def record(self) -> dict[str, Any]:
        """What the run record keeps: plain JSON without rows."""
        return {
            "rows": self.rows,
            "label_sources": self.label_sources,
            "counts": self.counts,
            "fraud_rate": self.fraud_rate.to_dicts(),
            "findings": self.findings.to_dicts(),
            "counterfactual": self.counterfactual.to_dicts(),
            "confident_ends": self.ends,
            "versions": self.versions.to_dicts(),
            "notes": self.notes,
            "warnings": self.warnings,
            "time_span": list(self.time_span),
            "content_sha256": self.content_sha256,
            "as_of": self.as_of,
            "manifest": self.manifest_uri,
            "review": self.review_uri,
            "combined": self.combined_uri,
            "label_columns": list(self.label_columns),
        }


@dataclass(frozen=True)
class Labels:
    """How labels are read and given.

    Attributes
    ----------
    policy : Policy
        For rows without truth.
    columns : LabelColumns
        Of CSV files in ``labels/``.
    review_rows : int
        Payments of unknown label to draw for people to review.
    """

    policy: Policy = field(default_factory=Policy)
    columns: LabelColumns = field(default_factory=LabelColumns)
    review_rows: int = 0


def build(
    storage: Storage,
    run_id: str,
    *,
    target: str,
    id_column: str = "",
    time_column: str = "",
    amount_column: str = "",
    card_column: str = "",
    exclude_columns: Sequence[str] = (),
    time_origin: str = "",
    endpoint_name: str = "",
    lookback_days: float = 30,
    label_settings: Labels | None = None,
    max_bad_share: float = 0.01,
    as_of: str = "",
    write_combined: bool = False,
    elsewhere: Elsewhere | None = None,
) -> MergeResult:
    """Merge history and labelled live traffic into the training set of a run.

    Parameters
    ----------
    storage : Storage
        The bucket.
    run_id : str
        The run that the training set belongs to.
    target, id_column, time_column, amount_column, card_column : str
        Columns of the history with a meaning; all but the target may be empty.
    exclude_columns : sequence of str
        Columns that no model sees.
    time_origin : str
        ISO 8601 moment at which a numeric time column is 0; empty chooses it.
    endpoint_name : str
        Whose captured traffic is merged; empty merges history alone.
    lookback_days : float
        How far back traffic is taken (days).
    label_settings : Labels, optional
        How labels are read and given; by default truth and maturity alone.
    max_bad_share : float
        Share of captured or label lines that may be unreadable.
    as_of : str
        ISO 8601 moment whose knowledge is used; empty is now. The same moment gives the same bytes.
    write_combined : bool
        Whether the rows are also written as one CSV.
    elsewhere : callable, optional
        Compacts captured traffic on other machines.

    Raises
    ------
    DataError
        One sentence that names file, column and row or line; no data of the run have been written then.
    """
    moment = dt.datetime.fromtimestamp(seconds(as_of, "as_of"), dt.UTC) if as_of else dt.datetime.now(dt.UTC)
    how = label_settings or Labels()
    roles = Roles(target, id_column, time_column, amount_column, card_column)
    past = history.ingest(storage, roles, list(exclude_columns), time_origin)
    schema = released_schema(storage, endpoint_name)
    traffic = live.compact(
        storage,
        endpoint_name,
        moment - dt.timedelta(days=lookback_days),
        moment,
        types=past.types,
        roles=roles,
        schema=schema,
        run_id=run_id,
        max_bad_share=max_bad_share,
        elsewhere=elsewhere,
    )
    repeated = past.holding(storage, traffic.rows["__id"])["__id"]
    rows = traffic.rows.filter(~pl.col("__id").is_in(repeated.implode()))
    known = truth.read(storage, moment, how.columns)
    live.quarantine(storage, run_id, traffic.bad + known.statements.bad)
    truth.check(known.statements, max_bad_share)
    unreadable = truth.unreadable(known.statements)
    labelled = labelling.label(rows, known.newest, moment, how.policy, past.rows)
    labelled.history, unknown = _beyond(storage, past, rows, known)
    sources = {"history": past.rows} | {
        name: labelled.rows.filter(pl.col("label_source") == name).height for name in SOURCES
    }
    used = set(rows["part"].unique())
    parts = [{name: part[name] for name in ("key", "rows", "sha256")} for part in past.parts]
    parts += [part for part in traffic.parts if part["key"] in used]
    table = labelling.to_frame(labelled)
    times = [*past.time_span, *([rows["__time"].min(), rows["__time"].max()] if rows.height else [])]
    document = {
        "schema_version": 1,
        "roles": roles.to_dict(),
        "exclude": sorted(set(exclude_columns)),
        "rows": {"history": past.rows, "live": rows.height},
        "label_sources": sources,
        "history_labels_from_truth": labelled.history.height,
        "time_span": [min(times), max(times)],
        "columns": past.types,
        "parts": parts,
        "as_of": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    files = {
        "labels.parquet": labelling.to_parquet(table),
        "labels_aside.parquet": labelling.aside_to_parquet(known, unknown),
    }
    if how.review_rows:
        files["review.csv"] = labelling.review_slice(labelled.rows, how.review_rows).write_csv().encode()
    hashes = b"".join(hashlib.sha256(files[name]).digest() for name in sorted(files))
    document["content_sha256"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode() + hashes).hexdigest()
    frozen = _write(storage, run_id, document, files)
    folder = join("runs", run_id, "data/")
    if write_combined:
        said = frozen or document
        kept = labelling.from_parquet(storage.get(join(folder, "labels.parquet")))
        combined.write(storage, join(folder, "combined.csv"), said["parts"], kept, said["columns"], roles)
    counts = traffic.counts | known.counts
    counts |= {
        "labels_of_unknown_ids": unknown.height,
        "labels_of_history": labelled.history.height,
        "pseudo_labels_capped": labelled.capped,
        "already_in_history": repeated.len(),
        "converted_tables": past.converted,
        "converted_label_files": known.statements.converted,
    }
    return MergeResult(
        rows=document["rows"],
        label_sources=sources,
        counts=counts,
        captured=merged_tables.captured(traffic.rows),
        coverage=merged_tables.coverage(labelled.rows, moment),
        scores=merged_tables.histogram(rows["__score"]),
        fraud_rate=merged_tables.fraud_rate(past.rows, past.frauds, labelled.rows),
        findings=quality.find(
            traffic.profile,
            past.types,
            past.sources,
            schema,
            leaks=past.leaks,
            exclude=exclude_columns,
            impossible_times=traffic.counts["impossible_times"],
            label_files=unreadable,
        ),
        counterfactual=labelled.counterfactual,
        ends={"low": labelled.ends.low, "high": labelled.ends.high, "rows": labelled.ends.rows},
        versions=merged_tables.versions(traffic.versions, traffic.counts["foreign"], exclude_columns),
        bad_lines=traffic.bad + known.statements.bad,
        label_files=unreadable,
        notes=past.notes,
        time_span=(min(times), max(times)),
        content_sha256=frozen["content_sha256"] if frozen else document["content_sha256"],
        as_of=document["as_of"],
        manifest_uri=storage.uri(join(folder, "train.manifest")),
        review_uri=storage.uri(join(folder, "review.csv")) if how.review_rows else "",
        combined_uri=storage.uri(join(folder, "combined.csv")) if write_combined else "",
        frozen=bool(frozen),
        label_columns=how.columns,
    )


def _beyond(
    storage: Storage, past: history.History, rows: pl.DataFrame, known: truth.Truth
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Truth about transactions that are not live rows: of the history, and of nothing that is known."""
    rest = known.newest.join(rows.select("__id"), on="__id", how="anti")
    held = past.holding(storage, rest["__id"]).select("__id").unique()
    told = rest.join(held, on="__id", how="semi").select("__id", "label", "label_time")
    unknown = rest.join(held, on="__id", how="anti").with_columns(why=pl.lit(truth.UNKNOWN_ID))
    return told, unknown.select(*truth.ASIDE)


def released_schema(storage: Storage, endpoint: str) -> Schema | None:
    """Schema of the model in service; None when nothing was released."""
    pointer = storage.read_json(join("releases", endpoint, "current.json"), default=None) if endpoint else None
    return Schema.from_json(storage.get(pointer["schema_key"])) if pointer else None


def _write(storage: Storage, run_id: str, document: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any] | None:
    """Write the run's data, the manifest last; a run that has its manifest keeps what it has, which is returned."""
    folder = join("runs", run_id, "data/")
    manifest = join(folder, "train.manifest")
    if not storage.exists(manifest):
        for name, body in files.items():
            storage.put(join(folder, name), body)
        storage.write_json(join(folder, "dataset.json"), document)
        names = [join(folder, name) for name in ("labels.parquet", "dataset.json")]
        entries = [{"prefix": storage.uri("")}, *(part["key"] for part in document["parts"]), *names]
        storage.put_once(manifest, json.dumps(entries, indent=0).encode(), "application/json")
        return None
    kept: dict[str, Any] = storage.read_json(join(folder, "dataset.json"))
    return kept


ROLES_KEY = "raw/_roles.json"
PASSED_ON = ("time_origin", "endpoint_name", "lookback_days", "max_bad_share", "as_of", "write_combined")
ROLE_PARAMETERS = {"target": "target"} | {role: f"{role}_column" for role in ("id", "time", "amount", "card")}


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
    policy = Policy(
        maturity_days=p.maturity_days,
        pseudo_labels=p.pseudo_labels,
        threshold=p.pseudo_label_threshold,
        purity=p.pseudo_label_purity,
        weight=p.pseudo_label_weight,
        max_share=p.pseudo_label_max_share,
    )
    columns = LabelColumns(p.label_id_column, p.label_column, p.label_time_column)
    return build(
        run.storage,
        run.run_id,
        **chosen,
        label_settings=Labels(policy, columns, p.review_rows),
        elsewhere=processing.compactor(run, p) if p.compact_instance_count else None,
        exclude_columns=p.exclude_columns or said.get("exclude", []),
        **{name: given[name] for name in PASSED_ON},
    )
