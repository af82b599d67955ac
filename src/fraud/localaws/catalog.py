"""Models and endpoint configs: what SageMaker remembers before anything runs."""

from __future__ import annotations

import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws import roles
from fraud.localaws.model_archive import S3Uri
from fraud.localaws.paging import page
from fraud.localaws.specification import Document, arn, check_config, container, refuse
from fraud.localaws.store import AlreadyExistsError
from fraud.localaws.tags import KIND as TAGS
from fraud.localaws.tags import Tags
from fraud.localaws.wire import Operations

MODELS, CONFIGS, ENDPOINTS = "models", "endpoint-configs", "endpoints"
_KINDS = {"model": MODELS, "endpoint-config": CONFIGS, "endpoint": ENDPOINTS}
_WORDS = {"model": "model", "endpoint-config": "endpoint configuration", "endpoint": "endpoint"}


class Documents(Operations):
    """Named documents, with SageMaker's words for what goes wrong."""

    def find(self, kind: str, name: str) -> Document:
        """Return the document, or refuse as SageMaker does."""
        document = self.context.store.get(_KINDS[kind], name)
        if document is None:
            raise refuse(f'Could not find {_WORDS[kind]} "{arn(self.context, kind, name)}".')
        return document

    def create(self, kind: str, name: str, document: Document, tags: list[Document] | None) -> str:
        """Keep a new document and its tags; return its ARN."""
        resource = arn(self.context, kind, name)
        try:
            self.context.store.put(_KINDS[kind], name, document, create=True)
        except AlreadyExistsError:
            raise refuse(f'Cannot create already existing {_WORDS[kind]} "{resource}".') from None
        Tags.keep(self.context, resource, tags or [])
        return resource

    def remove(self, kind: str, name: str) -> None:
        """Forget a document and its tags."""
        self.context.store.delete(_KINDS[kind], name)
        self.context.store.delete(TAGS, arn(self.context, kind, name))


class Catalog(Documents):
    """Operations on models and endpoint configs."""

    service = "sagemaker"

    async def create_model(self, params: Document) -> Document:
        """Keep a model, if it can be served here and its data exists."""
        served = container(params)
        try:
            uri = S3Uri.parse(served["ModelDataUrl"])
        except ValueError as error:
            raise refuse(f"Invalid ModelDataUrl: {error}.") from None
        try:
            await self.context.call(self.context.client("s3").head_object, Bucket=uri.bucket, Key=uri.key)
        except (BotoCoreError, ClientError) as error:
            raise refuse(f"Could not find model data at {served['ModelDataUrl']}. ({error})") from None
        if role := params.get("ExecutionRoleArn"):
            await roles.check(self.context, role)
        name = params["ModelName"]
        tags = params.pop("Tags", None)
        return {"ModelArn": self.create("model", name, {**params, "CreationTime": time.time()}, tags)}

    async def describe_model(self, params: Document) -> Document:
        """Return a model."""
        model = self.find("model", params["ModelName"])
        return {**model, "ModelArn": arn(self.context, "model", params["ModelName"])}

    async def list_models(self, params: Document) -> Document:
        """Return a page of models."""
        items = [
            {
                "ModelName": model["ModelName"],
                "ModelArn": arn(self.context, "model", model["ModelName"]),
                "CreationTime": model["CreationTime"],
            }
            for model in self.context.store.list(MODELS)
        ]
        models, token = page(items, params, name="ModelName", order="Descending")
        return {"Models": models, "NextToken": token}

    async def delete_model(self, params: Document) -> Document:
        """Forget a model; endpoints that serve it go on."""
        self.find("model", params["ModelName"])
        self.remove("model", params["ModelName"])
        return {}

    async def create_endpoint_config(self, params: Document) -> Document:
        """Keep an endpoint config."""
        check_config(params)
        for variant in [*params["ProductionVariants"], *params.get("ShadowProductionVariants", [])]:
            container(self.find("model", variant["ModelName"]))
            variant.setdefault("InitialVariantWeight", 1.0)
        name = params["EndpointConfigName"]
        tags = params.pop("Tags", None)
        document = {**params, "CreationTime": time.time()}
        return {"EndpointConfigArn": self.create("endpoint-config", name, document, tags)}

    async def describe_endpoint_config(self, params: Document) -> Document:
        """Return an endpoint config."""
        name = params["EndpointConfigName"]
        return {**self.find("endpoint-config", name), "EndpointConfigArn": arn(self.context, "endpoint-config", name)}

    async def list_endpoint_configs(self, params: Document) -> Document:
        """Return a page of endpoint configs."""
        items = [
            {
                "EndpointConfigName": config["EndpointConfigName"],
                "EndpointConfigArn": arn(self.context, "endpoint-config", config["EndpointConfigName"]),
                "CreationTime": config["CreationTime"],
            }
            for config in self.context.store.list(CONFIGS)
        ]
        configs, token = page(items, params, name="EndpointConfigName", order="Descending")
        return {"EndpointConfigs": configs, "NextToken": token}

    async def delete_endpoint_config(self, params: Document) -> Document:
        """Forget an endpoint config that no endpoint uses.

        SageMaker's reference says that one in use must not be deleted; the service lets it happen and breaks the next
        update. Here it is refused.
        """
        name = params["EndpointConfigName"]
        self.find("endpoint-config", name)
        for endpoint in self.context.store.list(ENDPOINTS):
            if name in configs_of(endpoint):
                config_arn = arn(self.context, "endpoint-config", name)
                endpoint_arn = arn(self.context, "endpoint", endpoint["EndpointName"])
                raise refuse(
                    f'Cannot delete endpoint configuration "{config_arn}" in use by endpoint "{endpoint_arn}".'
                )
        self.remove("endpoint-config", name)
        return {}


def configs_of(endpoint: Document) -> set[Any]:
    """Return the names of the endpoint configs that an endpoint runs or is being updated to."""
    pending = endpoint.get("Pending") or {}
    specs = (endpoint.get("Spec"), pending.get("Spec"))
    return {endpoint["EndpointConfigName"], *(spec["EndpointConfigName"] for spec in specs if spec)}
