"""Compact captured traffic: the entry point of the SageMaker processing job that 01_merge_data may start.

Each machine gets its share of the hour partitions (``ShardedByS3Key``) and makes the very parts that 01 would make by
itself: one function does it in both places. Parts go straight into the ledger, each written once, never over another.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import boto3

from fraud.errors import FraudError
from fraud.pipeline.live import Conversion
from fraud.pipeline.partitions import Chunk
from fraud.pipeline.storage import Storage

logger = logging.getLogger("fraud.compact")


def main() -> int:
    """Compact every hour partition of this machine's share; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    base = Path(os.environ.get("SAGEMAKER_PROCESSING_BASE_DIR") or "/opt/ml/processing")
    try:
        given = json.loads((base / "input/conversion/conversion.json").read_bytes())
        conversion = Conversion.from_json(json.dumps(given["conversion"]))
        storage = Storage(given["bucket"], boto3.client("s3"), owner=given["owner"])
        hours = [Chunk.from_json(path.read_bytes()) for path in sorted((base / "input/hours").rglob("*.json"))]
        for at, index in enumerate(conversion.compact(storage, hours), 1):
            part = index.about["part"]
            logger.info("%d of %d: %d rows in %s", at, len(hours), part["rows"], part["key"])
    except FraudError as error:
        message = base.parent / "output/message"
        message.parent.mkdir(parents=True, exist_ok=True)
        message.write_text(str(error)[:1024], encoding="utf-8")
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The parts are in the bucket. A short job may end while threads of Arrow still start; the C++ library then aborts
    # the process on its way out, so that way is not taken.
    os._exit(code)
