"""
The image and the compose file, as far as they can be looked at without an engine.

What the compose file's services do is tested in `acceptance/test_deployment.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

SERVER = Path(__file__).parents[1] / "server"
DOCKERFILE = (SERVER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((SERVER / "compose.yaml").read_text())


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
    ],
    ids=["Dockerfile", "compose.yaml"],
)
def test_files_are_well_made(command: list[str]) -> None:
    """By the programs that know what they may say."""
    program = Path(sysconfig.get_path("scripts"), command[0])
    done = subprocess.run([program, *command[1:]], cwd=SERVER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_have_no_more_rights_than_they_need(name: str) -> None:
    """Nor do they come and go unseen."""
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & service.keys()
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert set(service["secrets"]) <= COMPOSE["secrets"].keys()
    assert "build" in service or re.search(r":\d", service["image"]), "an image of a known release"
    assert not [
        value for key, value in service.get("environment", {}).items() if "PASSWORD" in key and "/" not in value
    ]


def test_only_the_server_can_be_reached_from_outside() -> None:
    """And by default from this machine alone."""
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert ports == {"server": ["${ADDRESS:-127.0.0.1:8000}:8000"]}
    assert COMPOSE["services"]["worker"]["networks"] == ["workers"]


def test_what_the_image_is_built_from_is_given_to_the_build() -> None:
    """Nothing else of the checkout is: it may hold secrets, and environments of gigabytes."""
    given = (SERVER / "Dockerfile.dockerignore").read_text().splitlines()
    assert given[0] == "*"
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+)$", DOCKERFILE, re.MULTILINE)]
    sources = {source.partition("/")[0] for words in copied for source in words}
    assert sources == {line[1:] for line in given if line.startswith("!")}
    assert {"server/secrets", "server/.env"} <= set(given)


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """As they are, whatever is in them; what has no file stays as it is."""
    secret = tmp_path / "secret"
    secret.write_text("a'\"$(touch made)`touch made`\\ b\n")
    program = tmp_path / "supercheck"
    program.write_text('#!/bin/sh\nprintf "%s|%s|%s" "$SUPERCHECK_TOKEN" "$PGPASSWORD" "$*"\n')
    program.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.defpath}", "SUPERCHECK_TOKEN_FILE": str(secret), "PGPASSWORD": "as it is"}
    command = [str(SERVER / "entrypoint.sh"), "worker", "-c 2"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "a'\"$(touch made)`touch made`\\ b|as it is|worker -c 2"
    assert not (tmp_path / "made").exists()


def test_secret_that_cannot_be_read_ends_the_command(tmp_path: Path) -> None:
    """An empty password would be worse."""
    environ = {"PATH": f"{tmp_path}:{os.defpath}", "SUPERCHECK_TOKEN_FILE": str(tmp_path / "none")}
    done = subprocess.run([SERVER / "entrypoint.sh"], env=environ, capture_output=True, text=True)
    assert done.returncode != 0
    assert "none" in done.stderr
