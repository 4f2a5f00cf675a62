"""Streaming from disk to disk: the same bits as in memory for every checkpoint layout, with bounded memory."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import ken
from ken import streaming, tensors
from ken.checkpoint_files import INDEX
from ken.storage.exact import Reader
from ken.subnetwork import Subnetwork
from tests.conftest import MODELS
from tests.ken.test_subnetwork import models, same


def save_sharded(tensors: dict, folder) -> None:
    """Two shards and their index, as save_pretrained writes them."""
    folder.mkdir()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, names_in_shard in shards.items():
        save_file({name: tensors[name].contiguous() for name in names_in_shard}, folder / shard)
    weight_map = {name: shard for shard, names_in_shard in shards.items() for name in names_in_shard}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def pair(tmp_path):
    """Base as one file, fine-tuned model as shards, and both in memory."""
    pretrained, finetuned = models()
    (tmp_path / "base").mkdir()
    save_file(pretrained, tmp_path / "base" / "model.safetensors")
    save_sharded(finetuned, tmp_path / "tuned")
    return pretrained, finetuned


@pytest.mark.parametrize("block", [7, 40, 2**22])
@pytest.mark.parametrize("method", ["ken", "ken-grid"])
@pytest.mark.parametrize(("rule", "scope"), [("reset", "all"), ("rescale", "layers")])
def test_streamed_equals_in_memory(pair, tmp_path, monkeypatch, block, method, rule, scope):
    pretrained, finetuned = pair
    expected = Subnetwork.extract(pretrained, finetuned, 5, method, scope, rule)
    monkeypatch.setattr(tensors, "BLOCK", block)
    streaming.prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "sub", 5, method, scope, rule)
    streamed = Subnetwork.load(tmp_path / "sub")
    assert streamed.base == expected.base and streamed.aliases == {}
    assert streamed.masks.keys() == expected.masks.keys() and streamed.whole.keys() == expected.whole.keys()
    for name, mask in expected.masks.items():
        assert torch.equal(streamed.masks[name], mask) and same(streamed.values[name], expected.values[name])
    streaming.inject(tmp_path / "base" / "model.safetensors", tmp_path / "sub", tmp_path / "out.safetensors")
    restored, expected_state = load_file(tmp_path / "out.safetensors"), expected.apply(pretrained)
    assert restored.keys() == expected_state.keys() and all(
        same(restored[name], expected_state[name]) for name in expected_state
    )


def test_streamed_and_saved_files_are_the_same_bytes(pair, tmp_path):
    streaming.prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "streamed", 3)
    Subnetwork.extract(tmp_path / "base", tmp_path / "tuned", 3).save(tmp_path / "saved")
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "saved").read_bytes()


def test_random_draws_are_the_same_from_memory_and_from_disk(pair, tmp_path):
    def uniform(finetuned, pretrained, generator):
        return torch.rand(finetuned.shape, generator=generator)

    streaming.prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "sub", 3, uniform, seed=4)
    streamed, expected = Subnetwork.load(tmp_path / "sub"), Subnetwork.extract(*pair, 3, uniform, seed=4)
    assert streamed.method == "uniform" and all(
        torch.equal(streamed.masks[n], expected.masks[n]) for n in expected.masks
    )


@pytest.mark.parametrize("model", MODELS)
def test_all_interfaces_agree_on_a_real_checkpoint(model, checkpoints, finetuned_cells, tmp_path):
    """Folders, modules and state dicts give equal results for a base without a head and a classifier."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    base, tuned = checkpoints[model], finetuned_cells[model]
    streaming.prune(base, tuned, tmp_path / "sub", 0.1)
    subnetwork = Subnetwork.load(tmp_path / "sub")
    head = set(json.loads((tuned / "manifest.json").read_text())["head"])
    assert set(subnetwork.whole) == head
    body, classifier = AutoModel.from_pretrained(base), AutoModelForSequenceClassification.from_pretrained(tuned)
    body.pooler = None  # random if the checkpoint has none
    live = Subnetwork.extract(body, classifier, 0.1)
    assert live.base == subnetwork.base and live.kept_body == subnetwork.kept_body
    streaming.inject(base, tmp_path / "sub", tmp_path / "model")
    restored = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert restored.config.id2label == classifier.config.id2label
    expected = subnetwork.apply(body.state_dict())
    assert all(same(tensor, expected[name]) for name, tensor in restored.state_dict().items())
    fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    subnetwork.inject(fresh)
    fresh.save_pretrained(tmp_path / "saved")
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert all(same(tensor, expected[name]) for name, tensor in saved.state_dict().items())
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_names_match_despite_prefixes_and_old_layer_norm_names(tmp_path):
    base = {"bert.layer.0.LayerNorm.gamma": torch.randn(6), "bert.layer.0.w": torch.randn(4, 6), "cls.w": torch.ones(3)}
    base |= {"bert.pooler.w": torch.ones(2)}
    plain = {"layer.0.LayerNorm.weight": torch.randn(6), "layer.0.w": torch.randn(4, 6)}
    for prefix in ("", "bert."):
        tuned = {prefix + name: tensor for name, tensor in plain.items()} | {"classifier.w": torch.ones(2, 6)}
        subnetwork = Subnetwork.extract(base, tuned, 2)
        assert set(subnetwork.masks) == {prefix + name for name in plain} and set(subnetwork.whole) == {"classifier.w"}
        assert subnetwork.apply(base).keys() == tuned.keys()


