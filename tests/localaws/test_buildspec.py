"""buildspec.yml: what is refused, and what CodeBuild's phases mean."""

import os
import re
import subprocess
import sys
import time
import uuid
import zipfile
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from build_kit import Build, processes

from fraud.localaws.build_results import matching, read_report
from fraud.localaws.build_shell import BUILD_ID, end_build
from fraud.localaws.buildspec import BuildspecError, Report, parse

ROOT = Path(__file__).resolve().parents[2]
LEAST = "version: 0.2\nphases: {build: {commands: ['true']}}\n"


# ---- the file ------------------------------------------------------------------------------------------------------


def test_the_file_says_what_it_says():
    spec = parse(
        """
version: 0.2
env:
  shell: bash
  variables: {YES: true, TEN: 3.10}
  parameter-store: {WHERE: /fraud-loop/where}
  exported-variables: [RUN_ID]
phases:
  install:
    runtime-versions: {python: 3.10}
  build:
    on-failure: CONTINUE
    commands:
      - true
      - |
        one
        two
    finally: [echo end]
reports:
  tests: {files: ['**/*.xml'], base-directory: reports}
artifacts: {files: ['**/*'], base-directory: reports, exclude-paths: [x], discard-paths: yes}
cache: {paths: [/root/.cache/pip/**/*]}
"""
    )
    assert spec.shell == "bash"
    assert spec.variables == {"YES": "true", "TEN": "3.10"}, "a scalar is text, as it is written"
    assert spec.parameter_store == {"WHERE": "/fraud-loop/where"}
    assert (spec.exported, spec.runtime_versions) == (("RUN_ID",), {"python": "3.10"})
    assert [phase.name for phase in spec.phases] == ["install", "build"]
    assert spec.phases[1].commands == ("true", "one\ntwo\n")
    assert (spec.phases[1].finally_commands, spec.phases[1].on_failure) == (("echo end",), "CONTINUE")
    assert spec.reports[0].file_format == "JUNITXML"
    assert spec.artifacts is not None and spec.artifacts.discard_paths
    assert spec.cache_paths == ("/root/.cache/pip/**/*",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("phases: {}", "has no version"),
        (LEAST.replace("0.2", "0.1"), "version is '0.1'; only 0.2"),
        ("version: 0.2\n", "phases is missing"),
        ("version: 0.2\nphases: {}", "phases is empty"),
        ("version: 0.2\nphases:\n  buidl: {commands: [x]}", "phases.buidl is not known"),
        ("version: 0.2\nphases:\n  build: {}", "phases.build has no commands"),
        ("version: 0.2\nphases:\n  build: {commands: x}", "phases.build.commands must be a list"),
        (
            "version: 0.2\nphases:\n  build:\n    commands:\n      - echo a: b",
            r"phases.build.commands\[0\] is a mapping",
        ),
        ("version: 0.2\nphases:\n  build: {commands: [[x]]}", r"phases.build.commands\[0\] must be text"),
        (LEAST + "phases: {}\n", "the key 'phases' twice"),
        ("version: 0.2\n  phases: x", "not YAML at line 2"),
        (b"\xff", "not UTF-8"),
        (b"version: \x00", "not YAML"),
        (LEAST + "batch: {}", "batch is CodeBuild's, but"),
        (LEAST + "extra: {}", "extra is not known"),
        (LEAST + "env: {secrets-manager: {A: b}}", "env.secrets-manager is CodeBuild's, but"),
        (LEAST + "env: {shell: fish}", "env.shell is 'fish'"),
        (LEAST + "env: {variables: {1A: x}}", "'1A', which cannot name"),
        (LEAST + "env: {variables: {CODEBUILD_X: x}}", "begins with CODEBUILD_"),
        (LEAST + "env: {exported-variables: [AWS_X]}", "variables of AWS"),
        (LEAST + "reports: {r: {files: []}}", "reports.r names no files"),
        (LEAST + "reports: {r: {files: [a], file-format: DOC}}", "file-format is 'DOC'"),
        (LEAST + "artifacts: {base-directory: x}", "artifacts names no files"),
        ("version: 0.2\nphases: {build: {commands: [x], on-failure: RETRY}}", "on-failure is 'RETRY'"),
        (
            "version: 0.2\nphases: {build: {commands: [x], runtime-versions: {python: 3}}}",
            "runtime-versions is not known",
        ),
        ("version: 0.2\n? [a, b]\n: c\n", "a key that is not text"),
        (LEAST + "cache: &c {paths: *c}\n", "not YAML|must be a list"),
        ("[" * 5000, "nested too deeply|not YAML"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(text, problem):
    with pytest.raises(BuildspecError, match=problem) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("buildspec.yml: ") and message.endswith(".") and "\n" not in message


def test_our_own_file_installs_and_calls_and_does_nothing_else():
    text = (ROOT / "buildspec.yml").read_text()
    spec = parse(text)
    commands = [command for phase in spec.phases for command in (*phase.commands, *phase.finally_commands)]
    assert spec.runtime_versions == {"python": "3.12"}
    assert 'fraud run --env "$FRAUD_ENV" --run-id "$RUN_ID"' in commands
    assert any("--require-hashes -r requirements.lock" in command for command in commands)
    assert [report.file_format for report in spec.reports] == ["JUNITXML"] and spec.reports[0].files == ("run.xml",)
    assert spec.artifacts is not None and spec.artifacts.base_directory == "reports"
    assert any("pip" in path for path in spec.cache_paths)
    assert "#{" not in text, "a pipeline variable in a command is text that somebody else writes"
    for command in commands:
        outside = re.sub(r'"[^"$`\\]*(\$[A-Z_]+[^"$`\\]*)*"|\'[^\']*\'', "", command)
        assert "$" not in outside and "`" not in command and "eval" not in command, command


# ---- a build -------------------------------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path):
    return Build(tmp_path)


def test_commands_share_one_shell_within_and_across_phases(build):
    result = build("""
env: {shell: bash}
phases:
  install:
    commands: [plain=1, export EXPORTED=2, mkdir deep, cd deep, "f() { echo function $1; }"]
  build:
    commands: ['echo "$plain $EXPORTED $(basename "$PWD")"', f works, "array=(a b)", 'echo "${array[1]}"']
  post_build:
    commands: ['echo "$CODEBUILD_BUILD_SUCCEEDING $(basename "$CODEBUILD_SRC_DIR")"']
""")
    assert result["status"] == "SUCCEEDED", build.log()
    assert build.output() == ["1 2 deep", "function works", "b", "1 src"]


def test_a_failed_build_skips_the_rest_runs_finally_and_post_build_and_uploads(build, tmp_path):
    result = build(
        """
phases:
  build:
    commands: [echo one, "false", echo skipped]
    finally: [echo finally, mkdir out, touch out/kept]
  post_build:
    commands: ["echo post $CODEBUILD_BUILD_SUCCEEDING"]
artifacts: {files: ['out/*']}
""",
        artifact={"folder": str(tmp_path / "artifact")},
    )
    assert build.output() == ["one", "finally", "post 0"]
    assert result["status"] == "FAILED"
    assert "Phase: BUILD" in result["error"] and "command: false. Reason: exit status 1" in result["error"]
    phases = {phase["phaseType"]: phase["phaseStatus"] for phase in result["phases"]}
    assert (phases["BUILD"], phases["POST_BUILD"], phases["UPLOAD_ARTIFACTS"]) == ("FAILED", "SUCCEEDED", "SUCCEEDED")
    assert (tmp_path / "artifact" / "out" / "kept").is_file()


def test_a_failed_install_ends_the_build(build):
    result = build("""
phases:
  install: {commands: ["false"], finally: [echo finally]}
  build: {commands: [echo build]}
  post_build: {commands: [echo post]}
""")
    assert (result["status"], build.output()) == ("FAILED", ["finally"])


def test_on_failure_says_what_follows(build):
    text = """
phases:
  install: {commands: ["false"], on-failure: CONTINUE}
  build: {commands: ["echo build $CODEBUILD_BUILD_SUCCEEDING; false"], on-failure: ABORT}
  post_build: {commands: [echo post]}
"""
    assert build(text)["status"] == "FAILED"
    assert build.output() == ["build 0"]


def test_a_command_may_end_the_shell(build):
    result = build("""
phases:
  build:
    commands: [export KEPT=yes, exit 3]
    finally: ['echo "still $KEPT in $(basename "$PWD")"']
""")
    assert "exit status 3" in result["error"]
    assert build.output() == ["still yes in src"]


def test_values_are_never_part_of_a_command(build):
    hostile = "$(touch canary) `touch canary`; touch canary \"'\n\\ ${IFS} #{variables.X} && touch canary"
    result = build(
        """
env: {variables: {OWN: "$(touch canary)"}, exported-variables: [GIVEN, OWN]}
phases:
  install: {commands: [export SECOND="$GIVEN"]}
  build: {commands: ['printf "%s|" "$GIVEN" "$OWN" "$SECOND"', exit 0, 'test "$SECOND" = "$GIVEN"']}
""",
        environment=[{"name": "GIVEN", "value": hostile}],
    )
    assert result["status"] == "SUCCEEDED", build.log()
    assert {item["name"]: item["value"] for item in result["exported"]} == {"GIVEN": hostile, "OWN": "$(touch canary)"}
    assert f"{hostile}|$(touch canary)|{hostile}|" in build.log()
    assert not list(build.folder.rglob("canary"))


def test_variables_have_an_order_and_only_those_of_the_build_are_seen(build, monkeypatch):
    monkeypatch.setenv("DEVELOPERS_SECRET", "x")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    result = build(
        """
env: {variables: {A: file, B: file, C: file}}
phases:
  build:
    commands:
      - echo "$A $B $C $AWS_REGION ${DEVELOPERS_SECRET-unset} ${PYTHONPATH-unset}"
      - echo "$CODEBUILD_BUILD_ID $CODEBUILD_RESOLVED_SOURCE_VERSION $CODEBUILD_INITIATOR"
""",
        aws={"AWS_REGION": "eu-west-1"},
        environment=[
            {"name": "B", "value": "project"},
            {"name": "C", "value": "project"},
            {"name": "C", "value": "run"},
        ],
        resolved_version="abc",
        initiator="codepipeline/p",
    )
    assert result["status"] == "SUCCEEDED"
    assert build.output() == ["file project run eu-west-1 unset unset", f"{build.id} abc codepipeline/p"]


def test_the_time_is_limited_and_no_process_is_left(build):
    started = time.monotonic()
    result = build(
        """
phases:
  build:
    commands: ["(setsid sleep 301 &)", sleep 302]
    finally: [echo finally]
  post_build: {commands: [echo post]}
""",
        timeout=3.0,
    )
    assert result["status"] == "TIMED_OUT" and "timed out after 3 seconds" in result["error"]
    assert time.monotonic() - started < 15
    assert not build.output()
    assert not processes(build.id)


def test_what_a_build_left_running_ends_with_it(build):
    result = build("phases: {build: {commands: ['(setsid sleep 303 &)', 'sleep 304 &']}}")
    assert result["status"] == "SUCCEEDED"
    assert not processes(build.id)


def test_end_build_ends_what_ignores_a_polite_signal():
    build_id = f"p:{uuid.uuid4()}"
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {BUILD_ID: build_id}, stdout=-1)
    assert process.stdout.readline() == b"1\n"
    assert end_build(build_id, patience=0.3) == 1
    process.wait(5)
    process.stdout.close()
    assert not processes(build_id)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "phases: {build: {commands: [x], extra: 1}}",
            "YAML_FILE_ERROR, Message: buildspec.yml: phases.build.extra is not",
        ),
        ("env: {parameter-store: {A: /a}}\nphases: {build: {commands: [x]}}", "parameter-store needs"),
    ],
)
def test_a_build_that_cannot_begin_says_why(build, text, message):
    result = build(text)
    assert result["status"] == "FAILED" and message in result["error"]
    assert [phase["phaseType"] for phase in result["phases"]] == ["DOWNLOAD_SOURCE"]


