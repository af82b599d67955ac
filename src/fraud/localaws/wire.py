"""AWS's wire protocol, seen from the service: what a request says and how an answer is written.

Driven by botocore's service models, so that every client which speaks to AWS can speak to this. Two protocols are
known: ``json`` 1.1 (SageMaker, CodePipeline: everything in the body, the operation in a header) and ``rest-json``
(SageMaker Runtime, SESv2: path, query, headers and body).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

import botocore.session
from botocore import xform_name
from botocore.model import ServiceModel

from fraud.localaws import constraints, protocol
from fraud.localaws.protocol import Answer
from fraud.localaws.store import Store

if TYPE_CHECKING:
    import asyncio

# How each service calls a request that breaks the model.
_VALIDATION = {"sesv2": "BadRequestException", "sagemaker-runtime": "ValidationError"}


class AwsError(Exception):
    """An answer that is an error, as AWS gives it.

    Parameters
    ----------
    code : str
        As clients see it in ``error.response["Error"]["Code"]``.
    message : str
        In AWS's words.
    status : int, default=400
        HTTP status.
    fields : dict, optional
        Further members of the error's shape, for example ``OriginalStatusCode`` of ``ModelError``.
    """

    def __init__(self, code: str, message: str, status: int = 400, fields: dict[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields or {}


@dataclass
class Context:
    """What every service gets.

    Attributes
    ----------
    state : Path
        The state folder (absolute).
    store : Store
        Documents that survive a crash.
    environment : dict of str to str
        AWS variables for child processes: with them botocore finds MiniStack and this daemon.
    client : callable
        ``client("s3")`` → botocore client, made once each. Its calls block: use `call`.
    call : callable
        ``await call(client.put_object, Bucket=…)``: any blocking function, in a thread.
    background : callable
        ``background(coroutine)`` → task that is kept, whose error is logged, and that is cancelled when the daemon
        stops.
    spawn : callable
        ``await spawn(*args, cwd=…, env=…, stdout=…, stderr=…, pass_fds=…)`` → `asyncio.subprocess.Process` in a session
        of its own (signal it with ``os.killpg(process.pid, …)``) that does not outlive the daemon; see `children`.
    """

    state: Path
    store: Store
    environment: dict[str, str]
    client: Callable[[str], Any]
    call: Callable[..., Awaitable[Any]]
    background: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    spawn: Callable[..., Awaitable[asyncio.subprocess.Process]]
    region: str = "eu-west-1"
    account: str = "000000000000"

    def arn(self, service: str, resource: str) -> str:
        """Return an ARN of this account, e.g. ``arn("sagemaker", "training-job/x")``."""
        return f"arn:aws:{service}:{self.region}:{self.account}:{resource}"


class Operations:
    """A service, or a part of one: each method is an operation, named as boto3 names it.

    ``async def create_model(self, params) -> dict`` gets the request's members under their AWS names (timestamps are
    epoch seconds, blobs are bytes) and returns the answer's (None and unknown names are left out). `start` resumes what
    ran before a crash; `stop` ends what must not outlive the daemon.
    """

    service: ClassVar[str]

    def __init__(self, context: Context) -> None:
        self.context = context

    async def start(self) -> None:
        """Resume."""

    async def stop(self) -> None:
        """Wind up."""

    def status(self) -> dict[str, Any]:
        """Return what ``fraud local status`` shows of this, JSON."""
        return {}


@dataclass
class Service:
    """One AWS service: its model and the operations that are here.

    Parameters
    ----------
    name : str
        As botocore names it.
    parts : list of Operations
        Who answers.
    """

    name: str
    parts: list[Operations] = field(default_factory=list)

    @cached_property
    def model(self) -> ServiceModel:
        """The botocore service model."""
        return _models().get_service_model(self.name)

    @cached_property
    def routes(self) -> list[tuple[str, re.Pattern[str], str]]:
        """``(method, path, operation)`` of a rest-json service, the most literal path first."""
        found = []
        for operation in self.model.operation_names:
            http = self.model.operation_model(operation).http
            path = http["requestUri"].partition("?")[0]
            found.append((path.count("{"), -len(path), http["method"], _route(path), operation))
        return [(method, path, operation) for _, _, method, path, operation in sorted(found, key=lambda r: r[:2])]

    def route(self, method: str, path: str) -> tuple[str, dict[str, str]] | None:
        """Return the operation a path stands for and the path's values, or None."""
        for verb, pattern, operation in self.routes:
            if verb == method and (found := pattern.fullmatch(path)):
                return operation, {key.removeprefix("_"): unquote(value) for key, value in found.groupdict().items()}
        return None

    def handler(self, operation: str) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]:
        """Return the method that answers, or raise ``UnknownOperationException``."""
        name = xform_name(operation)
        if operation in self.model.operation_names:
            for part in self.parts:
                if method := getattr(part, name, None):
                    return method
        raise AwsError("UnknownOperationException", f"The local AWS does not have {self.name}:{operation}")

    def parse(
        self,
        operation: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, list[str]] | None = None,
        path_values: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the request's members, checked against the model.

        Raises
        ------
        AwsError
            As the service refuses it: ``SerializationException`` or its validation error, listing all faults.
        """
        shape = self.model.operation_model(operation).input_shape
        if shape is None:
            return {}
        try:
            params = protocol.read(shape, body, headers or {}, query or {}, path_values or {})
        except protocol.MalformedError as error:
            raise AwsError("SerializationException", str(error)) from None
        code = _VALIDATION.get(self.name, "ValidationException")
        if faults := constraints.violations(params, shape):
            noun = "error" if len(faults) == 1 else "errors"
            raise AwsError(code, f"{len(faults)} validation {noun} detected: {'; '.join(faults)}")
        if report := constraints.type_errors(params, shape):
            raise AwsError("SerializationException" if "Invalid type" in report else code, report)
        return params

    def answer(self, operation: str, result: dict[str, Any] | None) -> Answer:
        """Write the answer: members that are None or that the model does not know are left out."""
        return protocol.write(self.model.operation_model(operation), result or {})

    def error(self, error: AwsError, request_id: str) -> Answer:
        """Write an error."""
        content = {"message": error.message, "Message": error.message, **error.fields}
        if self.model.protocol == "json":
            content = {"__type": error.code, **content}
        headers = {
            "x-amzn-errortype": error.code,
            "x-amzn-requestid": request_id,
            "Content-Type": protocol.content_type(self.model),
        }
        status = error.status
        modelled = {shape.name: shape.metadata.get("error", {}) for shape in self.model.error_shapes}
        if self.model.protocol == "rest-json" and status == 400:
            status = modelled.get(error.code, {}).get("httpStatusCode", 400)
        return Answer(status, headers, json.dumps(content).encode())


@cache
def _models() -> botocore.session.Session:
    return botocore.session.Session()


def _route(path: str) -> re.Pattern[str]:
    text = ""
    for literal, name, greedy in re.findall(r"([^{]*)(?:\{([\w-]+)(\+?)\})?", path):
        text += re.escape(literal)
        if name:
            text += f"(?P<_{name.replace('-', '_')}>{'.+' if greedy else '[^/]+'})"
    return re.compile(text)