def test_buffers_only_in_the_base_and_unrelated_files_are_left_out(tmp_path):
    base = {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.0.attn.c.weight": torch.randn(4, 6), "e.w": torch.randn(5, 6)}
    tuned = {f"transformer.{name}": tensor + 1 for name, tensor in base.items() if not name.endswith("bias")}
    (tmp_path / "base").mkdir()
    save_file(base, tmp_path / "base" / "model.safetensors")
    for name in ("tokenizer.json", "README.md", "modeling.py", "training_args.bin", ".gitattributes"):
        (tmp_path / "base" / name).write_text("{}")
    streaming.prune(tmp_path / "base", tuned, tmp_path / "sub", 2)
    streaming.inject(tmp_path / "base", tmp_path / "sub", tmp_path / "model")
    assert set(os.listdir(tmp_path / "model")) == {"model.safetensors", "tokenizer.json"}
    streaming.inject(tmp_path / "base" / "model.safetensors", tmp_path / "sub", tmp_path / "weights")
    assert os.listdir(tmp_path / "weights") == ["model.safetensors"]


def test_the_base_is_converted_to_the_fine_tuned_dtype():
    pretrained, finetuned = models()
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in pretrained.items()}
    subnetwork = Subnetwork.extract(halves, finetuned, 3)
    back = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in halves.items()}
    assert subnetwork.base == Subnetwork.extract(back, finetuned, 3).base
    assert subnetwork.apply(halves)["layer.0.w"].dtype == torch.float32


@pytest.mark.parametrize("tied_first", [True, False])
def test_the_tied_tensor_with_a_pre_trained_value_is_kept(tied_first):
    weight = torch.randn(4, 3)
    names = ["output.weight", "embedding.weight"] if tied_first else ["embedding.weight", "output.weight"]
    subnetwork = Subnetwork.extract({"embedding.weight": torch.randn(4, 3)}, dict.fromkeys(names, weight), 1)
    assert set(subnetwork.masks) == {"embedding.weight"} and subnetwork.aliases == {"output.weight": "embedding.weight"}


