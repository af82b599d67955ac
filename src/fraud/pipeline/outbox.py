"""Which mail a run sends, to whom: a drift report, what a finished retraining brought, why a run failed or waits.

A run does not depend on its mail: whatever goes wrong is said in one line, and the run goes on.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from urllib.parse import quote, urlsplit

from fraud.moment import seconds
from fraud.pipeline import mail
from fraud.pipeline.mail_addresses import DRIFT, FAILURE, SUCCESS, recipients
from fraud.pipeline.runs import Run, now
from fraud.pipeline.verdict_view import ALARMING
from fraud.pipeline.where import Where, client, where
from fraud.plaintext import count, figure, shown

REPORT = "04_drift_report"
TRAIN, DEPLOY = "02_train", "03_deploy"
LONGEST = 2_000  # characters of an error
LONG = 240  # characters of a line that is one sentence too many
Echo = Callable[[str], None]


def report(run: Run, steps: Sequence[str], echo: Echo) -> None:
    """Mail the drift report: when something is wrong, or when the report is all that was asked for.

    What a quiet report says stands in the mail of the finished retraining that made it.

    Parameters
    ----------
    run : Run
    steps : sequence of str
        Notebooks of this execution.
    echo : callable
        Gets one line.
    """
    _post(run, DRIFT, lambda here: drift_letter(run, only=len(steps) == 1), echo)


def finished(run: Run, steps: Sequence[str], echo: Echo) -> None:
    """Mail what a retraining brought, once it has deployed and all of it is done."""
    if DEPLOY in steps:
        _post(run, SUCCESS, lambda here: success_letter(run), echo)


def failed(run: Run, step: str, error: str, echo: Echo) -> None:
    """Mail why a run stopped, or what it waits for.

    Parameters
    ----------
    run : Run
    step : str
        The notebook.
    error : str
        ``<step>, cell <n>: <Exception>: <sentence>``, or a sentence.
    echo : callable
        Gets one line.
    """
    _post(run, FAILURE, lambda here: failure_letter(run, step, error), echo)


def _post(run: Run, event: str, write: Callable[[Where], mail.Letter | None], echo: Echo) -> None:
    try:
        here = where()
        people, complaints = recipients(here, event)
        for complaint in complaints:
            echo(f"✗ {complaint}")
        if not (here.report_from and people) or (letter := write(here)) is None:
            return
        sent = mail.send(mail.compose(letter, here.report_from, people))
        echo(f"✓ {letter.kind} mailed to {', '.join(people)} ({sent})")
    except Exception as problem:  # a finished retraining must not fail because of its mail, whatever that runs into
        echo(f"✗ the mail on {event} could not be sent: {type(problem).__name__}: {str(problem)[:300]}")


def drift_letter(run: Run, *, only: bool) -> mail.Letter | None:
    """The drift report as a letter; None where nobody needs it.

    Parameters
    ----------
    run : Run
    only : bool
        Whether the report is all that was asked for; then it is sent whatever it says.
    """
    import nbformat

    record = run.results(REPORT)
    verdict, brief = record["verdict"], record["brief"]
    if verdict["verdict"] not in ALARMING and not only:
        return None
    notebook = nbformat.reads(run.storage.get(run.key(f"{REPORT}.ipynb")).decode(), as_version=4)
    return mail.Letter(
        kind=verdict["verdict"],
        endpoint=verdict["endpoint"],
        moment=_moment(verdict["window"]["end"]),
        topic="; ".join(brief["causes"]) or verdict["sentence"],
        sentence=verdict["sentence"][:1_000],
        paragraphs=brief["money"],
        strong=True,
        to_do=brief["advice"],
        small=[brief["basis"]],
        table=mail.table_of(brief["moved"]),
        pictures=mail.figures_of(notebook),
        places=[_place("Report", run, f"{REPORT}.html"), *_history(run, verdict["endpoint"])],
        twin="\n".join(record["twin"]),
        attachments=[("drift_report.html", run.storage.get(run.key(f"{REPORT}.html")))],
    )


def success_letter(run: Run) -> mail.Letter:
    """What was trained, what it is worth, and how it came into service."""
    trained, deployed = run.results(TRAIN), run.results(DEPLOY)
    record = run.storage.read_json(run.key(f"{REPORT}.json"), default={})
    endpoint, model = deployed["endpoint_name"], deployed.get("model_run", run.run_id)
    in_service = deployed["model_version"] == model
    figures = short = f"AUC ROC {trained['auc']:.4f}"
    if trained.get("champion_auc") is not None:
        change = f"{trained['auc'] - trained['champion_auc']:+.4f}"
        figures, short = f"{figures}, {change} against the champion on the same rows", f"{short} ({change})"
    strategy = str(deployed["strategy"]).replace("_", " ")
    did = f"came into service by {strategy}" if in_service else f"is being tested ({strategy}); the champion stays"
    probes = count(deployed.get("n_probes", 0), "request")
    paragraphs = [
        f"It learnt from {trained['n_train']:,} rows and was graded on {trained['n_validation']:,} later ones: "
        f"{figures}, average precision {trained['average_precision']:.4f}. Payments go to review from a score of "
        f"{figure(trained['decision_threshold'])}.",
        f"While traffic moved, {deployed.get('n_failed', 0):,} of {probes} failed; {deployed.get('n_replayed', 0):,} "
        f"captured requests were scored by both models, {deployed.get('n_flipped', 0):,} decisions changed.",
    ]
    if record:
        paragraphs.append(f"The drift report of this run says {record['verdict_name']}: {record['sentence']}")
    before = deployed.get("previous_release")
    back = [f"To return to the release before ({before}): `fraud rollback`"] if before else []
    pages = [(f"{step}.html", run.storage.get(run.key(f"{step}.html"), default=None)) for step in (TRAIN, REPORT)]
    return mail.Letter(
        kind="PROMOTED" if in_service else "TESTED",
        endpoint=endpoint,
        moment=now(),
        topic=f"{short} · {model}",
        sentence=f"The model of {model} {did}: {figures}.",
        paragraphs=paragraphs,
        to_do=back,
        places=[_place("Run", run, ""), _place("Report", run, f"{REPORT}.html"), *_history(run, endpoint)],
        attachments=[(name, page) for name, page in pages if page is not None],
    )


def failure_letter(run: Run, step: str, error: str) -> mail.Letter:
    """Why a run stopped; where it waits for a person, what that person types."""
    place, name, said = _taken_apart(step, error)
    params = run.storage.read_json(run.key("params.json"), default={}).get("steps", {})
    endpoint = str(next((one["endpoint_name"] for one in params.values() if "endpoint_name" in one), ""))
    endpoint = endpoint or where().endpoint_name
    again = f"`fraud run --run-id {run.run_id} --from {step[:2]}`"
    sentence, rest = _first(said)
    topic, kind, to_do = "", "FAILED", [f"Mend it, then go on where it stopped, with the same parameters: {again}"]
    stays = "The endpoint stays as it is"
    if run.storage.exists(run.key(f"{DEPLOY}.json")):
        stays = "What 03_deploy did to the endpoint stays"
    small = [f"{stays}; nothing of this run counts until it is whole."]
    if name == "ApprovalError" and "waits for approval" in said:
        kind, topic = "WAITS", f"{run.run_id} waits for approval"
        to_do = [
            "Look at the model's report, which is attached: its grades, its segments, its threshold.",
            f'To let it pass: `fraud approve {run.run_id} --note "…"`; then deploy it: {again}',
            f'To refuse it: `fraud approve {run.run_id} --reject --note "…"`',
        ]
        small = ["The champion serves until then."]
    elif name in ("QualityGateError", "ApprovalError"):
        kind = "REFUSED"
        to_do = ["The champion stays in service. Look at the model's report, which is attached, for what it lacks."]
        small = ["More or younger labels help more often than other parameters do."]
    page = TRAIN if kind in ("WAITS", "REFUSED") else step
    body = run.storage.get(run.key(f"{page}.html"), default=None)
    return mail.Letter(
        kind=kind,
        endpoint=endpoint,
        moment=now(),
        topic=topic or f"{run.run_id} {step}: {shown(sentence, 70)}",
        sentence=sentence,
        paragraphs=[
            *([rest[:LONGEST]] if rest else []),
            f"The run {run.run_id} stopped in {place}{f' with {name}' if name else ''}.",
        ],
        to_do=to_do,
        small=small,
        places=[_place("Notebook", run, f"{step}.html"), _place("Run", run, "")],
        attachments=[(f"{page}.html", body)] if body is not None else [],
    )


def _taken_apart(step: str, error: str) -> tuple[str, str, str]:
    """Place, exception and sentence of the runner's error; a mere sentence has no exception."""
    place, colon, rest = error.partition(": ")
    if not colon or not place.startswith(f"{step}, cell "):
        return step, "", error
    name, colon, said = rest.partition(": ")
    return (place, name, said) if colon and name.isidentifier() else (place, "", rest)


