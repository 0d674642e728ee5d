"""
Fixtures for tests of the GitHub Action: act runs real workflows on this machine, against a real server and worker.

What the workflows take from GitHub's own actions is done by doubles: a checkout that copies the project, and a setup of
Python that takes the one that is there. act takes them, and this action, from directories.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from tests.action.github import GitHub, playing
from tests.conftest import Valkey
from tests.server.conftest import GUARD_S, Served, client, pool, served, settings, unused_port, wait_for

__all__ = ["client", "pool", "served", "settings", "unused_port"]

ROOT = Path(__file__).parent.parent.parent

#: What act runs instead of the actions that are pinned in workflows, by their names.
DOUBLES = {
    "actions/checkout": 'cp -R "$PROJECT/." .',
    "actions/setup-python": "python3 --version",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a workflow's run has left in act's log."""

    #: act's exit code: 0 when all jobs have succeeded.
    status: int
    #: With which the action's step has ended; None when it has succeeded.
    exit_status: int | None
    #: The outputs of the action.
    outputs: Mapping[str, str]
    #: What steps have written into the summary.
    summary: str
    #: Annotations: their kind, properties and message.
    annotations: list[tuple[str, Mapping[str, str], str]]
    #: What steps have printed, and all of the log.
    output: str
    log: str


@dataclass
class Act:
    """A repository, and workflows that run in it."""

    #: The repository.
    project: Path
    #: Where the doubles and act's own files are.
    directory: Path
    #: Where programs are, those of the Python that jobs have first.
    path: str
    #: Variables of the repository.
    variables: dict[str, str] = field(default_factory=dict)
    #: Secrets of the repository.
    secrets: dict[str, str] = field(default_factory=dict)
    #: Variables of the environment.
    environ: dict[str, str] = field(default_factory=dict)

    def write(self, **sources: str) -> None:
        """Write files of the project; two underscores are a dot."""
        for name, source in sources.items():
            (self.project / name.replace("__", ".")).write_text(textwrap.dedent(source))

    def start(
        self, workflow: Path, event: str = "push", payload: object = None, *, job: str = "", **inputs: str
    ) -> subprocess.Popen[str]:
        """Start a workflow for an event with that payload."""
        event_file = self.directory / "event.json"
        event_file.write_text(json.dumps({"repository": {"default_branch": "main"}, **(payload or {})}))  # type: ignore[dict-item]
        replaced = [f"{used}={self._double(used)}" for used in used_actions(workflow)]
        pairs = [
            *(("--local-repository", one) for one in replaced),
            *(("--var", f"{name}={value}") for name, value in self.variables.items()),
            *(("--secret", f"{name}={value}") for name, value in self.secrets.items()),
            *(("--env", f"{name}={value}") for name, value in self.environ.items()),
            *(("--input", f"{name}={value}") for name, value in inputs.items()),
            ("--platform", "ubuntu-latest=-self-hosted"),
            ("--action-cache-path", str(self.directory / "cache")),
            ("--eventpath", str(event_file)),
            ("--workflows", str(workflow)),
            *([("--job", job)] if job else []),
        ]
        flags = ["--json", "--no-cache-server", "--no-skip-checkout", "--action-offline-mode"]
        return subprocess.Popen(
            [program("act"), event, *flags, *(word for pair in pairs for word in pair)],
            cwd=self.project,
            env={**os.environ, "PATH": self.path},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, workflow: Path, event: str = "push", payload: object = None, **more: str) -> Job:
        """A workflow from its beginning to its end."""
        return self.read(self.start(workflow, event, payload, **more))

    def read(self, process: subprocess.Popen[str]) -> Job:
        """What a workflow that was started has left behind."""
        log, _ = process.communicate(timeout=GUARD_S * 2)
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        mine = [line for line in lines if line.get("stage") == "Main"]
        ours = [line for line in mine if "OWNER/pytest-supercheck" in line["step"] and len(line["stepID"]) == 1]
        ended = [re.fullmatch(r"exit status (\d+)", line["msg"]) for line in ours]
        return Job(
            status=process.returncode,
            exit_status=next((int(one[1]) for one in ended if one), None),
            outputs={line["name"]: line["arg"] for line in ours if line.get("command") == "set-output"},
            summary="".join(line["content"] for line in ours if line.get("command") == "summary"),
            annotations=[
                (line["command"], line["kvPairs"], line["arg"])
                for line in mine
                if line.get("command") in ("error", "warning", "notice")
            ],
            output="".join(line["msg"] for line in mine if line.get("raw_output")),
            log=log,
        )

    def _double(self, used: str) -> Path:
        name = used.partition("@")[0]
        if name == "OWNER/pytest-supercheck":
            return self.directory / "action"
        place = self.directory / name.replace("/", "-")
        place.mkdir(exist_ok=True)
        step = {"shell": "bash", "run": DOUBLES[name]}
        made = {"name": name, "description": "A double.", "runs": {"using": "composite", "steps": [step]}}
        (place / "action.yml").write_text(json.dumps(made))
        return place


