"""What control plane and runtime of the hosted endpoints share."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fraud.localaws.cloudwatch import LogShipper
from fraud.localaws.embedded_metrics import EmbeddedMetrics
from fraud.localaws.fleet import Ground
from fraud.localaws.routing import Router
from fraud.localaws.wire import AwsError, Context, Operations

_BY_STATE: dict[Path, Hosting] = {}


class Hosting:
    """The running side of a daemon's endpoints."""

    def __init__(self, context: Context) -> None:
        self.ground = Ground(context, LogShipper(context))
        self.router = Router(context)
        self.embedded = EmbeddedMetrics(context)
        self._loops: list[asyncio.Task[Any]] = []

    @classmethod
    def of(cls, context: Context, *, fresh: bool = False) -> Hosting:
        """Return the daemon's; `fresh` makes a new one."""
        if fresh or context.state not in _BY_STATE:
            _BY_STATE[context.state] = cls(context)
        return _BY_STATE[context.state]

    def start(self) -> None:
        """Begin to report metrics, to ship logs, and to make metrics of what Lambdas log."""
        metrics, shipper = self.router.metrics, self.ground.shipper
        loops = (metrics.run(), shipper.run(), self.embedded.run(metrics.period))
        self._loops = [self.ground.context.background(loop) for loop in loops]

    async def stop(self) -> None:
        """Report and ship what is left."""
        for task in self._loops:
            task.cancel()
        await self.router.metrics.report()
        await self.ground.shipper.ship()


class Runtime(Operations):
    """The service ``sagemaker-runtime``."""

    service = "sagemaker-runtime"

    async def invoke_endpoint(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer from the model."""
        for name in ("TargetModel", "TargetContainerHostname", "InferenceComponentName"):
            if params.get(name):
                raise AwsError("ValidationError", f"{name} is not supported: the endpoint has one model a variant.")
        headers = {
            wire: params[name]
            for name, wire in (
                ("ContentType", "Content-Type"),
                ("Accept", "Accept"),
                ("CustomAttributes", "X-Amzn-SageMaker-Custom-Attributes"),
                ("InferenceId", "X-Amzn-SageMaker-Inference-Id"),
                ("TargetVariant", "X-Amzn-SageMaker-Target-Variant"),
                ("SessionId", "X-Amzn-SageMaker-Session-Id"),
            )
            if params.get(name)
        }
        variant, reply = await Hosting.of(self.context).router.invoke(
            params["EndpointName"], headers, params["Body"], params.get("TargetVariant"), params.get("InferenceId")
        )
        return {
            "Body": reply.body,
            "ContentType": reply.headers.get("content-type"),
            "InvokedProductionVariant": variant,
            "CustomAttributes": reply.headers.get("x-amzn-sagemaker-custom-attributes"),
        }


def scaled(seconds: float) -> float:
    """Return a waiting time of AWS as it is waited here: divided by ``FRAUD_LOCAL_TIME_SCALE``."""
    return seconds / float(os.environ.get("FRAUD_LOCAL_TIME_SCALE", "1"))
