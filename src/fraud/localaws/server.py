"""The daemon: SageMaker, CodePipeline and SESv2 on loopback, answered by the `Operations` of this package."""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
import os
import re
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from aiohttp import web
from botocore.config import Config

from fraud.localaws import guard
from fraud.localaws.children import Children
from fraud.localaws.protocol import Answer
from fraud.localaws.store import Store
from fraud.localaws.wire import AwsError, Context, Operations, Service

logger = logging.getLogger(__name__)

MODULES = ("training_jobs", "processing_jobs", "model_registry", "mail", "endpoints", "codepipeline")
LARGEST_REQUEST = 64 * 1024 * 1024  # SESv2 takes 40 MB, which base64 makes 54
_STOP_SECONDS = 10.0


def operations() -> list[type[Operations]]:
    """Return the Operations classes of the modules named in ``MODULES``; one that does not exist is passed over."""
    found: dict[type[Operations], None] = {}
    for name in MODULES:
        path = f"fraud.localaws.{name}"
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
            logger.warning("%s does not exist", path)
            continue
        for item in vars(module).values():
            if isinstance(item, type) and issubclass(item, Operations) and hasattr(item, "service"):
                found[item] = None
    return list(found)


class Daemon:
    """Our services behind one port.

    Parameters
    ----------
    state : Path
        Its folder; ``sagemaker`` and others below it are the documents of each service.
    environment : dict of str to str
        AWS variables, which tell clients and children where MiniStack and this daemon are.
    classes : list of type, optional
        Who answers; all of `operations` by default.
    """

    def __init__(self, state: Path, environment: dict[str, str], classes: list[type[Operations]] | None = None) -> None:
        state = Path(state).resolve()
        self._threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="call")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._clients: dict[str, Any] = {}
        self._children = Children(state / "children", str(state))
        self.context = Context(
            state=state,
            store=Store(state / "store"),
            environment=environment,
            client=self._client,
            call=self._call,
            background=self._background,
            spawn=self._children.spawn,
            region=environment.get("AWS_REGION", "eu-west-1"),
        )
        self.parts = [cls(self.context) for cls in (operations() if classes is None else classes)]
        self.services: dict[str, Service] = {}
        for part in self.parts:
            self.services.setdefault(part.service, Service(part.service)).parts.append(part)
        self._by_target = {
            service.model.metadata["targetPrefix"]: service
            for service in self.services.values()
            if service.model.protocol == "json"
        }
        self._rest = [service for service in self.services.values() if service.model.protocol == "rest-json"]

    # ---- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """End what a killed daemon left, then let each service resume."""
        if ended := await self._call(self._children.end_orphans):
            logger.warning("ended %d processes that a former daemon left behind", ended)
        for part in self.parts:
            await part.start()

    async def stop(self) -> None:
        """Wind up the services, then everything still in the background."""
        for part in reversed(self.parts):
            try:
                await asyncio.wait_for(part.stop(), _STOP_SECONDS)
            except Exception:
                logger.exception("%s did not stop", type(part).__name__)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._call(self._children.end_orphans)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def application(self) -> web.Application:
        """Return the aiohttp application (it does not call `start` or `stop`)."""
        app = web.Application(client_max_size=LARGEST_REQUEST, middlewares=[_refuse_browsers])
        app.router.add_route("*", "/{path:.*}", self._respond)
        return app

    # ---- one request -----------------------------------------------------------------------------------------------

    async def _respond(self, request: web.Request) -> web.Response:
        if request.path.startswith("/_local/"):
            return self._local(request)
        answer = await self._answer(request, str(uuid.uuid4()))
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _answer(self, request: web.Request, request_id: str) -> Answer:
        service: Service | None = None
        try:
            service, operation, values = self._resolve(request)
            handler = service.handler(operation)
            body = await request.read()
            query = {key: request.query.getall(key) for key in request.query}
            params = service.parse(operation, body, request.headers, query, values)
            answer = service.answer(operation, await handler(params))
            answer.headers["x-amzn-requestid"] = request_id
            logger.debug("%s:%s %d", service.name, operation, answer.status)
            return answer
        except AwsError as error:
            failure = error
        except web.HTTPRequestEntityTooLarge:
            failure = AwsError("RequestEntityTooLargeException", "The request is too large", 413)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                logger.exception("request %s failed", request_id)
            folder = self.context.state
            failure = AwsError("InternalFailure", f"The local AWS cannot write to {folder}: {error.strerror}", 500)
        except Exception:
            logger.exception("request %s failed", request_id)
            failure = AwsError("InternalFailure", f"The local AWS failed; its log has request {request_id}", 500)
        logger.info("%s %s: %s", request.method, request.path, failure)
        return (service or Service("sagemaker")).error(failure, request_id)

    def _resolve(self, request: web.Request) -> tuple[Service, str, dict[str, str]]:
        """Return which service and operation a request is for, and the values in its path."""
        if target := request.headers.get("X-Amz-Target"):
            prefix, _, operation = target.rpartition(".")
            if service := self._by_target.get(prefix):
                return service, operation, {}
            raise AwsError("UnknownOperationException", f"The local AWS does not have {target}")
        path = request.rel_url.raw_path
        scope = re.search(
            r"Credential=[^/]*/\d{8}/[^/]*/([^/]+)/aws4_request", request.headers.get("Authorization", "")
        )
        services = [service for service in self._rest if scope is None or service.model.signing_name == scope[1]]
        for service in services:
            if found := service.route(request.method, path):
                return service, *found
        raise AwsError("UnknownOperationException", f"The local AWS does not have {request.method} {path}", 404)

    def _local(self, request: web.Request) -> web.Response:
        """Answer what AWS has not: is it well, and what is in it."""
        if request.path == "/_local/health":
            return web.json_response({"status": "ok", "pid": os.getpid(), "state": str(self.context.state)})
        if request.path == "/_local/status":
            services: dict[str, Any] = {name: {} for name in self.services}
            for part in self.parts:
                services[part.service].update(part.status())
            return web.json_response({"status": "ok", "pid": os.getpid(), "services": services})
        return web.json_response({"message": "There are /_local/health and /_local/status"}, status=404)

    # ---- what the services get -------------------------------------------------------------------------------------

    def _client(self, name: str) -> Any:
        if name not in self._clients:
            variables = self.context.environment
            suffix = name.upper().replace("-", "_")
            self._clients[name] = boto3.session.Session(region_name=self.context.region).client(
                name,
                endpoint_url=variables.get(f"AWS_ENDPOINT_URL_{suffix}") or variables.get("AWS_ENDPOINT_URL"),
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(
                    connect_timeout=5,
                    read_timeout=60,
                    retries={"mode": "standard", "total_max_attempts": 3},
                    max_pool_connections=32,
                    s3={"addressing_style": "path"},
                ),
            )
        return self._clients[name]

    async def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))

    def _background(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._settle)
        return task

    def _settle(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a background task failed", exc_info=error)


@web.middleware
async def _refuse_browsers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse what a web page could send here, before anything else looks at it."""
    port = request.transport.get_extra_info("sockname")[1] if request.transport else 0
    if not guard.is_refused(request.raw_path.encode("utf-8", "surrogateescape"), request.raw_headers, port):
        return await handler(request)
    answer = Service("sagemaker").error(AwsError("AccessDeniedException", guard.REFUSAL, 403), str(uuid.uuid4()))
    response = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    response.force_close()  # the body is not read
    return response


async def serve(state: Path, port: int, environment: dict[str, str]) -> None:
    """Run the daemon until SIGTERM or SIGINT."""
    daemon = Daemon(state, environment)
    # Hold the port before anything is resumed: who cannot have it must fail before it has ended another one's jobs.
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
        runner = web.AppRunner(daemon.application(), access_log=None, handler_cancellation=False)
        await runner.setup()
        site = web.SockSite(runner, held, shutdown_timeout=2.0)
        await daemon.start()
        await site.start()
        await _until_stopped(daemon, runner, site, f"127.0.0.1:{port}")


async def _until_stopped(daemon: Daemon, runner: web.AppRunner, site: web.SockSite, where: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    logger.info("listening on %s, state in %s", where, daemon.context.state)
    try:
        await stopped.wait()
    finally:
        await site.stop()
        await daemon.stop()
        await runner.cleanup()
        logger.info("stopped")
