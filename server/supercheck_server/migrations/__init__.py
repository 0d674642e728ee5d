"""The history's schema, step by step; Alembic runs them."""
