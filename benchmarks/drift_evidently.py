"""Evidently's DataDriftPreset on Parquet files: run by an interpreter that has it, prints one JSON line a file.

    python -m venv /tmp/evidently && /tmp/evidently/bin/pip install "evidently==0.7.23" "pandas<3" pyarrow
    /tmp/evidently/bin/python benchmarks/drift_evidently.py reference.parquet live.parquet [live.parquet ...]

It is a peer of the other drift benchmarks, which start it themselves with ``--evidently /tmp/evidently/bin/python``.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

BEGAN = time.perf_counter()
os.environ["DO_NOT_TRACK"] = "1"
warnings.filterwarnings("ignore")


def main(reference_path: str, *paths: str) -> None:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    def dataset(path):
        frame = pd.read_parquet(path)
        text = [name for name in frame if frame[name].dtype == object or str(frame[name].dtype) == "category"]
        numbers = [name for name in frame if name not in text]
        return Dataset.from_pandas(
            frame, data_definition=DataDefinition(numerical_columns=numbers, categorical_columns=text)
        ), frame.shape

    reference, _ = dataset(reference_path)
    for path in paths:
        current, (rows, columns) = dataset(path)
        found = Report([DataDriftPreset()]).run(current, reference).dict()["metrics"]
        drifted = []
        for metric in found:
            about = metric["config"] if "config" in metric else metric
            if "ValueDrift" not in str(about.get("type", metric.get("metric_name", ""))):
                continue
            score, method, threshold = float(metric["value"]), str(about["method"]), float(about["threshold"])
            if (score < threshold) if "p_value" in method else (score >= threshold):
                drifted.append(about["column"])
        line = {
            "path": path,
            "rows": rows,
            "columns": columns,
            "drifted": drifted,
            "dataset_drift": len(drifted) >= 0.5 * columns,
            "seconds": time.perf_counter() - BEGAN,
            "peak_mb": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
