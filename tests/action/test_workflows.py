"""
The example workflows and this repository's own, run by act: what a job is told of a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.action.conftest import ROOT, Act
from tests.server.conftest import Served

EXAMPLES: Final = ROOT / "examples" / "workflows"


def test_passing_run(act: Act, worker: None, served: Served) -> None:
    """Its outputs, its summary with a link to its page, and a step that succeeds."""
    job = act.run(EXAMPLES / "tests.yml")
    print(job)
    assert job.status == 0
    assert job.outputs["state"] == "passed"