@pytest.mark.parametrize(
    ("base", "tuned", "message"),
    [
        ({"a.w": (2, 2)}, {"b.v": (2, 2)}, "have no tensor name in common, such as 'b.v' and 'a.w'"),
        ({"e": (2,), "h.0.w": (2,), "h.1.w": (2,)}, {"e": (2,), "h.0.w": (2,)}, "lacks 1 .* such as 'h.1.w'"),
        ({"m.h.0.w": (2,), "m.h.1.w": (2,)}, {"m.h.0.w": (2,), "c": (2,)}, "such as 'm.h.1.w'"),
        ({"ids": (2,)}, {"ids": (2,)}, "have no parameters in common"),
        ({"h.0.w": (2, 3)}, {"h.0.w": (3, 2)}, r"tensor 'h.0.w' is .* of \(3, 2\) fine-tuned but .* of \(2, 3\)"),
    ],
)
def test_mismatched_models_are_refused(base, tuned, message):
    with pytest.raises(ValueError, match=message):
        tensors = [{n: torch.zeros(s).to(int if n == "ids" else float) for n, s in t.items()} for t in (base, tuned)]
        Subnetwork.extract(*tensors, 1)


def test_unreadable_checkpoints_are_refused(pair, tmp_path):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"holds 0 safetensors files .*pickled weights are not read"):
        ken.fingerprint(tmp_path / "pickled")
    with pytest.raises(ValueError, match="does not exist"):
        ken.fingerprint(tmp_path / "absent.safetensors")
    (tmp_path / "tuned" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors does not exist"):
        ken.fingerprint(tmp_path / "tuned")
    data = (tmp_path / "base" / "model.safetensors").read_bytes()
    (tmp_path / "base" / "model.safetensors").write_bytes(data[:-5])
    with pytest.raises(ValueError, match="truncated or no safetensors"):
        ken.fingerprint(tmp_path / "base")
    for weight_map in ({"w": "../base/model.safetensors"}, ["a"], None):
        (tmp_path / "tuned" / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ValueError, match="no usable weight_map"):
            ken.fingerprint(tmp_path / "tuned")


def test_a_wrong_base_or_bad_weights_leave_nothing_behind(pair, tmp_path):
    streaming.prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "sub", 3)
    before = sorted(os.listdir(tmp_path))
    for out in ("model", "out.safetensors"):
        with pytest.raises(ValueError, match="the base has fingerprint"):
            streaming.inject(tmp_path / "tuned", tmp_path / "sub", tmp_path / out)
    with pytest.raises(ValueError, match="exists already"):
        streaming.inject(tmp_path / "base", tmp_path / "sub", tmp_path / "tuned")
    bad = pair[1] | {"layer.0.w": torch.full((16, 16), torch.inf)}
    with pytest.raises(ValueError, match=r"tensor 'layer.0.w': fine-tuned values must be finite"):
        streaming.prune(tmp_path / "base", bad, tmp_path / "sub", 3)
    assert sorted(os.listdir(tmp_path)) == before
    assert Reader(tmp_path / "sub").settings["k"] == 3, "the old file is unchanged"


def test_a_killed_prune_leaves_no_output_file(tmp_path):
    program = """
import sys, time, torch, ken
def slow(finetuned, pretrained, generator):
    print("ranking", flush=True)
    time.sleep(0.2)
    return finetuned
tensors = {f"layer.{i}.w": torch.randn(8, 8) for i in range(200)}
ken.prune(tensors, tensors, sys.argv[1] + "/sub.safetensors", 2, slow)
"""
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        child.stdout.readline()
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == []


def test_memory_use_stays_below_one_tensor(tmp_path):
    """Pruning and injecting models of one 64 MiB tensor needs far less additional memory than both."""
    torch.manual_seed(0)
    for name in ("base", "tuned"):
        save_file({"embedding.weight": torch.randn(2**14, 2**10)}, tmp_path / f"{name}.safetensors")
    program = """
import resource, sys
from pathlib import Path
from ken import streaming, tensors
tensors.BLOCK = 2**18
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
folder, before = Path(sys.argv[1]), peak()
streaming.prune(folder / "base.safetensors", folder / "tuned.safetensors", folder / "sub", 0.1)
streaming.inject(folder / "base.safetensors", folder / "sub", folder / "out.safetensors")
print((peak() - before) / 1024)
"""
    completed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(completed.stdout) < 64, "additional MiB"
