"""What slow tests share with those of the services: a fresh database of either kind."""

from tests.services.conftest import database_url, postgres_url

__all__ = ["database_url", "postgres_url"]
