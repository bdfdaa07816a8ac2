"""Both servers behind a password, as docs/operations.md says; nobody who lacks it gets in, and it is not printed."""

from __future__ import annotations

import http.server
import threading

import httpx
import pytest

from flows.services import prefect_server
from tests import makers
from tests.pipeline import production

pytestmark = pytest.mark.pipeline
SECRET = "a-secret-of-the-test"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The API address of a Prefect server that asks for a password."""
    folder, port = tmp_path_factory.mktemp("guarded"), production.free_port()
    environment = {"PREFECT_SERVER_API_AUTH_STRING": f"otmf:{SECRET}", "PREFECT_API_AUTH_STRING": f"otmf:{SECRET}",
                   "PREFECT_HOME": str(folder), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}  # fmt: skip
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with production.running(command, folder, url=f"http://127.0.0.1:{port}/api/health", **environment):
        yield f"http://127.0.0.1:{port}/api"


def test_prefect_server_lets_in_who_knows_the_password(otmf, guarded, tmp_path) -> None:
    assert httpx.post(f"{guarded}/flow_runs/filter", json={}, timeout=30).status_code == 401
    root = makers.line(tmp_path / "shop")
    for wrong in ("", "otmf:wrong"):
        said = otmf("deploy", "--line", root, code=1, PREFECT_API_URL=guarded, PREFECT_API_AUTH_STRING=wrong).stderr
        assert "expected to be let in by the Prefect server at http://127.0.0.1:" in said
        assert "received 401 Unauthorized; set PREFECT_API_AUTH_STRING" in said
    right = {"PREFECT_API_URL": guarded, "PREFECT_API_AUTH_STRING": f"otmf:{SECRET}"}
    deployed = otmf("deploy", "--line", root, **right)
    onboarded = otmf("onboard", makers.card(tmp_path / "cards", "first"), "--line", root, **right)
    assert "first onboarded as s01" in onboarded.stdout
    for done in (deployed, onboarded):
        assert SECRET not in done.stdout + done.stderr


def test_mlflow_server_lets_in_who_knows_the_password(otmf, tmp_path) -> None:
    port, folder = production.free_port(), tmp_path / "mlflow"
    folder.mkdir()
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\nadmin_username = otmf\nadmin_password = {SECRET}\n"
    )
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", 1, "--app-name", "basic-auth",
               "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", folder / "artifacts"]  # fmt: skip
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-test"}
    url = f"http://127.0.0.1:{port}"
    root, card = makers.line(tmp_path / "shop"), makers.card(tmp_path / "cards", "first")
    with production.running(command, folder, url=f"{url}/health", **environment, **production.NO_JOBS):
        wrong = f"http://otmf:not-{SECRET}@127.0.0.1:{port}"
        refused = otmf("onboard", card, "--line", root, code=1, MLFLOW_TRACKING_URI=wrong)
        assert f"expected a tracking store at {url}; received no answer" in refused.stderr
        assert SECRET not in refused.stdout + refused.stderr
        right = {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_USERNAME": "otmf", "MLFLOW_TRACKING_PASSWORD": SECRET}
        done = otmf("onboard", card, "--line", root, **right)
        assert "first onboarded as s01" in done.stdout
        assert SECRET not in done.stdout + done.stderr


def test_server_of_another_version_is_refused_naming_both(otmf, tmp_path) -> None:
    class Old(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"true" if self.path.endswith("/health") else b'"2.19.0"'
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    old = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=old.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ConnectionError, match=r"expected a Prefect server of version 3\..* received 2\.19\.0"):
            prefect_server.require(f"http://127.0.0.1:{old.server_port}/api")
    finally:
        old.shutdown()
        old.server_close()
