"""Base models and sub-networks on a hub on 127.0.0.1."""

import os
import subprocess
import sys

import pytest

from ken.subnetwork import Subnetwork
from tests import hub_server


def run(address: str, cache, *arguments: str, expect: int = 0) -> str:
    """Run Python with the hub at `address`; returns its output."""
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    completed = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
    assert completed.returncode == expect, completed.stdout + completed.stderr
    return completed.stdout + completed.stderr


@pytest.fixture
def hub(checkpoints):
    folder = checkpoints["bert"]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with hub_server.running({"lab/base": files | {"pytorch_model.bin": b"\x80", "model.py": b"import os"}}) as server:
        yield server


def test_prune_with_a_base_from_the_hub(hub, finetuned_cells, checkpoints, tmp_path):
    tuned = str(finetuned_cells["bert"])
    pair = ["--finetuned", tuned, "--k", "3", "--quiet", "--out"]
    run(hub.address, tmp_path, "-m", "ken.cli", "prune", "--pretrained", "lab/base", *pair, str(tmp_path / "a"))
    assert not any("bin" in path or ".py" in path for path in hub.requests), (
        "only safetensors and text files are fetched"
    )
    local = str(checkpoints["bert"])
    run(hub.address, tmp_path, "-m", "ken.cli", "prune", "--pretrained", local, *pair, str(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_sub_network_survives_a_round_trip_through_the_hub(hub, finetuned_cells, checkpoints, tmp_path):
    subnetwork = Subnetwork.extract(checkpoints["bert"], finetuned_cells["bert"], 3)
    subnetwork.save(tmp_path / "saved")
    program = """
import sys
from ken import Subnetwork
subnetwork = Subnetwork.load(sys.argv[1])
print(subnetwork.push_to_hub("lab/task", "task.ken.safetensors"))
Subnetwork.from_hub("lab/task").save(sys.argv[1] + ".back")
"""
    printed = run(hub.address, tmp_path / "cache", "-c", program, str(tmp_path / "saved"))
    assert "/lab/task/commit/" in printed
    assert hub.repositories["lab/task"]["task.ken.safetensors"] == (tmp_path / "saved").read_bytes()
    assert (tmp_path / "saved.back").read_bytes() == (tmp_path / "saved").read_bytes()


def test_missing_repositories_and_files_give_one_line_messages(hub, tmp_path):
    expected = {
        "fingerprint('lab/absent')": "lab/absent is not a local path, and model lab/absent is not on the hub",
        "Subnetwork.from_hub('lab/base')": "lab/base has 0 files ending in .ken.safetensors: name one",
        "Subnetwork.from_hub('lab/base', 'x.ken.safetensors')": "lab/base has no file x.ken.safetensors.",
    }
    attempts = "".join(f"try:\n    {call}\nexcept ValueError as e: print('!', e)\n" for call in expected)
    printed = run(hub.address, tmp_path, "-c", f"from ken import Subnetwork, fingerprint\n{attempts}")
    messages = [line for line in printed.splitlines() if line.startswith("! ")]
    for line, words in zip(messages, expected.values(), strict=True):
        assert line.startswith(f"! {words}")


def test_without_a_network_the_error_names_the_repository(tmp_path):
    program = "from ken import fingerprint\ntry:\n    fingerprint('lab/base')\nexcept ValueError as e: print('!', e)"
    assert "! lab/base is not a local path, and a request to the hub for model lab/base" in run(
        "http://127.0.0.1:9", tmp_path, "-c", program
    )