def test_the_buildspec_may_be_another_file_or_the_text_itself(build):
    (build.source / "other.yml").write_text(LEAST.replace("true", "echo other"))
    assert build(LEAST, buildspec="other.yml")["status"] == "SUCCEEDED"
    assert build.output() == ["other"]
    assert build(LEAST, buildspec=LEAST.replace("true", "echo inline"))["status"] == "SUCCEEDED"
    assert build.output() == ["inline"]
    assert "no such file" in build(LEAST, buildspec="none.yml")["error"]
    assert "outside" in build(LEAST, buildspec="../../etc/passwd")["error"]


class FakeAws:
    """Logs, S3 and SSM as far as a build uses them."""

    def __init__(self) -> None:
        self.streams: dict[tuple[str, str], list[str]] = {}
        self.objects: dict[tuple[str, str], bytes] = {}

    def __call__(self, service: str) -> "FakeAws":
        return self

    def create_log_group(self, logGroupName):
        raise ClientError({"Error": {"Code": "ResourceAlreadyExistsException"}}, "CreateLogGroup")

    def create_log_stream(self, logGroupName, logStreamName):
        self.streams[logGroupName, logStreamName] = []

    def put_log_events(self, logGroupName, logStreamName, logEvents):
        assert all(event["message"] for event in logEvents)
        self.streams[logGroupName, logStreamName] += [event["message"] for event in logEvents]

    def put_object(self, Bucket, Key, Body, **_):
        self.objects[Bucket, Key] = Body.read()

    def get_parameter(self, Name, WithDecryption):
        if Name != "/there":
            raise ClientError({"Error": {"Code": "ParameterNotFound"}}, "GetParameter")
        return {"Parameter": {"Value": "from the store"}}


