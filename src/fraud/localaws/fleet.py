"""The instances behind an endpoint: each one is a real process that serves the model over HTTP on loopback.

A `Fleet` is what one endpoint config looks like when it runs: for each variant so many instances. Blue and green are
two fleets. An instance takes part in routing from its first good ``/ping`` until it is retired; then it is drained, and
only then ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fraud.localaws import container_environment
from fraud.localaws.cloudwatch import LogShipper
from fraud.localaws.connection import NotSentError, Pool, Reply
from fraud.localaws.data_capture import Capture
from fraud.localaws.model_archive import HostingError, download, unpack
from fraud.localaws.wire import Context

logger = logging.getLogger(__name__)

STARTUP_SECONDS = 120.0
DRAIN_SECONDS = 65.0
_SERVING = Path(__file__).with_name("serving.py")
_MAX_LOG = 20 << 20


@dataclass
class Ground:
    """What all fleets of a daemon share.

    Attributes
    ----------
    context : Context
        For processes and S3.
    shipper : LogShipper
        Takes the logs along.
    starting : asyncio.Semaphore
        More instances starting at once than there are cores would only make each one late.
    taken : dict
        Instance numbers in use, by endpoint and variant, so that each living instance has its own log file.
    """

    context: Context
    shipper: LogShipper
    starting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(max(2, os.cpu_count() or 2)))
    taken: defaultdict[tuple[str, str], set[int]] = field(default_factory=lambda: defaultdict(set))


class FleetError(HostingError):
    """An instance does not become healthy."""


class Instance:
    """One process that serves.

    Parameters
    ----------
    variant : Variant
        Whose it is.
    index : int
        Names its folder and its log.
    """

    def __init__(self, variant: Variant, index: int) -> None:
        self.variant = variant
        self.index = index
        self.in_flight = 0
        self.process: asyncio.subprocess.Process | None = None
        self.pool: Pool | None = None
        self.log = variant.fleet.logs / f"{variant.name}-{index}.log"
        self.folder = variant.folder / f"{index}"
        self._log_start = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Start the process and wait for a good ``/ping``.

        Raises
        ------
        HostingError
            It will not serve.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        context, variant = self.variant.fleet.context, self.variant
        model_dir = self.folder / "model"
        await context.call(unpack, variant.archive, model_dir)
        code_dir = await container_environment.code_dir(context, variant.container, self.folder, model_dir)
        environment = container_environment.variables(context, variant.container, model_dir, code_dir)
        if site := await container_environment.install(context, code_dir):
            environment["PYTHONPATH"] = str(site)
        self._open_log()
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, self.log.open("ab") as log:
            # Inherited already bound: no port can be lost between choosing and binding it.
            os.set_inheritable(listener.fileno(), True)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # head and body go out apart: 44 ms else
            self.process = await context.spawn(
                sys.executable,
                "-P",
                _SERVING,
                *("--fd", str(listener.fileno()), "--model-dir", model_dir, "--code-dir", code_dir),
                *("--program", environment.get("SAGEMAKER_PROGRAM", "")),
                cwd=self.folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(listener.fileno(),),
            )
            self.pool = Pool(listener.getsockname()[1])
        await self._healthy(variant.startup_seconds)

    def _open_log(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _MAX_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self.log.touch()
        group = f"/aws/sagemaker/Endpoints/{self.variant.fleet.endpoint}"
        self.variant.fleet.ground.shipper.follow(self.log, group, self.stream, self._log_start)

    @property
    def stream(self) -> str:
        """Name of the CloudWatch log stream."""
        return f"{self.variant.name}/{self.variant.fleet.id}-{self.index}"

    async def _healthy(self, patience: float) -> None:
        assert self.process is not None and self.pool is not None
        ended = asyncio.ensure_future(self.process.wait())
        deadline = time.monotonic() + patience
        try:
            while (left := deadline - time.monotonic()) > 0:
                ping = asyncio.ensure_future(self.pool.request("GET", "/ping", timeout=left))
                await asyncio.wait({ping, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    ping.cancel()
                    await asyncio.gather(ping, return_exceptions=True)
                    break
                if not ping.exception() and ping.result().status == 200:
                    return
                await asyncio.sleep(0.1)
        finally:
            ended.cancel()
        code = self.process.returncode
        why = f"the process ended with code {code}" if code is not None else f"no good answer within {patience:.0f} s"
        raise FleetError(
            f"The primary container for production variant {self.variant.name} did not pass the ping health check "
            f"({why}). Please check CloudWatch logs for this endpoint: {self.log}{self.tail()}"
        )

    def tail(self, lines: int = 5, most: int = 600) -> str:
        """Return the last log lines of this start, for a failure reason."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._log_start, self.log.stat().st_size - 16_384))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        kept = [line.strip() for line in text.splitlines() if line.strip(" ^~") and "[INFO]" not in line]
        # The exception itself comes before gunicorn's remarks about the worker it lost.
        kept = [line for line in kept if "[ERROR]" not in line] or kept
        return (" … " + " | ".join(kept[-lines:]))[:most] if kept else ""

    async def invoke(self, headers: dict[str, str], body: bytes, timeout: float) -> Reply:
        """Pass one request on; the caller has counted it with `hold`."""
        if self.pool is None:
            raise NotSentError("the instance is not started")
        return await self.pool.request("POST", "/invocations", headers, body, timeout)

    def hold(self) -> None:
        """Count a request, so that the instance is not ended under it."""
        self.in_flight += 1
        self._idle.clear()

    def release(self) -> None:
        """Uncount it."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    async def retire(self, drain: float = DRAIN_SECONDS) -> None:
        """Let what is under way finish, then end the process. It must not be in routing any more."""
        try:
            async with asyncio.timeout(drain):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%s: %d requests were cut after %.0f s", self.stream, self.in_flight, drain)
        if self.pool is not None:
            self.pool.close()
        if self.process is not None:
            await end(self.process)
        self.variant.fleet.ground.shipper.leave(self.log, self.stream)
        await self.variant.fleet.context.call(shutil.rmtree, self.folder, True)


class Variant:
    """The instances of one production (or shadow) variant.

    Parameters
    ----------
    fleet : Fleet
        Whose it is.
    spec : dict
        ``VariantName``, ``Weight``, ``InstanceCount``, ``Container``, ``StartupSeconds``.
    """

    def __init__(self, fleet: Fleet, spec: dict[str, Any]) -> None:
        self.fleet = fleet
        self.name: str = spec["VariantName"]
        self.weight: float = spec["Weight"]
        self.wanted: int = spec["InstanceCount"]
        self.container: dict[str, Any] = spec["Container"]
        self.startup_seconds: float = spec.get("StartupSeconds") or STARTUP_SECONDS
        self.folder = fleet.folder / self.name
        self.archive = self.folder / "model.tar.gz"
        self.healthy: list[Instance] = []
        self.changed = asyncio.Event()
        self.capture: Capture | None = None
        if fleet.capture:
            self.capture = Capture(fleet.context, fleet.capture, fleet.endpoint, self.name)
        self._turn = itertools.count()
        self._keepers: dict[Instance, asyncio.Task[None]] = {}

    def pick(self) -> Instance | None:
        """Return the next healthy instance, in turn."""
        return self.healthy[next(self._turn) % len(self.healthy)] if self.healthy else None

    async def start(self) -> None:
        """Start all instances; all or an error."""
        if not self.archive.exists():
            await download(self.fleet.context, self.container["ModelDataUrl"], self.archive)
        await self._grow(self.wanted)

    async def scale(self, count: int) -> None:
        """Bring the variant to `count` instances."""
        self.wanted = count
        surplus = self.healthy[count:]
        self.healthy = self.healthy[:count]
        await asyncio.gather(*(self._dismiss(instance) for instance in surplus))
        await self._grow(count - len(self.healthy))

    async def _grow(self, count: int) -> None:
        started = [Instance(self, index) for index in itertools.islice(self.fleet.numbers(self.name), max(0, count))]
        results = await asyncio.gather(*(self._start(instance) for instance in started), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            joined = [instance for instance in started if instance in self.healthy]
            await asyncio.gather(*(self._dismiss(instance, drain=0) for instance in joined))
            raise next((error for error in failed if isinstance(error, HostingError)), failed[0])

    async def _start(self, instance: Instance) -> None:
        try:
            async with self.fleet.ground.starting:
                await instance.start()
        except BaseException:
            await self._dismiss(instance, drain=0)
            raise
        self._join(instance)

    def _join(self, instance: Instance) -> None:
        self.healthy.append(instance)
        self.changed.set()
        self._keepers[instance] = self.fleet.context.background(self._keep(instance))

    async def _keep(self, instance: Instance) -> None:
        """Replace the instance when its process ends by itself."""
        assert instance.process is not None
        pause = 0.5
        await instance.process.wait()
        logger.warning("%s ended by itself (code %s)", instance.stream, instance.process.returncode)
        if instance in self.healthy:
            self.healthy.remove(instance)
        if instance.pool is not None:
            instance.pool.close()
        while True:
            try:
                async with self.fleet.ground.starting:
                    await instance.start()
                break
            except (HostingError, OSError) as error:
                logger.error("%s does not come back: %s", instance.stream, error)
            if instance.process is not None:
                await end(instance.process)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 15)
        self._join(instance)

    async def _dismiss(self, instance: Instance, drain: float = DRAIN_SECONDS) -> None:
        if instance in self.healthy:
            self.healthy.remove(instance)
        if keeper := self._keepers.pop(instance, None):
            keeper.cancel()
        await instance.retire(drain)
        self.fleet.forget_number(self.name, instance.index)

    async def stop(self, drain: float = DRAIN_SECONDS) -> None:
        """Retire all instances and deliver what was captured."""
        instances = list({*self.healthy, *self._keepers})
        self.healthy = []
        await asyncio.gather(*(self._dismiss(instance, drain) for instance in instances))
        if self.capture is not None:
            await self.capture.close()


class Fleet:
    """One endpoint config, running.

    Parameters
    ----------
    ground : Ground
        What fleets share.
    endpoint : str
        Name of the endpoint.
    spec : dict
        ``Fleet`` (id), ``EndpointConfigName``, ``Variants``, ``Shadows``, ``Capture``; see `specification.specify`.
    """

    def __init__(self, ground: Ground, endpoint: str, spec: dict[str, Any]) -> None:
        self.ground = ground
        self.context = ground.context
        self.endpoint = endpoint
        self.spec = spec
        self.id: str = spec["Fleet"]
        self.capture: dict[str, Any] | None = spec.get("Capture")
        self.folder = ground.context.state / "endpoints" / endpoint / self.id
        self.logs = ground.context.state / "logs" / "endpoints" / endpoint
        self.variants = {item["VariantName"]: Variant(self, item) for item in spec["Variants"]}
        self.shadows = {item["VariantName"]: Variant(self, item) for item in spec.get("Shadows", [])}

    @property
    def all(self) -> list[Variant]:
        """Production variants, then shadows."""
        return [*self.variants.values(), *self.shadows.values()]

    def numbers(self, variant: str) -> Iterator[int]:
        """Yield numbers for new instances, the smallest that are free."""
        taken = self.ground.taken[self.endpoint, variant]
        for number in itertools.count():
            if number not in taken:
                taken.add(number)
                yield number

    def forget_number(self, variant: str, number: int) -> None:
        """Give a number back."""
        self.ground.taken[self.endpoint, variant].discard(number)

    async def start(self) -> None:
        """Start all variants; all or a `HostingError`, and then nothing is left running."""
        tasks = [asyncio.ensure_future(variant.start()) for variant in self.all]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.stop(drain=0, keep_files=True)  # the daemon may only be going down
            raise

    async def stop(self, drain: float = DRAIN_SECONDS, *, keep_files: bool = False) -> None:
        """Retire everything; `keep_files` leaves the model archive for the next start."""
        await asyncio.gather(*(variant.stop(drain) for variant in self.all))
        if not keep_files:
            await self.context.call(shutil.rmtree, self.folder, True)


async def end(process: asyncio.subprocess.Process, patience: float = 3.0) -> None:
    """End an instance that has nothing under way: gunicorn's quick way out, then SIGKILL to all of its group."""
    for act, number in ((os.kill, signal.SIGINT), (os.killpg, signal.SIGKILL)):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                act(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await process.wait()
                return
