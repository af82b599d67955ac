"""The README cannot rot: its tree, its parameters and its commands are held against the repository."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from fraud.pipeline import parameters
from fraud.pipeline.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_parameter_tables_are_those_of_the_notebooks():
    written = README.split("<!-- parameters -->")[1].split("<!-- /parameters -->")[0].strip()
    assert written == parameters.markdown(), "paste the output of `fraud params --markdown`"


@pytest.mark.parametrize("name", re.findall(r"^[├└│][├└│ ─]*([\w./]+?)/? {2,}", README, re.MULTILINE))
def test_the_tree_names_what_is_there(name):
    assert [path for path in (ROOT / name, ROOT / "src" / name, ROOT / "src/fraud" / name) if path.exists()], name


def test_the_tree_leaves_nothing_out():
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    for name in folders - {"build", "reports", "dist"}:
        assert f"{name}/" in README, f"{name}/ is not in the README's tree"


def test_commands_exist():
    known = get_command(app)
    for line in re.findall(r"`fraud ([a-z ]+)", README):
        command = known
        for word in line.split():
            command = getattr(command, "commands", {}).get(word, command)
        assert command is not known, f"fraud {line}"


PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), target
