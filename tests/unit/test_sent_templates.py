"""The text that CloudFormation gets: plain JSON, linted as it is and as the SAM transform leaves it."""

import json
import subprocess
import sys

import pytest
import yaml
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from fraud.errors import PlatformError
from fraud.pipeline import templates

SENT = {"app": templates.app, "cicd": templates.cicd}


def lint(path):
    command = [sys.executable, "-c", "from cfnlint.runner import main; main()", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent_is_json_that_says_what_the_file_says(name):
    text = SENT[name]()
    sent, file = json.loads(text), yaml_parse((templates.ROOT / "infra" / f"{name}.yml").read_text(encoding="utf-8"))
    if name == "app":
        del sent["Resources"]["Dashboard"], file["Resources"]["Dashboard"]
    assert sent == file


@pytest.mark.parametrize("name", SENT)
def test_cloudformation_finds_no_alias_and_takes_its_size(name):
    text = SENT[name]()
    aliases = [event for event in yaml.parse(text) if isinstance(event, yaml.AliasEvent)]
    assert not aliases  # «Template error: YAML aliases are not allowed in CloudFormation templates»
    assert len(text.encode()) < 1_000_000
    assert len(json.loads(text)["Parameters"]) <= 200


@pytest.mark.parametrize("name", SENT)
def test_cfn_lint_finds_nothing_in_what_is_sent(name, tmp_path):
    path = tmp_path / f"{name}.json"
    path.write_text(SENT[name](), encoding="utf-8")
    assert lint(path) == (0, "")


def test_cfn_lint_finds_nothing_after_the_transform(tmp_path, monkeypatch):
    """With ``Transform`` in it cfn-lint leaves out rules, that against aliases among them."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    expanded = transform(json.loads(templates.app()), {}, None)
    assert "Transform" not in expanded and len(expanded["Resources"]) > 40
    path = tmp_path / "expanded.json"
    path.write_text(json.dumps(expanded), encoding="utf-8")
    assert lint(path) == (0, "")


def test_the_linter_sees_what_is_wrong(tmp_path):
    template = json.loads(templates.app())
    template["Resources"]["DriftRole"]["Properties"]["Polices"] = []
    path = tmp_path / "app.json"
    path.write_text(json.dumps(template), encoding="utf-8")
    code, said = lint(path)
    assert code and "Polices" in said


def test_short_forms_become_long_ones_and_dates_stay_text(tmp_path):
    path = tmp_path / "any.yml"
    path.write_text(
        "A: &a !Sub '${X}'\nB: *a\nC: !GetAtt X.Outputs.Arn\nD: !If [Y, !Ref X, !Ref AWS::NoValue]\n"
        "E: !Condition Y\nF: 2012-10-17\nG: !Sub ['${Z}', {Z: !Join ['', [a]]}]\n"
    )
    assert templates.load(path) == {
        "A": {"Fn::Sub": "${X}"},
        "B": {"Fn::Sub": "${X}"},
        "C": {"Fn::GetAtt": ["X", "Outputs.Arn"]},
        "D": {"Fn::If": ["Y", {"Ref": "X"}, {"Ref": "AWS::NoValue"}]},
        "E": {"Condition": "Y"},
        "F": "2012-10-17",
        "G": {"Fn::Sub": ["${Z}", {"Z": {"Fn::Join": ["", ["a"]]}}]},
    }
    path.write_text("a: [")
    with pytest.raises(PlatformError, match="any.yml cannot be read as a template"):
        templates.load(path)
