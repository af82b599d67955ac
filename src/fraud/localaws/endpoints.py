"""Endpoints: created, updated, scaled, deleted, and brought back after a crash."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Coroutine
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws import data_capture
from fraud.localaws.catalog import ENDPOINTS, Catalog, Documents
from fraud.localaws.cloudwatch import alarm_states
from fraud.localaws.description import describe, summary
from fraud.localaws.fleet import Fleet
from fraud.localaws.hosting import Hosting, Runtime
from fraud.localaws.model_archive import HostingError
from fraud.localaws.paging import page
from fraud.localaws.rollout import RollbackError, Rollout
from fraud.localaws.specification import Document, alarm_names, arn, check_deployment, refuse, retained, specify
from fraud.localaws.wire import AwsError, Context

logger = logging.getLogger(__name__)

_BUSY = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}


class Endpoints(Documents):
    """Operations on endpoints, and the fleets behind them."""

    service = "sagemaker"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.hosting = Hosting.of(context, fresh=True)
        self.router = self.hosting.router
        self.fleets: dict[str, Fleet] = {}
        self.green: dict[str, Fleet] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    # ---- life of the daemon ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring back what was in service, and deliver what a former daemon captured."""
        self.hosting.start()
        self.context.background(data_capture.recover(self.context))
        for document in self.context.store.list(ENDPOINTS):
            name, status = document["EndpointName"], document["EndpointStatus"]
            if status == "Deleting":
                self._work(name, self._delete(name))
            elif status == "Creating":
                self._work(name, self._create(name))
            elif document.get("Spec"):
                if status in _BUSY:
                    to = (document.get("Pending") or {}).get("Spec", {}).get("EndpointConfigName", "new capacities")
                    self._change(
                        name,
                        EndpointStatus="InService",
                        Pending=None,
                        FailureReason=f"The update to {to} was interrupted: the local AWS was restarted. The endpoint "
                        f"is on {document['EndpointConfigName']} as before.",
                    )
                self.router.open(name)
                self._work(name, self._resume(name))

    async def stop(self) -> None:
        """Drain and end all fleets; what they captured is delivered, the documents stay as they are."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        fleets = [*self.fleets.values(), *self.green.values()]
        for name in list(self.router.routes):
            self.router.close(name)
        await asyncio.gather(*(fleet.stop(drain=5, keep_files=True) for fleet in fleets))
        await self.hosting.stop()

    def status(self) -> Document:
        """Return what ``fraud local status`` shows."""
        return {
            "endpoints": {
                document["EndpointName"]: {
                    "status": document["EndpointStatus"],
                    "config": document["EndpointConfigName"],
                    "instances": sum(
                        len(variant.healthy) for fleet in self._running(document) for variant in fleet.all
                    ),
                }
                for document in self.context.store.list(ENDPOINTS)
            }
        }

    def _running(self, document: Document) -> list[Fleet]:
        name = document["EndpointName"]
        return [fleets[name] for fleets in (self.fleets, self.green) if name in fleets]

    # ---- operations ------------------------------------------------------------------------------------------------

    async def create_endpoint(self, params: Document) -> Document:
        """Begin to create an endpoint."""
        name, config = params["EndpointName"], self.find("endpoint-config", params["EndpointConfigName"])
        spec = self._specify(config)
        deployment = params.get("DeploymentConfig")
        if deployment:
            await self._check_deployment(deployment, spec, None)
        now = time.time()
        document = {
            "EndpointName": name,
            "EndpointConfigName": config["EndpointConfigName"],
            "EndpointStatus": "Creating",
            "CreationTime": now,
            "LastModifiedTime": now,
            "Spec": spec,
            "LastDeploymentConfig": deployment,
        }
        resource = self.create("endpoint", name, document, params.get("Tags"))
        self._work(name, self._create(name))
        return {"EndpointArn": resource}

    async def describe_endpoint(self, params: Document) -> Document:
        """Return an endpoint, its traffic as it is this moment."""
        name = params["EndpointName"]
        document = self.find("endpoint", name)
        resource = arn(self.context, "endpoint", name)
        return describe(document, resource, self.fleets.get(name), self.green.get(name))

    async def list_endpoints(self, params: Document) -> Document:
        """Return a page of endpoints."""
        documents = self.context.store.list(ENDPOINTS)
        items = [summary(document, arn(self.context, "endpoint", document["EndpointName"])) for document in documents]
        endpoints, token = page(items, params, name="EndpointName", status="EndpointStatus", order="Descending")
        return {"Endpoints": endpoints, "NextToken": token}

    async def update_endpoint(self, params: Document) -> Document:
        """Begin an update to another endpoint config."""
        name = params["EndpointName"]
        document = self._settled(name)
        config = self.find("endpoint-config", params["EndpointConfigName"])
        deployment = params.get("DeploymentConfig")
        if params.get("RetainDeploymentConfig"):
            if deployment:
                raise refuse("Specify either DeploymentConfig or RetainDeploymentConfig, not both.")
            deployment = document.get("LastDeploymentConfig")
        if params.get("ExcludeRetainedVariantProperties") and not params.get("RetainAllVariantProperties"):
            raise refuse("ExcludeRetainedVariantProperties needs RetainAllVariantProperties.")
        spec = self._specify(config, retained(document["Spec"], params))
        if deployment:
            await self._check_deployment(deployment, spec, document["Spec"])
            document = self._settled(name)  # another update may have begun while the alarms were looked up
        pending = {"Spec": spec, "DeploymentConfig": deployment, "StartTime": time.time(), "Stage": None}
        self._change(name, EndpointStatus="Updating", Pending=pending, FailureReason=None)
        self._work(name, self._update(name))
        return {"EndpointArn": arn(self.context, "endpoint", name)}

    async def update_endpoint_weights_and_capacities(self, params: Document) -> Document:
        """Begin to change weights and instance counts."""
        name = params["EndpointName"]
        spec = self._settled(name)["Spec"]
        variants = {variant["VariantName"]: variant for variant in [*spec["Variants"], *spec["Shadows"]]}
        for change in params["DesiredWeightsAndCapacities"]:
            if change["VariantName"] not in variants:
                raise refuse(f'The variant name "{change["VariantName"]}" was not found in endpoint "{name}".')
            if change.get("DesiredInstanceCount") == 0:
                raise refuse(f"Variant {change['VariantName']}: DesiredInstanceCount must be at least 1.")
            variant = variants[change["VariantName"]]
            variant["Weight"] = change.get("DesiredWeight", variant["Weight"])
            variant["InstanceCount"] = change.get("DesiredInstanceCount", variant["InstanceCount"])
        if not any(variant["Weight"] for variant in spec["Variants"]):
            raise refuse("At least one production variant must have a weight greater than 0.")
        self._change(name, EndpointStatus="Updating", FailureReason=None)
        self._work(name, self._scale(name, spec))
        return {"EndpointArn": arn(self.context, "endpoint", name)}

    async def delete_endpoint(self, params: Document) -> Document:
        """Begin to delete an endpoint."""
        name = params["EndpointName"]
        document = self.find("endpoint", name)
        if document["EndpointStatus"] in _BUSY:
            raise self._in_progress(name)
        self._change(name, EndpointStatus="Deleting")
        self.router.close(name)
        self._work(name, self._delete(name, self._tasks.get(name)))
        return {}

    # ---- what they begin -------------------------------------------------------------------------------------------

    async def _create(self, name: str) -> None:
        fleet = Fleet(self.hosting.ground, name, self.find("endpoint", name)["Spec"])
        self.green[name] = fleet
        try:
            await fleet.start()
        except HostingError as error:
            await self._sweep(name, None)
            self._change(name, EndpointStatus="Failed", FailureReason=str(error)[:1024])
            return
        finally:
            self.green.pop(name, None)
        self.fleets[name] = fleet
        self.router.open(name).send_to((fleet, 1.0))
        self._change(name, EndpointStatus="InService", FailureReason=None)

    async def _resume(self, name: str) -> None:
        spec = self.find("endpoint", name)["Spec"]
        await self._sweep(name, spec["Fleet"])
        pause = 1.0
        while True:
            fleet = Fleet(self.hosting.ground, name, spec)
            try:
                await fleet.start()
                break
            except HostingError as error:  # it served before: S3 may be late, the machine may be busy
                logger.warning("endpoint %s is not back yet: %s", name, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30)
        self.fleets[name] = fleet
        self.router.open(name).send_to((fleet, 1.0))

    async def _update(self, name: str) -> None:
        pending = self.find("endpoint", name)["Pending"]
        while name not in self.fleets:  # it is still coming back from a restart
            await asyncio.sleep(0.1)
        blue, green = self.fleets[name], Fleet(self.hosting.ground, name, pending["Spec"])
        self.green[name] = green

        def progress(status: str, share: float, message: str) -> None:
            stage = {"Status": status, "StatusMessage": message, "StartTime": time.time(), "Share": share}
            state = "RollingBack" if status == "Deleting" else "Updating"
            self._change(name, EndpointStatus=state, Pending={**pending, "Stage": stage})

        rollout = Rollout(self.router.open(name), blue, green, pending["DeploymentConfig"], self._watch, progress)
        done = {"Pending": None, "LastDeploymentConfig": pending["DeploymentConfig"]}
        try:
            await rollout.run()
        except RollbackError as error:
            self.green.pop(name, None)
            self._change(name, EndpointStatus="InService", FailureReason=str(error)[:1024], **done)
            return
        self.fleets[name] = green
        self.green.pop(name, None)
        config = pending["Spec"]["EndpointConfigName"]
        self._change(name, EndpointConfigName=config, Spec=pending["Spec"], **done)
        await blue.stop()
        self._change(name, EndpointStatus="InService", FailureReason=None)

    async def _scale(self, name: str, spec: Document) -> None:
        while name not in self.fleets:
            await asyncio.sleep(0.1)
        fleet = self.fleets[name]
        before = fleet.spec
        try:
            await self._apply(fleet, spec)
        except HostingError as error:
            await self._apply(fleet, before)
            self._change(name, EndpointStatus="InService", FailureReason=str(error)[:1024])
            return
        self._change(name, EndpointStatus="InService", Spec=spec)

    async def _apply(self, fleet: Fleet, spec: Document) -> None:
        wanted = {variant["VariantName"]: variant for variant in [*spec["Variants"], *spec["Shadows"]]}
        for variant in fleet.all:
            await variant.scale(wanted[variant.name]["InstanceCount"])
            variant.weight = wanted[variant.name]["Weight"]
        fleet.spec = spec

    async def _delete(self, name: str, former: asyncio.Task[Any] | None = None) -> None:
        if former is not None:  # it may still be coming back from a restart
            former.cancel()
            await asyncio.wait({former})
        if fleet := self.fleets.pop(name, None):
            await fleet.stop()
        await self._sweep(name, None)
        self.remove("endpoint", name)

    # ---- helpers ---------------------------------------------------------------------------------------------------

    def _specify(self, config: Document, overrides: Document | None = None) -> Document:
        variants = [*config["ProductionVariants"], *config.get("ShadowProductionVariants", [])]
        models = {variant["ModelName"]: self.find("model", variant["ModelName"]) for variant in variants}
        return specify(config, models, overrides)

    async def _check_deployment(self, deployment: Document, new: Document, old: Document | None) -> None:
        check_deployment(deployment, new, old)
        if not (names := alarm_names(deployment)):
            return
        try:
            found = await alarm_states(self.context, names)
        except (BotoCoreError, ClientError) as error:
            raise refuse(f"The alarms in AutoRollbackConfiguration cannot be read: {error}") from None
        if absent := [name for name in names if name not in found]:
            raise refuse(f"Alarms in AutoRollbackConfiguration do not exist: {', '.join(absent)}.")

    async def _watch(self, names: list[str]) -> dict[str, str]:
        await self.router.metrics.report()  # alarms must see the last second, not the last period
        await self.hosting.embedded.collect()
        return await alarm_states(self.context, names)

    def _settled(self, name: str) -> Document:
        document = self.find("endpoint", name)
        if document["EndpointStatus"] in _BUSY:
            raise self._in_progress(name)
        if document["EndpointStatus"] == "Failed":
            resource = arn(self.context, "endpoint", name)
            raise refuse(f'Cannot update endpoint "{resource}" in status Failed. Delete it and create it again.')
        return document

    def _in_progress(self, name: str) -> AwsError:
        return refuse(f'Cannot update in-progress endpoint "{arn(self.context, "endpoint", name)}".')

    def _change(self, name: str, **changes: Any) -> None:
        document = self.find("endpoint", name)
        self.context.store.put(ENDPOINTS, name, {**document, **changes, "LastModifiedTime": time.time()})

    def _work(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run what changes an endpoint; a defect in it leaves the endpoint answering and says so."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                logger.exception("work on endpoint %s failed", name)
                if self.context.store.get(ENDPOINTS, name) is not None:
                    status = "InService" if name in self.fleets else "Failed"
                    reason = f"Internal failure of the local AWS: {error!r}"[:1024]
                    self._change(name, EndpointStatus=status, FailureReason=reason, Pending=None)

        self._tasks[name] = self.context.background(guarded())

    async def _sweep(self, name: str, keep: str | None) -> None:
        """Remove the files of fleets that are no more."""
        folder = self.context.state / "endpoints" / name
        for path in folder.glob("*") if folder.is_dir() else []:
            if path.name != keep:
                await self.context.call(shutil.rmtree, path, True)


__all__ = ["Catalog", "Endpoints", "Runtime"]
