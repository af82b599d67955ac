"""Tables that cannot be used: each is one sentence naming file, column and row, and nothing is written."""

from __future__ import annotations

import gzip
import io

import polars as pl
import pytest
from delivered import HEAD, ROLES, keys, table

from fraud.errors import DataError
from fraud.pipeline import history


def parquet(**columns):
    body = io.BytesIO()
    pl.DataFrame(columns).write_parquet(body)
    return body.getvalue()


N = 40
SOUND = {
    "TransactionID": list(range(N)), "isFraud": [i % 2 for i in range(N)], "TransactionDT": list(range(N)),
    "TransactionAmt": [1.5] * N, "C1": list(range(N)),
}  # fmt: skip
WHOLE = table().encode()

WIDER = "".join(line + ",x\n" for line in table().splitlines())

BAD = {
    "no target": (table().replace("isFraud", "is_fraudulent"), ['column "isFraud" is missing', "is_fraudulent"]),
    "no target, nothing near": ("a,b\n1,x\n2,y\n", ['target column "isFraud" is missing', "no column looks like one"]),
    "target 2": (table(isFraud={7: "2"}), ['"isFraud", row 7', "a number other than 0 and 1"]),
    "target text": (table(isFraud={150: "maybe"}), ['"isFraud", row 150', "text of 5 characters"]),
    "target empty": (table(isFraud={3: ""}), ['"isFraud", row 3', "an empty value"]),
    "one class": (table(isFraud={i: "0" for i in range(1, 201)}), ['"isFraud" is 0 in all rows, 1 to 200']),
    "only fraud": (table(isFraud={i: "1" for i in range(1, 201)}), ['"isFraud" is 1 in all rows, 1 to 200']),
    "no id": (table().replace("TransactionID", "Number"), ['id column "TransactionID" is missing']),
    "near id": (table().replace("TransactionID", "TransactionId"), ['perhaps "TransactionId" is meant']),
    "double id": (table(TransactionID={190: "3004"}), ['"TransactionID", row 190', "row 5"]),
    "empty id": (table(TransactionID={9: " "}), ['"TransactionID", row 9', "the id is missing"]),
    "no number": (table(C1={77: "1.5 €"}), ['"C1", row 77', "currency", "99.5% of the values"]),
    "a date among numbers": (table(C1={78: "2020-01-02"}), ['"C1", row 78', "a date"]),
    "amount text": (table(TransactionAmt={i: "much" for i in range(60, 201)}), ['"TransactionAmt", row 60', "amount"]),
    "empty file": ("", ["is empty"]),
    "only blanks": ("\n", ["line 1", "no header"]),
    "no rows": (HEAD, ["header but no rows"]),
    "short last line": (table()[:-3] + "\n", ["line 201 has 5 fields", "header has 6", "cut short"]),
    "short line": (table().replace("3004,0,86640,14.5", "3004,0,86640"), ["line 6 has 5 fields"]),
    "long line": (table().replace("3004,0", "3004,0,0"), ["line 6 has 7 fields"]),
    "not UTF-8": (WHOLE.replace(b"visa", b"v\xefsa", 1), ["line 2", "not UTF-8"]),
    "header not UTF-8": (b"\xff" + WHOLE, ["line 1", "not UTF-8"]),
    "UTF-16": (table().encode("utf-16"), ["line 1", "UTF-16"]),
    "open quote": (table(card4={200: '"visa'}), ["line 201", "quoted field"]),
    "quote open to the end": (WIDER[:-2] + '"x\n', ["line 201", "quoted field"]),
    "two names": (table().replace("C1", "card4"), ["columns 5 and 6", '"card4"']),
    "no name": (table().replace("TransactionID", ""), ["column 1 of the header has no name", "index=False"]),
    "reserved": (table().replace("C1", "__score"), ["column 6", '"__score"', "reserved"]),
    "semicolons": (table().replace(",", ";"), ["line 1", "separated by ';'"]),
    "time text": (table(TransactionDT={12: "noon"}), ['"TransactionDT", row 12', "cannot be read as a time"]),
    "time empty": (table(TransactionDT={13: ""}), ['"TransactionDT", row 13', "time is missing"]),
    "time negative": (table(TransactionDT={14: "-5"}), ['"TransactionDT", row 14', "negative"]),
    "time infinite": (table(TransactionDT={15: "inf"}), ['"TransactionDT", row 15', "cannot be read as a time"]),
    "no feature": ("TransactionID,isFraud,TransactionDT,TransactionAmt\n1,0,1,\n2,1,2,\n", ["no usable feature"]),
    "no column left": ("isFraud,TransactionID,TransactionDT\n1,1,1\n", ["TransactionAmt", "missing"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_csv_is_one_sentence_and_nothing_is_written(storage, case, packed):
    body, says = BAD[case]
    body = body.encode() if isinstance(body, str) else body
    name = "raw/delivered.csv" + ".gz" * packed
    storage.put(name, gzip.compress(body, mtime=0) if packed and body else body)
    with pytest.raises(DataError) as caught:
        history.ingest(storage, ROLES)
    sentence = str(caught.value)
    assert "delivered.csv" in sentence and "\n" not in sentence and sentence.endswith(".") and len(sentence) < 300
    for piece in says:
        assert piece in sentence
    assert keys(storage) == [name]


def test_bad_local_csv_says_the_same(tmp_path):
    for body, says in BAD.values():
        path = tmp_path / "delivered.csv"
        path.write_bytes(body.encode() if isinstance(body, str) else body)
        with pytest.raises(DataError) as caught:
            history.preview(path, ROLES)
        assert all(piece in str(caught.value) for piece in says)


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("a.parquet", parquet(**SOUND)[:-20], "damaged or truncated Parquet"),
        ("a.parquet", parquet(**SOUND)[:200], "damaged or truncated Parquet"),
        ("a.parquet", b"PAR1", "damaged or truncated Parquet"),
        ("a.csv.gz", gzip.compress(WHOLE, mtime=0)[:-15], "truncated gzip"),
        ("a.csv.gz", gzip.compress(WHOLE, mtime=0)[:10], "truncated gzip"),
        ("a.csv.gz", WHOLE, "truncated gzip"),
        ("a.parquet", parquet(**SOUND | {"TransactionAmt": ["x"] * N}), '"TransactionAmt" holds text from row 1'),
        ("a.parquet", parquet(**SOUND | {"C1": [[1]] * N}), 'column "C1" holds'),
        ("a.parquet", parquet(**SOUND | {"isFraud": [None, *SOUND["isFraud"][1:]]}), '"isFraud", row 1'),
        ("a.parquet", parquet(**SOUND | {"TransactionID": [None, *range(N - 1)]}), '"TransactionID", row 1'),
        ("a.parquet", parquet(**SOUND | {"TransactionDT": [0.5, float("nan")] * (N // 2)}), '"TransactionDT", row 2'),
        ("a.parquet", parquet(**SOUND | {"TransactionDT": [float("nan")] * N}), '"TransactionDT", row 1: the time'),
        ("a.parquet", parquet(**{name: [] for name in SOUND}), "no rows"),
        ("a.csv", WHOLE.replace(b"TransactionDT", b"T"), 'time column "TransactionDT" is missing'),
    ],
)  # fmt: skip
def test_other_bad_files(storage, name, body, says):
    storage.put(f"raw/{name}", body)
    with pytest.raises(DataError) as caught:
        history.ingest(storage, ROLES)
    assert name in str(caught.value) and says in str(caught.value) and "\n" not in str(caught.value)
    assert keys(storage) == [f"raw/{name}"]


def test_a_csv_cut_anywhere_in_its_last_lines_is_refused_or_told(tmp_path):
    path, whole = tmp_path / "cut.csv", table(30).encode()
    start = whole[:-1].rfind(b"\n", 0, whole[:-1].rfind(b"\n")) + 1
    silent = []
    for at in range(start, len(whole)):
        path.write_bytes(whole[:at])
        try:
            found = history.preview(path, ROLES)
        except DataError as error:
            assert "cut.csv" in str(error)
        else:
            if not any("last line does not end" in note for note in found["notes"]):
                silent.append(whole[at - 1 : at])
    assert set(silent) <= {b"\n"}  # only a cut between two lines cannot be seen
