"""Which local servers a catalogue gets, and which workers use which."""

from pathlib import Path

import pytest

from registry.load import load_catalogue
from schemas.catalogue import Catalogue
from tierflow.local_models import LocalModel, LocalServers, apart, local_models

SIZE = 1000
"""Bytes of each weights file here."""


@pytest.fixture
def catalogue() -> Catalogue:
    return load_catalogue("local")


@pytest.fixture
def files(catalogue: Catalogue, tmp_path: Path) -> dict[str, Path]:
    found = {}
    for model in local_models(catalogue):
        found[model.weights] = tmp_path / model.weights
        found[model.weights].write_bytes(b"x" * SIZE)
    return found


def names(models: tuple[LocalModel, ...]) -> list[str]:
    return [model.name for model in models]


def test_one_server_an_endpoint(catalogue):
    assert names(local_models(catalogue)) == ["qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"]


WORKERS = [("worker-fast-1", "fast"), ("worker-balanced-1", "balanced"), ("worker-premium-1", "premium")]
MORE = [*WORKERS[:2], ("worker-balanced-2", "balanced"), WORKERS[2]]


def test_workers_that_share_a_model_get_a_server_each(catalogue, files):
    models = local_models(catalogue)
    found = names(apart(models, catalogue, files, workers=MORE, available=2 * 4 * SIZE))
    assert found == [
        "qwen2.5-coder-0.5b",
        "qwen2.5-coder-1.5b",
        "qwen2.5-coder-1.5b-worker-balanced-2",
        "qwen2.5-coder-1.5b-worker-premium-1",
    ]


def test_what_memory_has_no_room_for_is_shared(catalogue, files):
    models = local_models(catalogue)
    assert apart(models, catalogue, files, workers=MORE, available=2 * 3 * SIZE - 1) == models
    some = apart(models, catalogue, files, workers=MORE, available=2 * 3 * SIZE)
    assert names(some)[2:] == ["qwen2.5-coder-1.5b-worker-balanced-2"]


def test_a_stand_in_behind_all_tiers_gets_a_server_a_worker_too(tmp_path):
    small = load_catalogue("small")
    (model,) = local_models(small)
    (tmp_path / "w").write_bytes(b"x")
    wanted = apart((model,), small, {model.weights: tmp_path / "w"}, workers=WORKERS, available=100)
    assert [each.worker for each in wanted] == ["", "worker-balanced-1", "worker-premium-1"]


def test_workers_find_their_server(catalogue, files, tmp_path, monkeypatch):
    from agents.worker.local.launcher import LlamaServer

    monkeypatch.setattr(LlamaServer, "pid", 7)
    wanted = apart(local_models(catalogue), catalogue, files, workers=WORKERS, available=1_000_000)
    servers = LocalServers(wanted, files, logs=tmp_path, tell=print)
    url = {name: server.base_url for name, server in servers.servers.items()}
    assert len(set(url.values())) == 3
    for worker in ("worker-fast-1", "worker-balanced-1", "one that came later"):
        assert servers.endpoints(worker)["qwen2.5-coder-1.5b"].base_url == url["qwen2.5-coder-1.5b"]
    premium = servers.endpoints("worker-premium-1")
    assert premium["qwen2.5-coder-1.5b"].base_url == url["qwen2.5-coder-1.5b-worker-premium-1"]
    assert premium["qwen2.5-coder-0.5b"].base_url == url["qwen2.5-coder-0.5b"]
    assert set(servers.addresses()) == {"qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"}
    keys = {servers.endpoints(name)["qwen2.5-coder-1.5b"].api_key for name, _ in WORKERS[1:]}
    assert len(keys) == 2