def used_actions(workflow: Path) -> set[str]:
    """The actions that a workflow uses, each as `OWNER/NAME@REF`, and those that this one uses."""
    texts = (workflow.read_text(), (ROOT / "action.yml").read_text())
    return {used for text in texts for used in re.findall(r'\buses"?: "?([^\s"]+)', text)}


def program(name: str) -> str:
    """A program of the development environment."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, f"{name} is not installed"
    return found


@pytest.fixture(scope="session")
def job_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with this package and nothing of the development's."""
    directory = tmp_path_factory.mktemp("job") / "venv"
    for words in (
        ["venv", "--quiet", "--seed", "--python", sys.executable, str(directory)],
        ["pip", "install", "--quiet", "--python", str(directory), f"{ROOT}[http]"],
    ):
        subprocess.run([program("uv"), *words], check=True)
    return directory / "bin"


@pytest.fixture
def act(tmp_path: Path, job_python: Path, valkey_server: Valkey) -> Act:
    """A repository with one test that passes."""
    directory, project = tmp_path / "act", tmp_path / "shop"
    directory.mkdir()
    (directory / "action").mkdir()
    for name in ("action", "pytest_supercheck"):
        shutil.copytree(ROOT / name, directory / "action" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "action.yml", directory / "action")
    project.mkdir()
    git = ["git", "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    made = Act(project, directory, f"{job_python}{os.pathsep}{os.environ['PATH']}")
    made.environ = {
        "PROJECT": str(project),
        "SUPERCHECK_VALKEY": valkey_server.program,
        "SUPERCHECK_ENV": "inherit",
        "SUPERCHECK_PROJECT": "shop",
    }
    made.write(pytest__ini="[pytest]\n", requirements__txt="", test_shop__py="def test_good():\n    pass\n")
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["remote", "add", "origin", "https://github.com/acme/shop"],
        ["add", "."],
        ["commit", "--quiet", "--message=All"],
    ):
        subprocess.run([*git, *words], cwd=project, check=True)
    return made


@pytest.fixture
def worker(
    tmp_path: Path, job_python: Path, valkey: redis.Redis, valkey_server: Valkey, served: Served, act: Act
) -> Iterator[None]:
    """A worker beside the server, which the workflows know."""
    act.variables["SUPERCHECK_URL"] = served.url
    home = tmp_path / "worker-home"
    home.mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SUPERCHECK_")}
    environ |= {"SUPERCHECK_CACHE": str(tmp_path / "worker-cache"), "SUPERCHECK_STORE": served.parts.settings.store}
    words = [str(job_python / "supercheck"), "worker", "--url", valkey_server.url, "-c", "2"]
    words += ["--label", "linux", "--label", "gpu"]
    process = subprocess.Popen(words, cwd=home, env=environ)
    try:
        wait_for(lambda: served.parts.dispatcher.pool().workers or process.poll(), "the worker serves")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(GUARD_S)


@pytest.fixture
def github() -> Iterator[GitHub]:
    """GitHub's API."""
    with playing() as made:
        yield made
