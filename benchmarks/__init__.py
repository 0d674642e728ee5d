"""
Measurements of pytest-supercheck against peers: one module per figure, one table from ``python -m benchmarks``.

Everything is measured in the same run, in alternating pairs, in temporary directories. Knows the package's commands and
its public parts; the package knows nothing of it.
"""
