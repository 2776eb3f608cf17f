"""A MongoDB for the tests of a module: MONGODB_TEST_URI if it is set, else secantusdb."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from serving.ids import new_id
from tests.support.mongodb import MongoServer


@pytest.fixture(scope="module")
def server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if given := os.environ.get("MONGODB_TEST_URI"):
        yield given
        return
    with MongoServer(tmp_path_factory.mktemp("mongo")) as server:
        yield server.uri


@pytest.fixture
def database(server_uri: str) -> Iterator[Database[dict[str, Any]]]:
    """An empty database, dropped after the test."""
    with MongoClient[dict[str, Any]](server_uri, tz_aware=True) as client:
        name = f"test_{new_id()}"
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def uri(server_uri: str, database: Database[dict[str, Any]]) -> str:
    """The address of `database`."""
    head, _, options = server_uri.partition("?")
    return f"{head.rstrip('/')}/{database.name}" + (f"?{options}" if options else "")
