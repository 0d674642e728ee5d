"""
xdist's side of the talk with other plugins, spoken by the controller, with and without xdist installed.

Many plugins support parallel runs by looking for what pytest-xdist 3.8 does: hooks that are called with a node,
``config.option.dist`` and ``numprocesses``, two fixtures.  This module is the only one that knows that protocol, and
the only one that changes ``config.option``.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, Final

import pytest


class Gateway:
    """As much of execnet's gateway as plugins look at."""

    def __init__(self, worker_id: str, node: Node) -> None:
        self.id = worker_id
        self._node = node

    def _rinfo(self) -> SimpleNamespace:
        """As execnet's gateway has it (its `Gateway._rinfo`), for pytest-cov, which names the nodes by it."""
        known = self._node.workerinfo
        return SimpleNamespace(
            platform=known.get("sysplatform", sys.platform), version_info=known.get("version_info", sys.version_info)
        )


class NodeManager:
    """What xdist's nodes belong to; pytest-cov reads which directories are copied to them: none are by xdist."""

    roots: Final = ()


class Node:
    """An execution, as xdist's `WorkerController` shows itself to plugins."""

    def __init__(self, config: pytest.Config, worker_id: str, count: int, run_id: str) -> None:
        self.config = config
        self.gateway = Gateway(worker_id, self)
        self.workerinput: dict[str, Any] = {
            "workerid": worker_id,
            "workercount": count,
            "testrunuid": run_id,
            "mainargv": sys.argv,
        }
        self.nodemanager = NodeManager()
        self.workerinfo: dict[str, Any] = {}
        self.workeroutput: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Node {self.gateway.id}>"


class Silencer:
    """Before xdist looks at its options: it is not to distribute anything itself."""

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> Any:
        """The outermost wrapper, so that it comes before xdist's own implementation."""
        for name, value in (("numprocesses", None), ("dist", "no"), ("distload", False), ("tx", [])):
            setattr(config.option, name, value)
        return (yield)


class Speaker:
    """
    After xdist has looked: options as other plugins know them from a distributed session, and the nodes.

    Args:
        count: Number of executions wished for.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.nodes: list[Node] = []

    @pytest.hookimpl
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        """Between xdist's implementation and pytest's own; without ``tx`` xdist starts nothing."""
        config.option.numprocesses = self.count
        config.option.dist = "load"

    def resize(self, config: pytest.Config, count: int) -> None:
        """Wish for another number of executions, before the nodes are configured."""
        config.option.numprocesses = self.count = count

    def configure_nodes(self, config: pytest.Config, run_id: str) -> list[dict[str, Any]]:
        """Let plugins prepare each node; returns what the executions get as ``config.workerinput``."""
        self.nodes = [Node(config, f"gw{k}", self.count, run_id) for k in range(self.count)]
        for node in self.nodes:
            config.hook.pytest_configure_node(node=node)
        return [node.workerinput for node in self.nodes]

    def node(self, n: int) -> Node:
        """The node of execution `n`, from 1."""
        return self.nodes[min(n, len(self.nodes)) - 1]
