"""Tags of whatever SageMaker has made, by ARN."""

from __future__ import annotations

from typing import Any

from fraud.localaws.wire import AwsError, Context, Operations

KIND = "tags"
_MOST = 50


class Tags(Operations):
    """AddTags, ListTags, DeleteTags."""

    service = "sagemaker"

    @staticmethod
    def keep(context: Context, arn: str, tags: list[dict[str, str]]) -> None:
        """Remember the tags of a new resource, forgetting those of a former one of that name."""
        context.store.put(KIND, arn, {"Tags": tags})

    async def add_tags(self, params: dict[str, Any]) -> dict[str, Any]:
        """Add tags, replacing those with the same key; return all of them."""
        merged = {tag["Key"]: tag for tag in self._tags(params["ResourceArn"])}
        merged |= {tag["Key"]: tag for tag in params["Tags"]}
        if len(merged) > _MOST:
            raise AwsError("ResourceLimitExceeded", f"A resource has at most {_MOST} tags")
        self.keep(self.context, params["ResourceArn"], list(merged.values()))
        return {"Tags": list(merged.values())}

    async def list_tags(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return all tags."""
        return {"Tags": self._tags(params["ResourceArn"])}

    async def delete_tags(self, params: dict[str, Any]) -> dict[str, Any]:
        """Remove tags by key."""
        gone = set(params["TagKeys"])
        left = [tag for tag in self._tags(params["ResourceArn"]) if tag["Key"] not in gone]
        self.keep(self.context, params["ResourceArn"], left)
        return {}

    def _tags(self, arn: str) -> list[dict[str, str]]:
        return (self.context.store.get(KIND, arn) or {}).get("Tags", [])
