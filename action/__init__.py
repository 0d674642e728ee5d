"""
The GitHub Action: one step of a job, around one session.

Runs on the runner's own Python with the standard library alone; only `session` runs where pytest is.
"""
