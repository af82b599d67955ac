"""SageMaker's Model Registry: groups of model packages, their versions, who approved them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws.model_archive import S3Uri
from fraud.localaws.paging import page
from fraud.localaws.specification import Document, refuse
from fraud.localaws.store import AlreadyExistsError
from fraud.localaws.tags import KIND as TAGS
from fraud.localaws.tags import Tags
from fraud.localaws.wire import AwsError, Context, Operations

__all__ = ["ModelRegistry"]

GROUPS, PACKAGES = "model-package-groups", "model-packages"
PENDING = "PendingManualApproval"


class ModelRegistry(Operations):
    """Operations on model package groups and on the versioned packages in them."""

    service = "sagemaker"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._numbering = asyncio.Lock()

    # ---- groups ----------------------------------------------------------------------------------------------------

    async def create_model_package_group(self, params: Document) -> Document:
        """Keep a new group."""
        name = params["ModelPackageGroupName"]
        arn = self._group_arn(name)
        tags = params.pop("Tags", None)
        document = {
            **params,
            "ModelPackageGroupArn": arn,
            "ModelPackageGroupStatus": "Completed",
            "CreationTime": _now(),
            "LastVersion": 0,
        }
        try:
            self.context.store.put(GROUPS, name, document, create=True)
        except AlreadyExistsError:
            raise refuse(f"Model Package Group already exists: {arn}") from None
        Tags.keep(self.context, arn, tags or [])
        return {"ModelPackageGroupArn": arn}

    async def describe_model_package_group(self, params: Document) -> Document:
        """Return a group."""
        group = self._group(params["ModelPackageGroupName"])
        return {"CreatedBy": {}, **{name: value for name, value in group.items() if name != "LastVersion"}}

    async def list_model_package_groups(self, params: Document) -> Document:
        """Return a page of groups."""
        shown = (
            "ModelPackageGroupName",
            "ModelPackageGroupArn",
            "ModelPackageGroupDescription",
            "CreationTime",
            "ModelPackageGroupStatus",
        )
        items = [{k: group[k] for k in shown if k in group} for group in self.context.store.list(GROUPS)]
        groups, token = page(items, params, name="ModelPackageGroupName")
        return {"ModelPackageGroupSummaryList": groups, "NextToken": token}

    async def delete_model_package_group(self, params: Document) -> None:
        """Forget a group that holds nothing."""
        name = self._group(params["ModelPackageGroupName"])["ModelPackageGroupName"]
        if self._packages(name):
            raise AwsError("ConflictException", f"Model Package Group {self._group_arn(name)} is not empty.")
        self.context.store.delete(GROUPS, name)
        self.context.store.delete(TAGS, self._group_arn(name))

    # ---- packages --------------------------------------------------------------------------------------------------

    async def create_model_package(self, params: Document) -> Document:
        """Keep a new version; the same client token again gives the version that it made."""
        if "ModelPackageGroupName" not in params:
            raise refuse("The local AWS has versioned model packages only: give a ModelPackageGroupName.")
        group = self._group(params["ModelPackageGroupName"])
        for container in params.get("InferenceSpecification", {}).get("Containers", []):
            await self._check_data(container)
        name = group["ModelPackageGroupName"]
        token, tags = params.get("ClientToken"), params.pop("Tags", None)
        async with self._numbering:
            for made in self._packages(name):
                if token and made.get("ClientToken") == token:
                    return {"ModelPackageArn": made["ModelPackageArn"]}
            group = self._group(name)
            version = group["LastVersion"] + 1  # a number is never given twice, also when its package is deleted
            arn = self._package_arn(name, version)
            self.context.store.put(GROUPS, name, group | {"LastVersion": version})
            now = _now()
            document = {
                "ModelApprovalStatus": PENDING,
                **params,
                "ModelPackageGroupName": name,
                "ModelPackageVersion": version,
                "ModelPackageArn": arn,
                "ModelPackageStatus": "Completed",
                "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
                "CreationTime": now,
                "LastModifiedTime": now,
            }
            self.context.store.put(PACKAGES, arn, document, create=True)
        Tags.keep(self.context, arn, tags or [])
        return {"ModelPackageArn": arn}

    async def describe_model_package(self, params: Document) -> Document:
        """Return a package."""
        package = self._package(params["ModelPackageName"])
        package.pop("ClientToken", None)
        return {"ModelPackageName": package["ModelPackageGroupName"], **package}

    async def list_model_packages(self, params: Document) -> Document:
        """Return a page of packages, of a group or of all, maybe those of one approval status."""
        shown = (
            "ModelPackageArn",
            "ModelPackageGroupName",
            "ModelPackageVersion",
            "ModelPackageDescription",
            "ModelPackageStatus",
            "ModelApprovalStatus",
            "CreationTime",
        )
        wanted = params.get("ModelApprovalStatus")
        group = params.get("ModelPackageGroupName")
        found = self._packages(self._group(group)["ModelPackageGroupName"] if group else None)
        items = [
            {k: package[k] for k in shown if k in package}
            for package in found
            if wanted in (None, package["ModelApprovalStatus"])
        ]
        packages, token = page(items, params, name="ModelPackageArn")
        return {"ModelPackageSummaryList": packages, "NextToken": token}

    async def update_model_package(self, params: Document) -> Document:
        """Change status, description and metadata; what the package serves never changes."""
        package = self._package(params["ModelPackageArn"])
        for name in ("InferenceSpecification", "AdditionalInferenceSpecificationsToAdd", "SourceUri", "ModelCard"):
            if name in params:
                raise refuse(f"The local AWS does not update {name} of a model package.")
        metadata = package.get("CustomerMetadataProperties", {}) | params.get("CustomerMetadataProperties", {})
        for name in params.get("CustomerMetadataPropertiesToRemove", []):
            metadata.pop(name, None)
        changed = {k: params[k] for k in ("ModelApprovalStatus", "ApprovalDescription") if k in params}
        package |= changed | {"LastModifiedTime": _now()}
        if metadata:
            package["CustomerMetadataProperties"] = metadata
        self.context.store.put(PACKAGES, package["ModelPackageArn"], package)
        return {"ModelPackageArn": package["ModelPackageArn"]}

    async def delete_model_package(self, params: Document) -> None:
        """Forget a package."""
        arn = self._package(params["ModelPackageName"])["ModelPackageArn"]
        self.context.store.delete(PACKAGES, arn)
        self.context.store.delete(TAGS, arn)

    # ---- what is there ---------------------------------------------------------------------------------------------

    def _group_arn(self, name: str) -> str:
        return self.context.arn("sagemaker", f"model-package-group/{name}")

    def _package_arn(self, group: str, version: int) -> str:
        return self.context.arn("sagemaker", f"model-package/{group}/{version}")

    def _group(self, name: str) -> Document:
        """Find a group by name or ARN."""
        group = self.context.store.get(GROUPS, name.rsplit("/", 1)[-1])
        if group is None:
            raise refuse(f"ModelPackageGroup {self._group_arn(name)} does not exist.")
        return group

    def _packages(self, group: str | None) -> list[Document]:
        found = self.context.store.list(PACKAGES)
        return [package for package in found if group in (None, package["ModelPackageGroupName"])]

    def _package(self, name: str) -> Document:
        package = self.context.store.get(PACKAGES, name)
        if package is None:
            raise refuse(f"ModelPackage {name} does not exist.")
        return package

    async def _check_data(self, container: Document) -> None:
        """Refuse a container whose model is not there."""
        url = container.get("ModelDataUrl")
        if not url:
            return
        try:
            uri = S3Uri.parse(url)
            await self.context.call(self.context.client("s3").head_object, Bucket=uri.bucket, Key=uri.key)
        except (ValueError, BotoCoreError, ClientError) as error:
            raise refuse(f"Could not find model data at {url}. ({error})") from None


def _now() -> Any:
    return round(time.time(), 3)
