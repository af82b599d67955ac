"""A label file that cannot be read, as who runs 01 sees it: on the console, in the page, by the exit code."""

import json

import pytest

pytestmark = pytest.mark.localaws
HEAD = "case;outcome;booked\n"


@pytest.fixture
def deliver(house):
    """Deliver label files for one test; other tests of the session have none of them."""
    keys = []

    def put(name, body):
        keys.append(f"labels/{name}")
        house.s3().put_object(Bucket=house.bucket, Key=keys[-1], Body=body)

    yield put
    for key in keys:
        house.s3().delete_object(Bucket=house.bucket, Key=key)


def test_01_names_a_file_that_it_could_not_read_or_stops_at_it(house, deliver):
    deliver("bank <b>.xlsx", b"PK\3\4 workbook")
    deliver("bank.csv", b"inference_id;label;label_time\n1;1;2026-01-01\n2;x;2026-01-01\n")
    done = house.fraud("run", "--run-id", "label1", "--only", "01", "-p", "max_bad_share=0.5")
    lines = (done.stdout + done.stderr).splitlines()
    mark = next(at for at, line in enumerate(lines) if line.startswith("✓ 01_merge_data"))
    assert [line.split(":")[0] for line in lines[mark + 1 : mark + 3]] == [
        "! labels/bank <b>.xlsx", "! labels/bank.csv",
    ]  # fmt: skip
    page = house.read("runs/label1/01_merge_data.html").decode()
    assert "labels/bank &lt;b&gt;.xlsx: nothing of it could be read" in page and "<b>.xlsx" not in page
    assert "labels/bank.csv: not all of it could be read" in page and "unreadable labels" in page
    bad = [json.loads(line) for line in house.read("runs/label1/data/quarantine.jsonl").splitlines()]
    assert [(one["file"], one["line"]) for one in bad] == [("labels/bank <b>.xlsx", 1), ("labels/bank.csv", 3)]

    deliver("more.csv", HEAD.encode() + b"1;1;2026-01-01\n" * 60)
    done = house.fraud("run", "--run-id", "label2", "--only", "01", "-p", "max_bad_share=0.99", code=2)
    assert "labels/more.csv can be read: there is no column inference_id" in done.stdout + done.stderr
    bad = house.read("runs/label2/data/quarantine.jsonl").decode()
    assert bad.count("labels/more.csv") == 60
