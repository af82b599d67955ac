"""One update of an endpoint: green beside blue, traffic in steps, alarms watched, all of it undone when one rings."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws.fleet import Fleet
from fraud.localaws.hosting import scaled
from fraud.localaws.model_archive import HostingError
from fraud.localaws.routing import Route
from fraud.localaws.specification import alarm_names

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_MAX_BLIND = 5


class RollbackError(Exception):
    """The update must be undone; the text is the ``FailureReason``."""


@dataclass(frozen=True)
class Plan:
    """How the traffic moves.

    Attributes
    ----------
    shares : tuple of float
        Of green, after each step; the last is 1.
    wait : float
        Seconds of baking between steps.
    termination_wait : float
        Seconds during which blue is kept after the last step.
    timeout : float
        Seconds for all of it, but for starting processes: that is real work, which no time scale makes shorter.
    """

    shares: tuple[float, ...] = (1.0,)
    wait: float = 0.0
    termination_wait: float = 0.0
    timeout: float = 28_800.0

    @classmethod
    def of(cls, deployment: dict[str, Any] | None, instances: int) -> Plan:
        """Read a ``DeploymentConfig`` for a fleet of so many instances (of its smallest variant)."""
        policy = (deployment or {}).get("BlueGreenUpdatePolicy")
        rolling = (deployment or {}).get("RollingUpdatePolicy")
        if rolling:
            step = _fraction(rolling["MaximumBatchSize"], instances)
            timeout = rolling.get("MaximumExecutionTimeoutInSeconds", 28_800)
            return cls(_steps(step), rolling["WaitIntervalInSeconds"], 0.0, timeout)
        if not policy:
            return cls()
        routing = policy["TrafficRoutingConfiguration"]
        shares: tuple[float, ...] = (1.0,)
        if routing["Type"] == "CANARY":
            shares = (_fraction(routing["CanarySize"], instances), 1.0)
        elif routing["Type"] == "LINEAR":
            shares = _steps(_fraction(routing["LinearStepSize"], instances))
        return cls(
            shares,
            routing.get("WaitIntervalInSeconds", 0),
            policy.get("TerminationWaitInSeconds", 0),
            policy.get("MaximumExecutionTimeoutInSeconds", 28_800),
        )


def _fraction(size: dict[str, Any], instances: int) -> float:
    whole = 100 if size["Type"] == "CAPACITY_PERCENT" else instances
    return min(1.0, float(size["Value"]) / whole)


def _steps(step: float) -> tuple[float, ...]:
    shares: list[float] = []
    while (share := round(step * (len(shares) + 1), 6)) < 1.0:
        shares.append(share)
    return (*shares, 1.0)


Watch = Callable[[list[str]], Awaitable[dict[str, str]]]
Progress = Callable[[str, float, str], None]


class Rollout:
    """Moves the traffic of one route from blue to green.

    Parameters
    ----------
    route : Route
        Whose traffic.
    blue, green : Fleet
        In service, and to come (not started).
    deployment : dict or None
        ``DeploymentConfig``; None moves all at once.
    watch : callable
        ``await watch(names)`` → states of the alarms, as fresh as can be.
    progress : callable
        ``progress(status, share, message)`` is told each stage (a ``VariantStatus``).
    """

    def __init__(
        self,
        route: Route,
        blue: Fleet,
        green: Fleet,
        deployment: dict[str, Any] | None,
        watch: Watch,
        progress: Progress,
    ) -> None:
        self.route = route
        self.blue = blue
        self.green = green
        self.alarms = alarm_names(deployment)
        self.watch = watch
        self.progress = progress
        self.plan = Plan.of(deployment, min(variant.wanted for variant in green.variants.values()))
        self._blind = 0

    async def run(self) -> None:
        """Bring green into service. On return all traffic is on green; blue still runs, without any.

        Raises
        ------
        RollbackError
            All traffic is on blue again and green is gone.
        """
        try:
            self.progress("Creating", 0.0, "The new fleet is being created.")
            await self.green.start()
            async with asyncio.timeout(scaled(self.plan.timeout)):
                await self._shift()
        except (HostingError, RollbackError) as error:
            await self._back(str(error))
            raise RollbackError(str(error)) from error
        except TimeoutError as error:
            reason = f"The update took longer than MaximumExecutionTimeoutInSeconds ({self.plan.timeout:.0f})."
            await self._back(reason)
            raise RollbackError(reason) from error
        except BaseException:
            self.route.send_to((self.blue, 1.0))  # stopped, or a defect: never leave traffic on an unwatched fleet
            raise

    async def _shift(self) -> None:
        for step, share in enumerate(self.plan.shares, start=1):
            last = share == 1.0
            self.progress("ActivatingTraffic", share, f"{share:.0%} of the traffic moves to the new fleet.")
            self.route.send_to((self.blue, 1.0 - share), (self.green, share))
            wait = self.plan.wait if not last or len(self.plan.shares) == 1 else 0.0
            wait += self.plan.termination_wait if last else 0.0
            self.progress("Baking", share, f"{share:.0%} of the traffic is on the new fleet (step {step}).")
            await self._bake(wait)

    async def _bake(self, seconds: float) -> None:
        """Wait, watching the alarms until the very end."""
        deadline = time.monotonic() + scaled(seconds)
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _POLL_SECONDS))
            await self._check()

    async def _check(self) -> None:
        if not self.alarms:
            return
        try:
            states = await self.watch(self.alarms)
        except (BotoCoreError, ClientError) as error:
            self._blind += 1
            logger.warning("the alarms of %s cannot be read: %s", self.route.endpoint, error)
            if self._blind >= _MAX_BLIND:  # what cannot be seen is not fine
                raise RollbackError(f"The rollback alarms could not be read {self._blind} times: {error}") from error
            return
        self._blind = 0
        if ringing := [name for name in self.alarms if states.get(name) == "ALARM"]:
            raise RollbackError(f"One or more rollback alarms were triggered during the update: {', '.join(ringing)}.")
        if absent := [name for name in self.alarms if name not in states]:
            raise RollbackError(f"Rollback alarms do not exist any more: {', '.join(absent)}.")

    async def _back(self, reason: str) -> None:
        logger.warning("update of %s is rolled back: %s", self.route.endpoint, reason)
        self.route.send_to((self.blue, 1.0))
        self.progress("Deleting", 0.0, "All traffic is back on the old fleet; the new one is being deleted.")
        await self.green.stop()
