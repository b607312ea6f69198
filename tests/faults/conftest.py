"""Each fault test runs on a database and a namespace of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from saga_worker.testing.namespaces import Namespace
from tests.faults.campaign import Place


@pytest.fixture
def place(database_url: str, amqp_url: str, namespace: Namespace, tmp_path: Path) -> Place:
    return Place(database_url, amqp_url, namespace, tmp_path)