def test_logs_reports_artifacts_and_parameters_reach_aws(build, tmp_path):
    aws = FakeAws()
    junit(build.source / "run.xml")
    result = build(
        """
env: {parameter-store: {WHERE: /there}}
phases:
  build:
    commands:
      - echo "$WHERE"
      - mkdir -p reports/deep && cp *.xml reports && echo x > reports/deep/page.html && ln -s /etc/passwd reports/link
reports:
  tests: {files: ['*.xml'], base-directory: reports}
  none: {files: [nothing.xml]}
artifacts: {files: ['**/*'], base-directory: reports}
""",
        client=aws,
        artifact={"folder": str(tmp_path / "out"), "bucket": "b", "key": "p/Reports/1.zip"},
    )
    assert result["status"] == "SUCCEEDED", build.log()
    assert result["reports"][0] | {"seconds": 0} == {
        "group": "tests", "status": "FAILED", "files": 1, "tests": 4, "failures": 1, "errors": 1, "skipped": 1,
        "seconds": 0, "problems": [],
    }  # fmt: skip
    assert result["reports"][1]["status"] == "INCOMPLETE"
    lines = aws.streams["/aws/codebuild/project", build.id.partition(":")[2]]
    assert "from the store" in lines
    assert [line for line in build.log().splitlines() if line.strip()] == lines
    (tmp_path / "zip").write_bytes(aws.objects["b", "p/Reports/1.zip"])
    with zipfile.ZipFile(tmp_path / "zip") as archive:
        assert sorted(archive.namelist()) == ["deep/page.html", "run.xml"], "and no link out of the source"
    missing = build(
        "env: {parameter-store: {WHERE: /gone}}\nphases: {build: {commands: [x]}}", client=aws, build_id="project:2"
    )
    assert "/gone cannot be read: ParameterNotFound" in missing["error"]


