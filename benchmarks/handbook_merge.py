"""01_merge_data on the Fraud Detection Handbook's transactions, with labels that arrive late: the executed notebook.

The transactions before a day are the history; those after it become captured traffic, scored by a LightGBM model that
learnt from the history alone. Of the frauds most are reported within a week, some later, a few wrongly first; a bank's
CSV brings others. Then `fraud run --only 01` runs on a local AWS of its own, and the HTML is kept.

    python benchmarks/handbook_merge.py shared/data/handbook_raw.parquet --out build/handbook_01.html
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
import lightgbm as lgb
import numpy as np
import polars as pl

from fraud import capture, labels
from fraud.localaws import down, environment

sys.path.insert(0, str(Path(__file__).resolve().parent / "published"))

import datasets

START, LIVE, AS_OF = "2018-04-01", "2018-06-15", "2018-08-10T00:00:00Z"
FEATURES = ("CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT")
PER_LINE = 20  # transactions of one request


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def split(path: Path, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """History and traffic of some customers."""
    moment = pl.col("TX_DATETIME")
    table = datasets.read(path, datasets.HANDBOOK).filter(pl.col("CUSTOMER_ID").hash(seed) % 1000 < int(1000 * share))
    past = table.filter((moment >= pl.lit(START).str.to_datetime()) & (moment < pl.lit(LIVE).str.to_datetime()))
    live = table.filter((moment >= pl.lit(LIVE).str.to_datetime()) & (moment < pl.lit(AS_OF[:10]).str.to_datetime()))
    return past.sort("TX_DATETIME"), live.sort("TX_DATETIME")


def score(past: pl.DataFrame, live: pl.DataFrame) -> np.ndarray:
    """Scores of a model that learnt from the history."""
    given = {"objective": "binary", "verbosity": -1, "num_leaves": 31, "boost_from_average": False, "lambda_l2": 5.0}
    model = lgb.train(
        given, lgb.Dataset(past.select(FEATURES).to_numpy().astype(float), past["TX_FRAUD"].to_numpy()), 120
    )
    return np.asarray(model.predict(live.select(FEATURES).to_numpy().astype(float)))


def send(s3: object, bucket: str, live: pl.DataFrame) -> int:
    """Write the traffic as the endpoint would have captured it; return how many objects."""
    objects = 0
    for (hour,), rows in live.group_by(pl.col("TX_DATETIME").dt.truncate("1h"), maintain_order=True):
        lines = []
        for at in range(0, rows.height, PER_LINE):
            some = rows.slice(at, PER_LINE)
            lines.append(
                capture.encode_line(
                    [dict(zip(FEATURES, row, strict=True)) for row in some.select(FEATURES).iter_rows()],
                    some["score"].to_list(),
                    event_id=f"e{hour:%m%d%H}-{at}",
                    time=some["TX_DATETIME"].dt.epoch("s")[-1],
                    model_version="handbook-0",
                    inference_ids=[str(name) for name in some["TRANSACTION_ID"]],
                )
            )
        key = f"data-capture/fraud/AllTraffic/{hour:%Y/%m/%d/%H}/00-00-000-handbook.jsonl"
        s3.put_object(Bucket=bucket, Key=key, Body=b"".join(lines))
        objects += 1
    return objects


def tell(s3: object, bucket: str, live: pl.DataFrame, seed: int) -> int:
    """Report the frauds, late; return how many reports."""
    make = np.random.default_rng(seed)
    frauds = live.filter(pl.col("TX_FRAUD") == 1)
    when = frauds["TX_DATETIME"].dt.epoch("s").to_numpy() + make.exponential(7 * 86_400, frauds.height)
    known = [(str(i), t) for i, t in zip(frauds["TRANSACTION_ID"], when, strict=True)]
    by_hour: dict[int, list[str]] = {}
    bank = ["case,booked"]
    for at, (name, moment) in enumerate(known):
        if at % 10 == 3:
            bank.append(f"{name},{moment:.0f}")
            continue
        said = [labels.GroundTruth(name, 1, moment)]
        if at % 50 == 7:  # first cleared, then found to be fraud after all
            said.insert(0, labels.GroundTruth(name, 0, moment - 86_400))
        for one in said:
            by_hour.setdefault(int(one.time // 3600), []).append(labels.render_label_line(one))
    for hour, lines in by_hour.items():
        key = f"labels/{time.strftime('%Y/%m/%d/%H', time.gmtime(hour * 3600))}/reports.jsonl"
        s3.put_object(Bucket=bucket, Key=key, Body=("\n".join(lines) + "\n").encode())
    s3.put_object(Bucket=bucket, Key="labels/bank/chargebacks.csv", Body="\n".join([*bank, ""]).encode())
    return len(known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="handbook_raw.parquet")
    parser.add_argument("--out", type=Path, default=Path("build/handbook_01.html"))
    parser.add_argument("--share", type=float, default=0.4, help="share of the customers")
    parser.add_argument("--seed", type=int, default=0)
    p = parser.parse_args()
    try:
        past, live = split(p.table, p.share, p.seed)
    except datasets.NotAsClaimed as error:
        sys.exit(f"{error}")
    live = live.with_columns(score=score(past, live))
    say(f"{past.height:,} rows of history, {live.height:,} of traffic")
    with tempfile.TemporaryDirectory(prefix="fraud-handbook-") as folder:
        state = Path(folder) / "state"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUD_"))}
        clean |= {"FRAUD_LOCAL_STATE": str(state)}
        run = [sys.executable, "-m", "fraud.pipeline.cli"]
        try:
            outputs = json.loads(subprocess.run([*run, "local", "up"], env=clean, check=True, stdout=-1).stdout)[
                "outputs"
            ]
            clean |= environment(state)
            s3 = boto3.client(
                "s3", endpoint_url=clean["AWS_ENDPOINT_URL"], region_name=clean["AWS_REGION"],
                aws_access_key_id=clean["AWS_ACCESS_KEY_ID"], aws_secret_access_key=clean["AWS_SECRET_ACCESS_KEY"],
            )  # fmt: skip
            table = Path(folder) / "handbook.parquet"
            past.write_parquet(table)
            roles = ["--target", "TX_FRAUD", "--id", "TRANSACTION_ID", "--time", "TX_DATETIME", "--amount", "TX_AMOUNT"]
            hidden = "TX_FRAUD_SCENARIO,TX_TIME_SECONDS,TX_TIME_DAYS"
            subprocess.run([*run, "history", "put", str(table), *roles, "--exclude", hidden], env=clean, check=True)
            say(f"{send(s3, outputs['BucketName'], live):,} capture objects")
            say(f"{tell(s3, outputs['BucketName'], live, p.seed):,} frauds are reported late")
            given = ["label_id_column=case", "label_column=", "label_time_column=booked", f"as_of={AS_OF}"]
            given += ["lookback_days=60", "review_rows=50"]
            for run_id in ("first", "again"):
                began = time.monotonic()
                more = [part for one in given for part in ("-p", one)]
                subprocess.run([*run, "run", "--run-id", run_id, "--only", "01", *more], env=clean, check=True)
                say(f"{run_id}: {time.monotonic() - began:.1f} s")
            page = s3.get_object(Bucket=outputs["BucketName"], Key="runs/first/01_merge_data.html")["Body"].read()
            said = s3.get_object(Bucket=outputs["BucketName"], Key="runs/first/01_merge_data.json")["Body"].read()
        finally:
            down(state)
    p.out.parent.mkdir(parents=True, exist_ok=True)
    p.out.write_bytes(page)
    print(
        json.dumps(
            {name: json.loads(said)[name] for name in ("rows", "label_sources", "counts", "counterfactual")}, indent=1
        )
    )
    print(f"The executed notebook is in {p.out}.")


if __name__ == "__main__":
    main()
