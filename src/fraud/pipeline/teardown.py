"""Take a deployment down: what costs money goes, what stays is named with its price.

The order keeps a deployment whole until it is gone: first what could deploy again, then what serves, last the stack
whose roles the endpoint works with. Everything is found by the bucket or the endpoint that it belongs to, never by a
name that merely begins alike; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from fraud.errors import ParameterError, PlatformError
from fraud.pipeline import prices, stacks
from fraud.pipeline.deployment import describe as describe_endpoint
from fraud.pipeline.infra import app_stack_name, code_bucket, exists, pipeline_stack_name
from fraud.pipeline.registry import group_of, packages
from fraud.pipeline.stacks import aws_errors
from fraud.pipeline.where import client, stored

Echo = Callable[[str], None]
LIMIT_SECONDS = 3600  # an update of the endpoint may be under way, and cannot be deleted before it ends
BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack")
RUNNING = ("InProgress", "Stopping")
MOST_VERSIONS = 100_000  # objects to add up; a bucket with more is told as "more than"
LOG_GROUPS = {"training": "/aws/sagemaker/TrainingJobs", "processing": "/aws/sagemaker/ProcessingJobs"}


def destroy(env: str, *, echo: Echo) -> None:
    """Delete the deployment of an environment; one that is not there is fine.

    Parameters
    ----------
    env : str
        Folder of ``params/``.
    echo : callable
        Gets one line at a time: what is deleted, then what stays and what that costs.

    Raises
    ------
    ParameterError
        When the account and region hold another deployment.
    PlatformError
        When AWS refuses. What was deleted until then is deleted; the same call goes on.
    """
    name = app_stack_name(env)
    with aws_errors(f"Deleting the deployment {env}"):
        if (there := stored().get("environment", env)) != env:
            raise ParameterError(f"This account and region hold the deployment {there!r}, not {env!r}.")
        app = stacks.settled(name)
        if app is None:
            echo(f"There is no stack {name}.")
            _delete_code(echo)
            return
        given = stacks.given(app)
        bucket, endpoint = given["BucketName"], given["EndpointName"]
        _stop_pipeline(given["PipelineName"], echo)
        _delete_stack(pipeline_stack_name(env), echo)
        _stop_jobs(bucket, echo)
        _delete_endpoint(endpoint, echo)
        _delete_models(bucket, endpoint, echo)
        _delete_logs(bucket, endpoint, echo)
        _delete_stack(name, echo)
        _delete_code(echo)
        _tell_what_stays(given, echo)


def _delete_stack(name: str, echo: Echo) -> None:
    stack = stacks.settled(name)
    if stack is not None:
        echo(f"Deleting the stack {name} …")
        stacks.delete(stack)


def _stop_pipeline(pipeline: str, echo: Echo) -> None:
    """Stop the runs that are under way: they would deploy again what is deleted here."""
    with _ignored("PipelineNotFoundException"):
        pages = client("codepipeline").get_paginator("list_pipeline_executions").paginate(pipelineName=pipeline)
        for run in (item for page in pages for item in page["pipelineExecutionSummaries"]):
            if run["status"] == "InProgress":
                echo(f"Stopping the run {run['pipelineExecutionId']} of {pipeline} …")
                client("codepipeline").stop_pipeline_execution(
                    pipelineName=pipeline,
                    pipelineExecutionId=run["pipelineExecutionId"],
                    abandon=True,
                    reason="The deployment is taken down.",
                )
    with _ignored("ResourceNotFoundException"):  # an abandoned run leaves its build going
        builds = client("codebuild").list_builds_for_project(projectName=f"{pipeline}-run")["ids"][:100]  # newest first
        for build in client("codebuild").batch_get_builds(ids=builds)["builds"] if builds else []:
            if build["buildStatus"] == "IN_PROGRESS":
                client("codebuild").stop_build(id=build["id"])


def _stop_jobs(bucket: str, echo: Echo) -> None:
    """Stop what still computes; jobs that ended cost nothing and cannot be deleted."""
    sagemaker = client("sagemaker")
    for job in _training_jobs(bucket, StatusEquals="InProgress"):
        echo(f"Stopping the training job {job['TrainingJobName']} …")
        _unless_over(sagemaker.stop_training_job, TrainingJobName=job["TrainingJobName"])
    for job in _processing_jobs(bucket, StatusEquals="InProgress"):
        echo(f"Stopping the processing job {job['ProcessingJobName']} …")
        _unless_over(sagemaker.stop_processing_job, ProcessingJobName=job["ProcessingJobName"])


def _unless_over(call: Callable[..., Any], **request: Any) -> None:
    """Stop a job; one that ended meanwhile is stopped."""
    try:
        call(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise


def _delete_endpoint(endpoint: str, echo: Echo) -> None:
    """Delete the endpoint, which costs by the hour, and wait until it is gone."""
    end = time.monotonic() + LIMIT_SECONDS
    found = describe_endpoint(endpoint)
    if found and found["EndpointStatus"] in BUSY:
        echo(f"The endpoint {endpoint} is {found['EndpointStatus']}; it can be deleted once that is over …")
    while found and found["EndpointStatus"] in BUSY:
        found = _look_again(endpoint, end)
    if found is None:
        return
    echo(f"Deleting the endpoint {endpoint} …")
    if found["EndpointStatus"] != "Deleting":
        client("sagemaker").delete_endpoint(EndpointName=endpoint)
    while found:
        found = _look_again(endpoint, end)


def _look_again(endpoint: str, end: float, pause: float = 2.0) -> dict[str, Any] | None:
    if time.monotonic() > end:
        raise PlatformError(f"The endpoint {endpoint} is still there after {LIMIT_SECONDS} s; try again later.")
    time.sleep(pause)
    return describe_endpoint(endpoint)


def _delete_models(bucket: str, endpoint: str, echo: Echo) -> None:
    """Delete configurations, models and registered models of this deployment."""
    sagemaker = client("sagemaker")
    configs = [item["EndpointConfigName"] for item in _listed("list_endpoint_configs", "EndpointConfigs")]
    configs = [name for name in configs if _captures_to(bucket, name)]
    models = [item["ModelName"] for item in _listed("list_models", "Models")]
    models = [name for name in models if _model_lies_in(bucket, name)]
    registered = [item["ModelPackageArn"] for item in packages(endpoint, bucket)]
    if configs or models or registered:
        echo(
            f"Deleting {len(configs)} endpoint configurations, {len(models)} models and "
            f"{len(registered)} registered models …"
        )
    for name in configs:
        sagemaker.delete_endpoint_config(EndpointConfigName=name)
    for name in models:
        sagemaker.delete_model(ModelName=name)
    for arn in registered:
        sagemaker.delete_model_package(ModelPackageName=arn)
    with _ignored("ConflictException"):  # it holds models of another bucket's deployment
        try:
            sagemaker.delete_model_package_group(ModelPackageGroupName=group_of(endpoint))
        except ClientError as error:
            if "does not exist" not in str(error):
                raise


def _captures_to(bucket: str, config: str) -> bool:
    found = client("sagemaker").describe_endpoint_config(EndpointConfigName=config)
    return str(found.get("DataCaptureConfig", {}).get("DestinationS3Uri", "")).startswith(f"s3://{bucket}/")


def _model_lies_in(bucket: str, model: str) -> bool:
    found = client("sagemaker").describe_model(ModelName=model)
    return str(found.get("PrimaryContainer", {}).get("ModelDataUrl", "")).startswith(f"s3://{bucket}/")


def _delete_logs(bucket: str, endpoint: str, echo: Echo) -> None:
    """Delete what SageMaker logged: the endpoint's group, and of the jobs' common groups our own streams."""
    logs, group = client("logs"), f"/aws/sagemaker/Endpoints/{endpoint}"
    with _ignored("ResourceNotFoundException"):
        logs.delete_log_group(logGroupName=group)
        echo(f"Deleted the log group {group}.")
    jobs = {
        "training": [job["TrainingJobName"] for job in _training_jobs(bucket)],
        "processing": [job["ProcessingJobName"] for job in _processing_jobs(bucket)],
    }
    for kind, names in jobs.items():
        for name in names:
            for stream in list(_streams(LOG_GROUPS[kind], f"{name}/")):
                with _ignored("ResourceNotFoundException"):
                    logs.delete_log_stream(logGroupName=LOG_GROUPS[kind], logStreamName=stream)


def _streams(group: str, prefix: str) -> Iterator[str]:
    pages = client("logs").get_paginator("describe_log_streams")
    with _ignored("ResourceNotFoundException"):
        for page in pages.paginate(logGroupName=group, logStreamNamePrefix=prefix):
            yield from (stream["logStreamName"] for stream in page["logStreams"])


def _delete_code(echo: Echo) -> None:
    """Delete the bucket of what CloudFormation read: nothing refers to it once the stacks are gone."""
    s3, owner = client("s3"), code_bucket()
    if not exists(s3.head_bucket, **owner):
        return
    echo(f"Deleting the bucket {owner['Bucket']} of the Lambdas' code …")
    for page in s3.get_paginator("list_objects_v2").paginate(**owner):
        for item in page.get("Contents", []):
            s3.delete_object(Key=item["Key"], **owner)
    s3.delete_bucket(**owner)


def _tell_what_stays(given: Mapping[str, str], echo: Echo) -> None:
    """Delete the data bucket when the stack made it and it is empty; else say what is in it and what that costs."""
    bucket = given["BucketName"]
    if exists(client("s3").head_bucket, Bucket=bucket):
        count, size, whole = _held(bucket)
        if count == 0 and given.get("MakesBucket") == "true":
            client("s3").delete_bucket(Bucket=bucket)
        else:
            more, gigabytes = "" if whole else "more than ", size / 1e9
            echo(
                f"The bucket {bucket} stays: {more}{count:,} objects, {gigabytes:,.3f} GB, "
                f"{more}{gigabytes * prices.S3_GB_MONTH:,.2f} dollars a month."
            )
    if given.get("KmsKeyArn"):
        echo(f"The key {given['KmsKeyArn']} stays: {prices.KMS_KEY_MONTH:,.2f} dollars a month.")
    echo(f"Nothing else of this deployment costs anything (list prices, {prices.AS_OF}).")


def _held(bucket: str) -> tuple[int, int, bool]:
    """Versions and delete markers of a bucket, their bytes, and whether all were counted."""
    count = size = 0
    for page in client("s3").get_paginator("list_object_versions").paginate(Bucket=bucket):
        versions = page.get("Versions", [])
        count += len(versions) + len(page.get("DeleteMarkers", []))
        size += sum(item["Size"] for item in versions)
        if count >= MOST_VERSIONS:
            return count, size, False
    return count, size, True


def _training_jobs(bucket: str, **filters: str) -> Iterator[dict[str, Any]]:
    """Training jobs that write into this bucket."""
    for item in _listed("list_training_jobs", "TrainingJobSummaries", **filters):
        job = client("sagemaker").describe_training_job(TrainingJobName=item["TrainingJobName"])
        if job["OutputDataConfig"]["S3OutputPath"].startswith(f"s3://{bucket}/"):
            yield job


def _processing_jobs(bucket: str, **filters: str) -> Iterator[dict[str, Any]]:
    """Processing jobs that read from this bucket."""
    for item in _listed("list_processing_jobs", "ProcessingJobSummaries", **filters):
        job = client("sagemaker").describe_processing_job(ProcessingJobName=item["ProcessingJobName"])
        sources = (given.get("S3Input", {}).get("S3Uri", "") for given in job.get("ProcessingInputs", []))
        if any(uri.startswith(f"s3://{bucket}/") for uri in sources):
            yield job


def _listed(operation: str, member: str, **filters: str) -> Iterator[dict[str, Any]]:
    """Items of a listing whose names look like this product's; each is looked at before it counts."""
    pages = client("sagemaker").get_paginator(operation).paginate(NameContains="fraud-", **filters)
    for page in pages:
        yield from page[member]


class _ignored:
    """Pass over one error code of AWS."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, ClientError) and error.response["Error"]["Code"] == self.code
