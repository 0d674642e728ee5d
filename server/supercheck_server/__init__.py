"""
The server of pytest-supercheck: history, reports and the live queue in a browser, and an HTTP API.

It imports `pytest_supercheck`, never the other way round; the command line finds its commands by their entry points.
"""
