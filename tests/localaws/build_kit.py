"""What the tests of builds use: a builder with a folder of its own, and the processes of a build."""

import uuid
from pathlib import Path

import psutil

from fraud.localaws.build import Job, run
from fraud.localaws.build_shell import BUILD_ID


class Build:
    """Runs buildspecs in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.source.mkdir()
        self.id = f"project:{uuid.uuid4()}"

    def __call__(self, text: str, client=None, aws=None, **job) -> dict:
        (self.source / "buildspec.yml").write_text("version: 0.2\n" + text)
        self.folder_of_build = self.folder / uuid.uuid4().hex
        chosen = {"source": str(self.source), "folder": str(self.folder_of_build), "build_id": self.id} | job
        return run(Job(**chosen), client, aws or {})

    def log(self) -> str:
        return (self.folder_of_build / "build.log").read_text()

    def output(self) -> list[str]:
        return [line for line in self.log().splitlines() if not line.startswith("[Container]")]


def processes(build_id):
    """The command lines of a build's processes; there are none of one that has no id yet."""
    found = []
    for process in psutil.process_iter():
        try:
            if build_id and process.environ().get(BUILD_ID) == build_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found