def _first(said: str) -> tuple[str, str]:
    """The first line, or of a long one the first sentence; and the rest."""
    text = said.encode("utf-8", "replace").decode().strip()  # half a surrogate pair could not be sent
    line, _, rest = text.partition("\n")
    if len(line) > LONG:
        first, stop, more = line.partition(". ")
        line, rest = (f"{first}.", f"{more}\n{rest}") if stop and len(first) <= LONG else (line, rest)
    return line[:1_000], rest.strip()


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds(text), dt.UTC)


def _place(name: str, run: Run, file: str) -> tuple[str, str, str]:
    return name, run.uri(file), link(run.bucket, run.key(file))


def _history(run: Run, endpoint: str) -> list[tuple[str, str, str]]:
    key = f"drift/{endpoint}/reports/index.html"
    return [("All reports (or type fraud reports)", f"s3://{run.bucket}/{key}", link(run.bucket, key))]


def link(bucket: str, key: str) -> str:
    """Address that a browser opens: AWS's console, or whatever answers for S3; it needs the reader's own rights.

    Parameters
    ----------
    bucket, key : str

    Returns
    -------
    str
    """
    meta = client("s3").meta
    host = urlsplit(meta.endpoint_url).hostname or ""
    for suffix, console in (("amazonaws.com", "console.aws.amazon.com"), ("amazonaws.com.cn", "console.amazonaws.cn")):
        if host.endswith(f".{suffix}"):
            kind = "buckets" if key.endswith("/") else "object"
            return f"https://{meta.region_name}.{console}/s3/{kind}/{bucket}?prefix={quote(key, safe='')}"
    return f"{meta.endpoint_url.rstrip('/')}/{bucket}/{quote(key)}"
