"""
Plain pytest, without ``--supercheck``: its time with the plugin installed against without, and the plugin's import.

Two environments are made of what is installed in this one: pytest with what it needs, and the same with this package
and all that it brings along.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

import pytest_supercheck
from benchmarks import suites
from benchmarks.bench import Bench, bench
from benchmarks.table import Row, Scale, alone, alternate, ratio_row, say, value_row

TARGET = 1.04
IMPORT_TARGET_MS = 10.0

_OURS: Final = "pytest-supercheck"

_IMPORT: Final = """
import time
import pytest
started = time.perf_counter()
import pytest_supercheck.plugin
print("took", time.perf_counter() - started)
"""


def measure(scale: Scale) -> list[Row]:
    """Measure both."""
    with bench() as place:
        without = _environment(place, "without", ["pytest"])
        installed = _environment(place, "with", ["pytest", _OURS])
        folder = place.folder("suite")
        suites.write_trivial(folder, 1, 1)
        command = suites.PYTEST[1:]
        place.run([str(installed), *command], folder, expect="supercheck-")  # the header names the plugin
        pairs = alternate(
            lambda: place.run([str(installed), *command], folder, expect=suites.passed(1)).wall_s,
            lambda: place.run([str(without), *command], folder, expect=suites.passed(1)).wall_s,
            scale.pairs(51, 3),  # the difference is small, and so is each run
        )
        imports = [_import_ms(place, installed) for _ in range(scale.pairs(11, 3))]
    return [
        ratio_row("plain pytest, one test: wall with the plugin / without", TARGET, pairs),
        value_row("plain pytest: import of the plugin", IMPORT_TARGET_MS, imports, "ms"),
    ]


def _import_ms(place: Bench, python: Path) -> float:
    output = place.run([str(python), "-c", _IMPORT], place.directory, expect="took").output
    return float(output.split()[-1]) * 1000


def _environment(place: Bench, name: str, wanted: list[str]) -> Path:
    """A virtual environment with copies of some installed distributions and of all that they need; its interpreter."""
    folder = place.directory / name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, env=place.environ)
    python = folder / "bin" / "python"
    said = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True, env=place.environ,
    )  # fmt: skip
    library = Path(said.stdout.strip())
    for distribution in _closure(wanted):
        _copy(distribution, library)
    subprocess.run([str(python), "-m", "compileall", "-q", str(library)], check=False, env=place.environ)
    say(f"  {name}: {', '.join(sorted(path.name for path in library.glob('*.dist-info')))}")
    return python


def _closure(wanted: list[str]) -> list[importlib.metadata.Distribution]:
    """Distributions with all that they require here, without extras."""
    found: dict[str, importlib.metadata.Distribution] = {}
    names = list(wanted)
    for name in names:  # grows while it is walked
        if name.lower().replace("_", "-") in found:
            continue
        distribution = importlib.metadata.distribution(name)
        found[name.lower().replace("_", "-")] = distribution
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names.append(requirement.name)
    return list(found.values())


def _copy(distribution: importlib.metadata.Distribution, library: Path) -> None:
    """Copy its files; this package as its wheel would have it, though it may be installed from a checkout."""
    editable = distribution.metadata["Name"] == _OURS
    for file in distribution.files or ():
        source = Path(str(distribution.locate_file(file)))
        if ".." in file.parts or (editable and ".dist-info" not in file.parts[0]) or not source.is_file():
            continue
        target = library / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    if editable:
        package = Path(pytest_supercheck.__file__).parent
        shutil.copytree(package, library / package.name, dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(alone(measure))
