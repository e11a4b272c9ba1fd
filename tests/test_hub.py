"""Adapters at the Hub, against a small server with the part of its interface that is used."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from conftest import tiny_cnn
from huggingface_hub import constants
from test_adapter import adapted_tiny, saved_tiny
from test_cli import command
from torch import Tensor

import deepcorrect as dc
from deepcorrect import correction
from deepcorrect.runtime import InputError

FILES = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
REPO = "someone/blur-adapter"


@dataclass
class Hub:
    """What the server holds: by repository and branch, commits of files by name."""

    repos: dict[str, dict[str, list[dict[str, bytes]]]] = field(default_factory=dict)
    writable: bool = True
    damage: Callable[[str, bytes], bytes] = lambda name, content: content
    asked: list[str] = field(default_factory=list)

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch or a commit."""
        for branch, commits in self.repos.get(repo, {}).items():
            for number, held in enumerate(commits):
                sha = hashlib.sha1(f"{repo}{branch}{number}".encode()).hexdigest()
                if revision == sha or (revision == branch and held is commits[-1]):
                    return sha, held
        return None


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        del format, args

    def answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def no(self, status: int, code: str) -> None:
        self.answer({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.split("/")
        if not path:
            return self.answer({})
        if parts[:2] == ["api", "models"]:
            repo, what = "/".join(parts[2:4]), parts[4:]
            if repo not in self.hub.repos:
                return self.no(401, "RepoNotFound")
            revision = "/".join(what[1:]) if what else "main"
            found = self.hub.at(repo, revision)
            if found is None:
                return self.no(404, "RevisionNotFound")
            if what[:1] == ["tree"]:
                listed = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in found[1].items()
                ]
                return self.answer(listed)
            names = [{"rfilename": name} for name in found[1]]
            return self.answer({"id": repo, "sha": found[0], "siblings": names})
        if len(parts) >= 5 and parts[2] == "resolve":
            repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            found = self.hub.at(repo, revision)
            if found is None or name not in found[1]:
                return self.no(404, "EntryNotFound" if found else "RepoNotFound")
            content = self.hub.damage(name, found[1][name])
            tag = hashlib.sha1(content).hexdigest()
            return self.answer(content, 200, {"ETag": f'"{tag}"', "X-Repo-Commit": found[0]})
        return self.no(404, "EntryNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"POST {path}")
        parts = path.split("/")
        if path == "api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if not self.hub.writable or "authorization" not in {k.lower() for k in self.headers}:
            return self.answer({"error": "no"}, 403 if path == "api/repos/create" else 401)
        if path == "api/repos/create":
            given = json.loads(content)
            repo = f"{given['organization']}/{given['name']}" if "organization" in given else ""
            known = repo in self.hub.repos
            self.hub.repos.setdefault(repo, {"main": [{}]})
            url = f"http://{self.headers['Host']}/{repo}"
            return self.answer({"url": url, "name": repo}, 409 if known else 200)
        repo, what, revision = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
        if what == "preupload":
            listed = json.loads(content)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in listed
            ]
            return self.answer({"files": modes})
        if what == "branch":
            self.hub.repos[repo].setdefault(revision, [dict(self.hub.repos[repo]["main"][-1])])
            return self.answer({})
        if what == "commit":
            lines = [json.loads(line) for line in content.splitlines()]
            held = dict(self.hub.repos[repo][revision][-1])
            for line in lines:
                if line["key"] == "file":
                    held[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.hub.repos[repo][revision].append(held)
            sha, _ = self.hub.at(repo, revision) or ("", {})
            url = f"http://{self.headers['Host']}/{repo}/commit/{sha}"
            return self.answer({"success": True, "commitOid": sha, "commitUrl": url})
        return self.no(404, "EntryNotFound")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of its own, online, with an empty cache and a token."""
    held = Hub()
    handler = type("Bound", (Handler,), {"hub": held})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield held
    running.shutdown()
    running.server_close()


def test_an_adapter_is_pushed_and_pulled_back(server: Hub, tmp_path: Path, images: Tensor) -> None:
    adapted = adapted_tiny(tiny_cnn())
    commit = dc.push_to_hub(adapted, REPO, {"license": "mit"})
    assert commit.startswith("http://127.0.0.1:")
    (held,) = [c for c in server.repos[REPO]["main"] if c]  # one commit
    assert set(held) == FILES
    text = held["README.md"].decode()
    assert "license: mit" in text
    assert f'dc.load_adapter(model, "hf:{REPO}")' in text
    pulled = dc.load_adapter(tiny_cnn(), f"hf:{REPO}")
    with torch.no_grad():
        assert torch.equal(pulled(images), adapted(images))


def test_a_saved_folder_is_pushed_as_it_is_and_revisions_are_told_apart(
    server: Hub, tmp_path: Path, images: Tensor
) -> None:
    expected = saved_tiny(tmp_path / "first", images)
    other = adapted_tiny(tiny_cnn(), seed=5)
    other.save_pretrained(tmp_path / "second")
    dc.push_to_hub(tmp_path / "first", REPO)
    dc.push_to_hub(tmp_path / "second", f"hf:{REPO}", revision="noise")
    sha, _ = server.at(REPO, "main") or ("", {})
    with torch.no_grad():
        assert torch.equal(dc.load_adapter(tiny_cnn(), f"hf:{REPO}")(images), expected)
        assert torch.equal(dc.load_adapter(tiny_cnn(), f"hf:{REPO}@{sha}")(images), expected)
        assert torch.equal(dc.load_adapter(tiny_cnn(), f"hf:{REPO}@noise")(images), other(images))
    with pytest.raises(InputError, match="no such branch"):
        dc.load_adapter(tiny_cnn(), f"hf:{REPO}@nowhere")


def test_what_was_pulled_once_is_there_without_the_hub(
    server: Hub, tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = saved_tiny(tmp_path / "a", images)
    dc.push_to_hub(tmp_path / "a", REPO)
    dc.load_adapter(tiny_cnn(), f"hf:{REPO}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(server.asked)
    with torch.no_grad():
        assert torch.equal(dc.load_adapter(tiny_cnn(), f"hf:{REPO}")(images), expected)
    assert len(server.asked) == asked
    with pytest.raises(InputError, match=r"not in the cache.*HF_HUB_OFFLINE is set"):
        dc.load_adapter(tiny_cnn(), "hf:someone/other")
    with pytest.raises(InputError, match=r"cannot be reached.*HF_HUB_OFFLINE is set"):
        dc.push_to_hub(tmp_path / "a", REPO)


def test_a_download_that_was_cut_or_changed_is_refused(
    server: Hub, tmp_path: Path, images: Tensor
) -> None:
    saved_tiny(tmp_path / "a", images)
    dc.push_to_hub(tmp_path / "a", REPO)
    server.damage = lambda name, content: content[:-9] if name.endswith("tensors") else content
    network = tiny_cnn()
    with pytest.raises(InputError, match=r"checksum differs|Consistency|hf:"):
        dc.load_adapter(network, f"hf:{REPO}")
    assert not any(module._forward_hooks for module in network.modules())


def test_a_repository_that_holds_no_adapter_says_so(server: Hub) -> None:
    server.repos[REPO] = {"main": [{"README.md": b"# Nothing"}]}
    with pytest.raises(InputError, match="holds no adapter: it has no adapter_config"):
        dc.load_adapter(tiny_cnn(), f"hf:{REPO}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:someone/absent", r"no repository hf:someone/absent, or it is private.*HF_TOKEN"),
        ("hf:just-a-name", r"is not hf:OWNER/NAME\[@REVISION\]"),
        ("hf:a/b/c", r"is not hf:OWNER/NAME"),
        ("hf:", r"is not hf:OWNER/NAME"),
    ],
)
def test_a_repository_that_is_not_there(server: Hub, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dc.load_adapter(tiny_cnn(), spec)


def test_pushing_without_the_right_or_without_an_adapter(
    server: Hub, tmp_path: Path, images: Tensor
) -> None:
    saved_tiny(tmp_path / "a", images)
    server.writable = False
    with pytest.raises(InputError, match="does not let you write"):
        dc.push_to_hub(tmp_path / "a", REPO)
    server.writable = True
    with pytest.raises(InputError, match="is not OWNER/NAME"):
        dc.push_to_hub(tmp_path / "a", "name")
    content = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(content[:-5])
    with pytest.raises(InputError, match="checksum differs"):
        dc.push_to_hub(tmp_path / "a", REPO)
    assert REPO not in server.repos


def test_a_hub_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: Tensor
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(InputError, match="not in the cache, and the hub cannot be reached"):
        dc.load_adapter(tiny_cnn(), f"hf:{REPO}")
    with pytest.raises(InputError, match="the hub cannot be reached"):
        correction.upload(tmp_path, ["a"], REPO)


def test_the_command_pushes(server: Hub, tmp_path: Path, images: Tensor) -> None:
    saved_tiny(tmp_path / "a", images)
    said = command("push", tmp_path / "a", REPO, "--license", "apache-2.0", "--json")
    assert said.status == 0, said.err
    assert said.json["adapter"] == f"hf:{REPO}"
    (held,) = [c for c in server.repos[REPO]["main"] if c]
    assert b"license: apache-2.0" in held["README.md"]
    assert json.loads(held["adapter_config.json"])["notes"]["license"] == "apache-2.0"
    assert (
        "license" not in json.loads((tmp_path / "a" / "adapter_config.json").read_text())["notes"]
    )