def junit(path):
    cases = "".join(
        f"<testcase time='1'>{outcome}</testcase>" for outcome in ("", "<failure/>", "<error/>", "<skipped/>")
    )
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")


def test_artifacts_that_match_nothing_fail_the_build(build, tmp_path):
    text = "phases: {build: {commands: [mkdir out]}}\nartifacts: {files: ['**/*'], base-directory: %s}"
    result = build(text % "out", artifact={"folder": str(tmp_path / "a")})
    assert "no matching artifact paths" in result["error"]
    result = build(text % "../..", artifact={"folder": str(tmp_path / "a")})
    assert "no matching base directory" in result["error"] and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*", ["a.xml", "d/b.xml", "d/e/c.txt"]),
        ("*", ["a.xml"]),
        ("d/*", ["d/b.xml"]),
        ("d/**/*", ["d/b.xml", "d/e/c.txt"]),
        ("**/*.xml", ["a.xml", "d/b.xml"]),
        ("./d/e/c.txt", ["d/e/c.txt"]),
        ("?.xml", ["a.xml"]),
        ("d", []),
        ("[a-z].xml", []),
    ],
)
def test_patterns_are_codebuilds(tmp_path, pattern, found):
    for name in ("a.xml", "d/b.xml", "d/e/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in matching(tmp_path, [pattern])] == found


@pytest.mark.parametrize("content", ["", "<a/>", "<testsuite><testcase time='x'/></testsuite>", "<testsuite"])
def test_a_report_that_cannot_be_read_is_not_a_success(tmp_path, content):
    (tmp_path / "run.xml").write_text(content)
    counted = read_report(tmp_path, Report("tests", ("*.xml",)))
    assert counted["status"] == "INCOMPLETE" and counted["tests"] == 0
    assert "run.xml cannot be read" in counted["problems"][0]
