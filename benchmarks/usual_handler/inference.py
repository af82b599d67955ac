"""The handler that examples show in the scikit-learn container: JSON → DataFrame → ``predict_proba`` → JSON.

Four functions, as the SageMaker SDK's documentation asks for them (``using_sklearn``, "Serve a Model"): the estimator
comes from joblib, the request becomes a table with the dtypes of training, and the classifier scores the table. What
examples do more slowly is not held against it: the dtypes are known beforehand and set in one ``astype`` (examples go
column by column, or let pandas find the categories in each request), nothing is printed, and one thread scores one row.
"""

import json
from pathlib import Path

import joblib
import pandas as pd


def model_fn(model_dir):
    """Load the estimator and the dtypes of its columns."""
    return joblib.load(Path(model_dir) / "model.joblib")


def input_fn(request_body, request_content_type):
    """Read transactions into a table."""
    if request_content_type != "application/json":
        raise ValueError(f"Unsupported content type: {request_content_type}")
    return pd.DataFrame(json.loads(request_body)["transactions"])


def predict_fn(table, model):
    """Give the columns their dtypes and score."""
    table = table[list(model["dtypes"])].astype(model["dtypes"])
    return model["classifier"].predict_proba(table)[:, 1]


def output_fn(prediction, accept):
    """Write the scores."""
    return json.dumps({"predictions": [{"fraud_probability": score} for score in prediction.tolist()]}), accept
