"""Small files of both formats that are committed: every version restores the same bits from them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ken
from ken.subnetwork import Subnetwork
from tests.ken.test_subnetwork import bits, same
from tests.oracles import format_reader as oracle

FOLDER = Path(__file__).parent / "vectors"
SUFFIX = ".ken.safetensors"
NAMES = sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def files(name):
    """Base, sub-network and restored model."""
    base = "base-bfloat16" if name.startswith("bfloat16") else "base"
    return tuple(FOLDER / f"{one}.safetensors" for one in (base, f"{name}.ken", f"{name}.restored"))


def test_there_is_a_file_for_every_way_of_storing():
    found = [Subnetwork.load(files(name)[1]) for name in NAMES if name != "format-1"]
    assert {one.positions for one in found} == {"stored", "seed", "base"}
    assert {one.values for one in found} == {"16bit", "8bit", "4bit", "3bit", "2bit", "1bit", "rounded"}
    assert isinstance(Subnetwork.load(files("format-1")[1]), Subnetwork)
    assert any(one.specs["layer.0.weight"].dtype == torch.bfloat16 for one in found)
    assert any(one.specs["embeddings.weight"].shape == (15, 20) for one in found), "the base has 12 rows"


@pytest.mark.parametrize("name", NAMES)
def test_committed_files_restore_the_committed_models(name, tmp_path):
    base, stored, restored = files(name)
    expected = load_file(restored)
    state = Subnetwork.load(stored).apply(base)
    ken.inject(base, stored, tmp_path / "out.safetensors")
    written, read = load_file(tmp_path / "out.safetensors"), oracle.restore(stored.read_bytes(), base.read_bytes())
    assert expected.keys() == state.keys() == written.keys() == read.keys()
    for tensor_name, tensor in expected.items():
        assert same(state[tensor_name], tensor) and same(written[tensor_name], tensor), tensor_name
        assert read[tensor_name][2] == bits(tensor).numpy().tobytes(), tensor_name
    assert (tmp_path / "out.safetensors").read_bytes() == restored.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_refuses_an_altered_file_and_another_base(name):
    base, stored, _ = files(name)
    data = stored.read_bytes()
    with pytest.raises(oracle.Refused, match="checksum"):
        oracle.restore(data[:-1] + bytes([data[-1] ^ 1]), base.read_bytes())
    other = base.read_bytes()
    with pytest.raises(oracle.Refused, match=r"base|record"):
        oracle.restore(data, other[:-1] + bytes([other[-1] ^ 1]))
