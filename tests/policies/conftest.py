"""What the tests of a module share: a gateway, an identity provider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.policies.issued import unspoil
from tests.policies.running import Running, gateway_running
from tests.policies.serving import fresh, prod, started, ws  # noqa: F401 - a promoted release, and its engine
from tests.stubs.oidc_server import OidcServer


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One running gateway."""
    with gateway_running(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def run(shared: Running) -> Running:
    """The shared gateway with a clean slate."""
    shared.start_afresh()
    return shared


@pytest.fixture(scope="module")
def oidc() -> Iterator[OidcServer]:
    """One running identity provider."""
    with OidcServer() as running:
        yield running


@pytest.fixture
def server(oidc: OidcServer) -> OidcServer:
    """The shared identity provider, with the keys and answers of a new one."""
    unspoil(oidc)
    return oidc
