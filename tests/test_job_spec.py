"""
The spec of a job's runs: like that of a session that leaves its run to the pool.
"""

from __future__ import annotations

import json
from pathlib import Path

from pytest_supercheck.ini import read_settings
from pytest_supercheck.job_spec import complete, job_spec
from pytest_supercheck.jobs import Job


def test_spec_says_what_the_job_and_its_project_say(tmp_path: Path) -> None:
    """The rest is as if a session had been started there; nothing of this machine's variables."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nsupercheck_artifact = *.png\nsupercheck_env_groups = test\n")
    job = Job(name="nightly", args=("-k", "x"), env="uv", python="3.12")
    source = {"bundle": "0" * 64, "root": str(tmp_path)}
    spec = job_spec(job, tmp_path, read_settings(tmp_path), source)
    assert (spec["args"], spec["argv"], spec["collect"]) == (["-k", "x"], ["pytest", "-k", "x"], "remote")
    assert (spec["rootdir"], spec["cwd"], spec["source"]) == (str(tmp_path), str(tmp_path), source)
    assert (spec["env"]["kind"], spec["env"]["python"], spec["env"]["groups"]) == ("uv", "3.12", ("test",))
    assert spec["artifacts"] == {"of": "failed", "globs": ["*.png"]}
    assert spec["environ"] == {}


def test_each_run_has_its_own(tmp_path: Path) -> None:
    """Id and origin; the job's own spec stays as it is, and both are JSON."""
    spec = job_spec(Job(name="nightly"), tmp_path, read_settings(tmp_path), {"bundle": "", "root": "/"})
    before = json.dumps(spec)
    made = complete(spec, run="r1", count=3, origin={"trigger": "schedule", "user": "", "job": "nightly"})
    assert (made["uid"], made["count"], made["nodes"][0]["testrunuid"]) == ("r1", 3, "r1")
    assert (made["origin"]["trigger"], made["origin"]["job"]) == ("schedule", "nightly")
    assert made["origin"]["rootdir"] == str(tmp_path)
    assert json.dumps(spec) == before
    assert json.loads(json.dumps(made))["nodes"][0]["workercount"] == 3
