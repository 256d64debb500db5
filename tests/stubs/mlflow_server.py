"""An MLflow tracking server as far as its model registry goes: MLflow's REST calls, answered from MLflow's file store.

Run as `python -P tests/stubs/mlflow_server.py FOLDER`; prints its port.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.file_store import FileStore

STORE = FileStore(sys.argv[1])


def model(found):
    aliases = [{"alias": name, "version": str(number)} for name, number in found.aliases.items()]
    return {"registered_model": {"name": found.name, "aliases": aliases}}


def version(found):
    tags = [{"key": key, "value": value} for key, value in found.tags.items()]
    return {"name": found.name, "version": str(found.version), "source": found.source, "status": "READY", "tags": tags,
            "current_stage": found.current_stage}  # fmt: skip


def create_version(name, source, tags=(), description=None, **_):
    made = STORE.create_model_version(
        name, source, tags=[ModelVersionTag(**tag) for tag in tags], description=description
    )
    return {"model_version": version(made)}


def search(filter=None, max_results=100, page_token=None, **_):
    """Answer one version a page, so that a client has to turn pages."""
    found = STORE.search_model_versions(filter, 1, page_token=page_token)
    return {"model_versions": [version(one) for one in found], "next_page_token": (found.token or b"").decode()}


def done(_):
    return {}


CALLS = {
    ("GET", "registered-models/get"): lambda name: model(STORE.get_registered_model(name)),
    ("POST", "registered-models/create"): lambda name, **_: model(STORE.create_registered_model(name)),
    ("POST", "registered-models/alias"):
        lambda name, alias, version: done(STORE.set_registered_model_alias(name, alias, version)),
    ("DELETE", "registered-models/alias"): lambda name, alias: done(STORE.delete_registered_model_alias(name, alias)),
    ("POST", "model-versions/create"): create_version,
    ("GET", "model-versions/search"): search,
    ("POST", "model-versions/set-tag"):
        lambda name, version, key, value: done(STORE.set_model_version_tag(name, version, ModelVersionTag(key, value))),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = {**dict(parse_qsl(parts.query)), **(json.loads(body) if body else {})}
        try:
            code, said = 200, CALLS[self.command, parts.path.partition("/mlflow/")[2]](**asked)
        except MlflowException as error:
            code, said = error.get_http_status_code(), json.loads(error.serialize_as_json())
        except KeyError:
            code, said = 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": self.path}
        text = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_):
        """Say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
