"""What the tests of pipelines use: CodePipeline without a server, over a real store and real processes."""

import asyncio
from pathlib import Path

from fraud.localaws.children import Children
from fraud.localaws.codepipeline import CodePipeline
from fraud.localaws.store import Store
from fraud.localaws.wire import Context


class FakeCodeBuild:
    """What MiniStack keeps of CodeBuild: the projects."""

    def __init__(self) -> None:
        self.projects = {"run": {"name": "run"}}

    def batch_get_projects(self, names):
        return {"projects": [self.projects[name] for name in names if name in self.projects]}


class World:
    """A context without a server: a real store, real processes, no AWS but CodeBuild's projects."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.codebuild = FakeCodeBuild()
        self.tasks: set[asyncio.Task] = set()

    def open(self) -> CodePipeline:
        (self.state / "children").mkdir(parents=True, exist_ok=True)
        context = Context(
            state=self.state,
            store=Store(self.state / "store"),
            environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "eu-west-1"}
            | {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_MAX_ATTEMPTS": "1"},
            client=lambda service: {"codebuild": self.codebuild}[service],
            call=lambda function, *args, **kwargs: asyncio.to_thread(function, *args, **kwargs),
            background=self.background,
            spawn=Children(self.state / "children", str(self.state)).spawn,
        )
        return CodePipeline(context)

    def background(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        return task
