"""A database for each test, as for the stores."""

from tests.unit.stores.conftest import manager, url

__all__ = ["manager", "url"]
