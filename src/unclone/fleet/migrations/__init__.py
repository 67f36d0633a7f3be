"""Alembic migrations of a registry; ``engine.py`` runs them."""
