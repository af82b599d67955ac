"""From a request to an instance: which fleet, which variant, which process."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fraud.localaws.cloudwatch import Metrics
from fraud.localaws.connection import AnswerLostError, NotSentError, Reply
from fraud.localaws.fleet import Fleet, Instance, Variant
from fraud.localaws.wire import AwsError, Context

logger = logging.getLogger(__name__)

INVOCATION_SECONDS = 60.0
WAIT_SECONDS = 30.0
_MAX_MIRRORED = 64
_TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)


@dataclass
class Route:
    """Where the requests of one endpoint go.

    Attributes
    ----------
    stages : list of (Fleet, float)
        Fleets and their shares of the traffic, which sum to 1. Replaced as a whole, between two requests.
    """

    endpoint: str
    stages: list[tuple[Fleet, float]] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def send_to(self, *stages: tuple[Fleet, float]) -> None:
        """Shift the traffic, from the next request on."""
        self.stages = [stage for stage in stages if stage[1] > 0]
        self.opened.set()

    def pick(self, target: str | None, avoid: set[Instance]) -> tuple[Variant, Instance | None]:
        """Return a variant, by traffic shares and weights, and its next instance (None when there is none now)."""
        fleet = self.stages[0][0]
        if len(self.stages) > 1:
            fleet = random.choices([stage[0] for stage in self.stages], [stage[1] for stage in self.stages])[0]
        variant = self._variant(fleet, target)
        for _ in range(len(variant.healthy)):
            if (instance := variant.pick()) not in avoid:
                return variant, instance
        return variant, None

    def _variant(self, fleet: Fleet, target: str | None) -> Variant:
        variants = list(fleet.variants.values())
        if target is not None:
            if target not in fleet.variants:
                raise AwsError("ValidationError", f"Variant {target} not found for endpoint {self.endpoint}.")
            return fleet.variants[target]
        if len(variants) == 1:
            return variants[0]
        weights = [variant.weight for variant in variants]
        if not any(weights):
            raise AwsError("ValidationError", f"All variants of endpoint {self.endpoint} have weight 0.")
        return random.choices(variants, weights)[0]


class Router:
    """All routes, and what passes on them.

    Parameters
    ----------
    context : Context
        For account, region and background tasks.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.routes: dict[str, Route] = {}
        self.metrics = Metrics(context, self.live)
        self._mirrored = 0

    def open(self, endpoint: str) -> Route:
        """Return the endpoint's route; requests wait on a new one until it leads somewhere."""
        return self.routes.setdefault(endpoint, Route(endpoint))

    def close(self, endpoint: str) -> None:
        """Answer that there is no such endpoint, from the next request on."""
        self.routes.pop(endpoint, None)

    def live(self) -> Iterator[tuple[str, str]]:
        """Yield the endpoints and variants in service."""
        for route in self.routes.values():
            yield from {(route.endpoint, variant.name) for fleet, _ in route.stages for variant in fleet.all}

    async def invoke(
        self, endpoint: str, headers: dict[str, str], body: bytes, target: str | None, inference_id: str | None
    ) -> tuple[str, Reply]:
        """Have a request answered; return the variant's name and the container's reply.

        Raises
        ------
        AwsError
            ``ValidationError`` (no such endpoint or variant), ``ModelError`` or ``ServiceUnavailable``.
        """
        route = self.routes.get(endpoint)
        if route is None:
            raise AwsError("ValidationError", f"Endpoint {endpoint} of account {self.context.account} not found.")
        began = time.perf_counter()
        deadline = time.monotonic() + WAIT_SECONDS
        avoid: set[Instance] = set()
        variant, instance = await self._hold(route, target, avoid, deadline)
        while True:
            sent = time.perf_counter()
            try:
                reply = await instance.invoke(headers, body, INVOCATION_SECONDS)
                break
            except NotSentError:  # this one certainly did not see it: another may have it
                avoid.add(instance)
                logger.info("%s cannot be reached", instance.stream)
            except AnswerLostError as error:
                self.metrics.count(endpoint, variant.name, 500, time.perf_counter() - sent, sent - began)
                raise self._model_error(endpoint, 500, str(error)) from error
            except TimeoutError as error:
                self.metrics.count(endpoint, variant.name, 500, time.perf_counter() - sent, sent - began)
                raise self._model_error(endpoint, 0, _TIMED_OUT) from error
            finally:
                instance.release()
            variant, instance = await self._hold(route, target, avoid, deadline)
        now = time.perf_counter()
        self.metrics.count(endpoint, variant.name, reply.status, now - sent, sent - began)
        if variant.fleet.shadows:
            self._mirror(variant, headers, body, inference_id)
        if not 200 <= reply.status < 300:
            raise self._model_error(endpoint, reply.status, reply.body.decode("utf-8", "replace"))
        if variant.capture is not None:
            _capture(variant, headers, body, reply, inference_id)
        return variant.name, reply

    async def _hold(
        self, route: Route, target: str | None, avoid: set[Instance], deadline: float
    ) -> tuple[Variant, Instance]:
        """Choose an instance and count the request on it; wait while there is none (it restarts)."""
        while (left := deadline - time.monotonic()) > 0 and self.routes.get(route.endpoint) is route:
            try:
                if not route.stages:
                    async with asyncio.timeout(left):
                        await route.opened.wait()
                variant, instance = route.pick(target, avoid)
                if instance is not None:
                    instance.hold()
                    return variant, instance
                avoid.clear()
                variant.changed.clear()
                async with asyncio.timeout(min(left, 0.25)):
                    await variant.changed.wait()
            except TimeoutError:
                continue
        raise AwsError("ServiceUnavailable", f"Endpoint {route.endpoint} has no instance in service.", 503)

    def _mirror(self, answered: Variant, headers: dict[str, str], body: bytes, inference_id: str | None) -> None:
        for shadow in answered.fleet.shadows.values():
            share = shadow.weight / answered.weight if answered.weight else 0.0
            instance = shadow.pick()
            if instance is None or self._mirrored >= _MAX_MIRRORED or random.random() >= share:
                continue
            instance.hold()
            self._mirrored += 1
            self.context.background(self._shadow(shadow, instance, headers, body, inference_id))

    async def _shadow(
        self, shadow: Variant, instance: Instance, headers: dict[str, str], body: bytes, inference_id: str | None
    ) -> None:
        began = time.perf_counter()
        status = 500
        try:
            reply = await instance.invoke(headers, body, INVOCATION_SECONDS)
            status = reply.status
            if shadow.capture is not None and 200 <= status < 300:
                _capture(shadow, headers, body, reply, inference_id)
        except (OSError, TimeoutError) as error:
            logger.info("shadow variant %s did not answer: %s", shadow.name, error)
        finally:
            instance.release()
            self._mirrored -= 1
            self.metrics.count(shadow.fleet.endpoint, shadow.name, status, time.perf_counter() - began, 0.0)

    def _model_error(self, endpoint: str, status: int, message: str) -> AwsError:
        kind = "client" if 400 <= status < 500 else "server"
        region, account, group = self.context.region, self.context.account, f"/aws/sagemaker/Endpoints/{endpoint}"
        text = (
            f'Received {kind} error ({status}) from primary with message "{message[:1024]}". See '
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group={group} "
            f"in account {account} for more information."
        )
        fields: dict[str, Any] = {"OriginalStatusCode": status, "OriginalMessage": message[:1024]}
        fields["LogStreamArn"] = self.context.arn("logs", f"log-group:{group}")
        return AwsError("ModelError", text, 424, fields)


def _capture(variant: Variant, headers: dict[str, str], body: bytes, reply: Reply, inference_id: str | None) -> None:
    assert variant.capture is not None
    answer_type = reply.headers.get("content-type", "")
    given = headers.get("X-Amzn-SageMaker-Custom-Attributes")
    variant.capture.record(body, headers.get("Content-Type", ""), reply.body, answer_type, inference_id, given)
