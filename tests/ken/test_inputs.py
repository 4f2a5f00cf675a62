"""What people bring: other bases, wrapped names, adapters, other formats, extended vocabularies, and what is said."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import ken
from ken import streaming
from ken.checkpoint_files import INDEX
from ken.subnetwork import Subnetwork
from tests.conftest import MODELS
from tests.ken.test_streaming import save_sharded
from tests.ken.test_subnetwork import models, same


def body(layers: int = 3, width: int = 8) -> dict[str, torch.Tensor]:
    """A small body with the names of a BERT."""
    torch.manual_seed(0)
    tensors = {"embeddings.word_embeddings.weight": torch.randn(50, width)}
    for layer in range(layers):
        for part in ("attention.self.query", "attention.self.key", "output.dense"):
            tensors[f"encoder.layer.{layer}.{part}.weight"] = torch.randn(width, width)
            tensors[f"encoder.layer.{layer}.{part}.bias"] = torch.randn(width)
    return tensors


def tuned(tensors: dict, head: bool = True) -> dict[str, torch.Tensor]:
    """The same after fine-tuning, with a head."""
    torch.manual_seed(1)
    moved = {name: tensor + 0.1 * torch.randn(tensor.shape) for name, tensor in tensors.items()}
    return moved | ({"classifier.weight": torch.randn(2, 8), "classifier.bias": torch.zeros(2)} if head else {})


def folder(path, tensors: dict, **config):
    """A checkpoint folder."""
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    if config:
        (path / "config.json").write_text(json.dumps(config))
    return path


def refused(pretrained, finetuned, tmp_path, message: str, **options) -> None:
    """Neither `prune` nor `extract` accepts the pair, and no file is left."""
    with pytest.raises(ValueError, match=message):
        ken.prune(pretrained, finetuned, tmp_path / "out", 3, **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=message):
        Subnetwork.extract(pretrained, finetuned, 3, **options)


# Another base.


@pytest.mark.parametrize("model", MODELS)
def test_a_base_of_another_architecture_is_refused(model, checkpoints, finetuned_cells, tmp_path):
    other = "bert" if model != "bert" else "distilbert"
    message = "is a .* model and .* a .* model .*give the base that the model was fine-tuned from"
    refused(checkpoints[other], finetuned_cells[model], tmp_path, message, allow_head=True)


def test_a_base_that_shares_little_is_refused_even_with_a_head_allowed(tmp_path):
    base = folder(tmp_path / "base", body())
    other = {name.replace("encoder.layer", "transformer.block"): tensor for name, tensor in tuned(body()).items()}
    folder(tmp_path / "tuned", other)
    message = r"% of .*tuned has pre-trained values in .*, which shares \d+% of its own; transformer.block.* have none"
    refused(base, tmp_path / "tuned", tmp_path, message, allow_head=True)


def test_a_large_head_is_named_and_has_to_be_allowed(tmp_path):
    base = folder(tmp_path / "base", body())
    large = folder(tmp_path / "tuned", tuned(body()) | {"classifier.dense.weight": torch.randn(16, 8)})
    refused(base, large, tmp_path, r"1\d\.\d% of .* has no pre-trained value .*: classifier\..* allow such a head")
    assert ken.prune(base, large, tmp_path / "sub", 3, allow_head=True) == []
    assert set(Subnetwork.load(tmp_path / "sub").whole) == {
        "classifier.weight", "classifier.bias", "classifier.dense.weight"
    }  # fmt: skip


def test_the_head_of_tensors_in_memory_is_the_callers(tmp_path):
    large = tuned(body()) | {"classifier.dense.weight": torch.randn(16, 8)}
    assert Subnetwork.extract(body(), large, 3).head_size == 18 + 128


def test_swapped_models_are_refused(tmp_path):
    base, classifier = folder(tmp_path / "base", body()), folder(tmp_path / "tuned", tuned(body()))
    refused(classifier, base, tmp_path, r"has a head \(classifier.bias, classifier.weight\) .* probably swapped")


def test_a_model_that_was_not_fine_tuned_is_refused_and_a_frozen_body_is_told(tmp_path):
    base = folder(tmp_path / "base", body())
    with pytest.raises(ValueError, match=r"has the same values as .* everywhere"):
        ken.prune(base, base, tmp_path / "sub", 3)
    assert not (tmp_path / "sub").exists()
    frozen = folder(tmp_path / "frozen", body() | {"classifier.bias": torch.ones(2)})
    assert "only the head differs" in ken.prune(base, frozen, tmp_path / "sub", 3)[0]


# Names.

WRAPPED = {
    "FSDP": lambda name: name.replace("encoder.layer.0.", "encoder.layer.0._fsdp_wrapped_module."),
    "nested": lambda name: f"_orig_mod.module.{name.replace('.attention', '._checkpoint_wrapped_module.attention')}",
    "peft": lambda name: f"base_model.model.{name}",
    "all": lambda name: f"module._fsdp_wrapped_module.base_model.model._orig_mod.{name}",
    "inner": lambda name: name.replace("encoder.layer.", "encoder.module.layer.module."),
}


@pytest.mark.parametrize("where", ["memory", "folder", "base"])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_inside_names_are_taken_off(wrapper, where, tmp_path):
    pair = [body(), tuned(body())]
    expected = Subnetwork.extract(*pair, 3)
    side = 0 if where == "base" else 1
    pair[side] = {WRAPPED[wrapper](name): tensor for name, tensor in pair[side].items()}
    if where == "folder":
        pair[1] = folder(tmp_path / "wrapped", pair[1])
    found = Subnetwork.extract(*pair, 3)
    assert found.masks.keys() == expected.masks.keys() and found.whole.keys() == expected.whole.keys()
    assert found.base == expected.base
    found.save(tmp_path / "sub")
    ken.inject(pair[0], tmp_path / "sub", tmp_path / "out.safetensors")
    restored = load_file(tmp_path / "out.safetensors")
    assert all(same(restored[name], tensor) for name, tensor in expected.apply(body()).items())


def test_an_unknown_wrapper_is_refused(tmp_path):
    base = folder(tmp_path / "base", body())
    names = {name: name.replace("encoder.layer.", "encoder._mine.layer.") for name in body()}
    wrapped = folder(tmp_path / "tuned", {names.get(name, name): tensor for name, tensor in tuned(body()).items()})
    refused(base, wrapped, tmp_path, "lacks|has pre-trained values|no pre-trained value", allow_head=True)


def test_names_that_become_one_are_refused():
    with pytest.raises(ValueError, match=r"'a.w' and '_orig_mod.a.w' are both 'a.w' without their wrappers"):
        ken.fingerprint({"a.w": torch.ones(2), "_orig_mod.a.w": torch.ones(2)})


def test_a_module_of_that_name_keeps_it():
    tensors = {"encoder.module.weight": torch.randn(4, 4), "embed.weight": torch.randn(9, 4)}
    assert set(Subnetwork.extract(tensors, tuned(tensors, head=False), 2).masks) == set(tensors)


def test_prefixes_of_several_parts_fit_and_two_prefixes_are_told():
    deep = {f"net.bert.{name}": tensor for name, tensor in tuned(body()).items()}
    assert set(Subnetwork.extract(body(), deep, 3).masks) == {f"net.bert.{name}" for name in body()}
    other = {f"roberta.{name}": tensor for name, tensor in body().items()}
    with pytest.raises(ValueError, match=r"with another prefix \('net\.bert\.' and 'roberta\.'\): rename"):
        Subnetwork.extract(other, deep, 3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: torch.compile(nn.DataParallel(net))])
def test_a_wrapped_live_model(wrap):
    net = Net()
    base = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    subnetwork, wrapped = Subnetwork.extract(wrap(net), {name: t + 1 for name, t in base.items()}, 2), wrap(net)
    subnetwork.inject(wrapped)
    assert not torch.equal(net.layer.weight, base["layer.weight"])
    subnetwork.eject(net)
    assert all(torch.equal(tensor, base[name]) for name, tensor in net.state_dict().items())


# Files.


def test_a_tensor_that_the_index_names_and_no_shard_holds_is_refused(tmp_path):
    save_sharded(tuned(body()), tmp_path / "tuned")
    index = json.loads((tmp_path / "tuned" / INDEX).read_text())
    index["weight_map"]["encoder.layer.9.w"] = "model-00002-of-00002.safetensors"
    (tmp_path / "tuned" / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names tensor 'encoder.layer.9.w' in model-00002-of-00002.safetensors"):
        ken.fingerprint(tmp_path / "tuned")


def test_of_a_tensor_in_two_shards_the_one_of_the_index_is_read(tmp_path):
    save_sharded({"a": torch.zeros(3), "b": torch.ones(3)}, tmp_path / "model")
    save_file({"a": torch.full((3,), 7.0), "b": torch.ones(3)}, tmp_path / "model" / "model-00002-of-00002.safetensors")
    assert ken.fingerprint(tmp_path / "model") == ken.fingerprint({"a": torch.zeros(3), "b": torch.ones(3)})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pytorch_model.bin", b"PK\x03\x04", "is a pickle, which is not read .* save_pretrained"),
        ("model.pt", b"\x80\x02}q\x00.", "is a pickle"),
        ("weights", b"PK\x03\x04" + b"\0" * 50, "is a pickle"),
        ("model.gguf", b"GGUF\x03\0\0\0" + b"\0" * 50, "is a GGUF file, which is not read"),
        ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS .* `git lfs pull`"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}", "is truncated or no safetensors file"),
    ],
)
def test_files_of_other_formats(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ken.fingerprint(tmp_path / name)


def test_an_adapter_is_to_be_merged_first(tmp_path):
    lora = {"base_model.model.encoder.layer.0.query.lora_A.weight": torch.ones(2, 8)}
    (tmp_path / "adapter").mkdir()
    save_file(lora, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"holds an adapter .*merge it into its base first"):
        ken.fingerprint(tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter, not a whole model: merge it into its base first"):
        ken.fingerprint(tmp_path / "adapter")
    for i, added in enumerate(("query.lora_B.default", "query.ia3_l", "query.base_layer", "modules_to_save.default")):
        unmerged = folder(tmp_path / f"unmerged{i}", body() | {f"encoder.layer.0.{added}.weight": torch.ones(8, 2)})
        with pytest.raises(ValueError, match="merge it into its base first"):
            ken.fingerprint(unmerged)


def test_a_live_model_with_an_adapter_is_to_be_merged_first():
    from peft import LoraConfig, get_peft_model

    net = Net()
    base = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    adapted = get_peft_model(net, LoraConfig(r=2, target_modules=["layer"]))
    with pytest.raises(ValueError, match=r"holds an adapter.*merge it into its base first"):
        Subnetwork.extract(base, adapted, 2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter += 1
    assert set(Subnetwork.extract(base, adapted.merge_and_unload(), 2).masks) == set(base)


def test_a_path_with_a_hash_and_one_that_is_almost_right(tmp_path):
    base, finetuned = folder(tmp_path / "my#base", body()), folder(tmp_path / "my#model", tuned(body()))
    streaming.prune(str(base), str(finetuned), tmp_path / "a#b", 3)
    streaming.inject(str(base), tmp_path / "a#b", tmp_path / "restored#1")
    with pytest.raises(ValueError, match=r'does not exist.* Did you mean "my#base"'):
        ken.fingerprint(tmp_path / "my#bas")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    base = folder(tmp_path / "base", body())
    streaming.prune(base, tuned(body()), tmp_path / "sub", 3)
    import builtins

    def denied(path, *rest, **more):
        if str(path).startswith(str(tmp_path)):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest, **more)

    opened = builtins.open
    monkeypatch.setattr(builtins, "open", denied)
    for read in (lambda: ken.fingerprint(base), lambda: Subnetwork.load(tmp_path / "sub")):
        with pytest.raises(ValueError, match=r"may not be read \(permission denied\): ask its owner"):
            read()


def test_a_header_is_read_once(tmp_path, monkeypatch):
    from ken import safetensors_files

    base = folder(tmp_path / "base", body())
    opened = []
    monkeypatch.setattr(safetensors_files, "safe_open", lambda path, **how: opened.append(path) or real(path, **how))
    from safetensors import safe_open as real

    streaming.prune(base, tuned(body()), tmp_path / "sub", 3)
    assert len(opened) == 1


# Vocabularies, ties and buffers.


@pytest.mark.parametrize("rule", ["reset", "rescale"])
def test_rows_of_an_extended_vocabulary_are_kept(rule, tmp_path):
    base = body() | {"lm_head.bias": torch.randn(50)}
    longer = tuned(base)
    name = "embeddings.word_embeddings.weight"
    longer[name] = torch.cat([longer[name], torch.randn(3, 8)])
    longer["lm_head.bias"] = torch.cat([longer["lm_head.bias"], torch.randn(3)])
    folders = folder(tmp_path / "base", base), folder(tmp_path / "tuned", longer)
    notes = streaming.prune(*folders, tmp_path / "sub", 2, rule=rule)
    assert notes == ["the vocabulary was extended from 50 to 53 rows; the new rows are kept like a head"]
    streaming.inject(folders[0], tmp_path / "sub", tmp_path / "out.safetensors")
    restored, subnetwork = load_file(tmp_path / "out.safetensors"), Subnetwork.load(tmp_path / "sub")
    assert all(same(restored[key], tensor) for key, tensor in subnetwork.apply(base).items())
    assert same(restored[name][50:], longer[name][50:]) and (subnetwork.masks[name][:50].sum(1) == 2).all()
    assert subnetwork.masks["lm_head.bias"][50:].all() and subnetwork.masks["lm_head.bias"].sum() <= 5
    if rule == "reset":
        assert same(restored["lm_head.bias"][50:], longer["lm_head.bias"][50:])


def test_an_extended_vocabulary_in_a_live_model():
    class Model(nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.embed = nn.Embedding(rows, 4)

    small, large = Model(20), Model(22)
    base = {"embed.weight": small.embed.weight.detach().clone()}
    subnetwork = Subnetwork.extract(base, {"embed.weight": torch.randn(22, 4)}, 1)
    with torch.no_grad():
        large.embed.weight[:20] = base["embed.weight"]
    before = large.embed.weight.detach().clone()
    subnetwork.inject(large)
    assert torch.equal(large.embed.weight.detach(), subnetwork.apply(base)["embed.weight"])
    subnetwork.eject(large)
    assert torch.equal(large.embed.weight.detach(), before)


@pytest.mark.parametrize("values", ["32bit", "16bit"])
def test_a_live_model_with_new_rows_that_cannot_be_told_apart_is_refused_with_advice(values, tmp_path):
    base = {"embed.weight": torch.randn(20, 4), "layer.weight": torch.randn(4, 4)}
    finetuned = {"embed.weight": torch.randn(22, 4), "layer.weight": torch.randn(4, 4)}
    streaming.prune(base, finetuned, tmp_path / "sub", 1.0, values=values)
    subnetwork = Subnetwork.load(tmp_path / "sub")
    model = nn.ModuleDict({"embed": nn.Embedding(22, 4), "layer": nn.Linear(4, 4, bias=False)})
    with torch.no_grad():
        model["embed"].weight[:20] = base["embed.weight"]
        model["layer"].weight.copy_(base["layer.weight"])
    with pytest.raises(ValueError, match=r"fingerprint .*fill the new rows of the model with zeros first\.$"):
        subnetwork.inject(model)
    with torch.no_grad():
        model["embed"].weight[20:] = 0
    subnetwork.inject(model)
    restored = subnetwork.apply(base)
    assert all(torch.equal(tensor, restored[name]) for name, tensor in model.state_dict().items())


def test_a_head_with_more_classes_is_no_extended_vocabulary():
    base = body() | {"classifier.weight": torch.randn(2, 8)}
    longer = tuned(base, head=False) | {"classifier.weight": torch.randn(3, 8)}
    with pytest.raises(ValueError, match=r"'classifier.weight' is .* \(3, 8\) fine-tuned but .* \(2, 8\) pre-trained"):
        Subnetwork.extract(base, longer, 2)


def test_a_base_with_every_tied_name_beside_a_model_with_one(tmp_path):
    shared = torch.randn(20, 4)
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    layers = {f"{part}.block.0.q.weight": torch.randn(4, 4) for part in ("encoder", "decoder")}
    base = folder(tmp_path / "base", {name: shared.clone() for name in names} | layers)
    finetuned = folder(tmp_path / "tuned", tuned({"shared.weight": shared} | layers, head=False))
    streaming.prune(base, finetuned, tmp_path / "sub", 2)
    assert set(Subnetwork.load(tmp_path / "sub").masks) == {"shared.weight", *layers}
    streaming.inject(base, tmp_path / "sub", tmp_path / "out.safetensors")
    base = {name: shared.clone() for name in names} | layers
    base["decoder.embed_tokens.weight"] += 1
    with pytest.raises(ValueError, match=r"lacks 1 pre-trained tensors of .* such as 'decoder.embed_tokens.weight'"):
        Subnetwork.extract(base, finetuned, 2)


def test_a_lost_parameter_is_refused_and_a_mask_that_no_layer_has_is_not():
    base = {f"h.{i}.attn.{name}": torch.randn(4, 4) for i in (0, 1) for name in ("c.weight", "c.bias", "scale")}
    mask = {f"h.{i}.attn.bias": torch.ones(1, 1, 4, 4) for i in (0, 1)}
    for lost in ("h.0.attn.c.weight", "h.1.attn.c.bias", "h.0.attn.scale"):
        short = {name: tensor for name, tensor in tuned(base, head=False).items() if name != lost}
        with pytest.raises(ValueError, match=rf"lacks 1 pre-trained tensors of .* such as '{lost}'"):
            Subnetwork.extract(base | mask, short, 2)
    assert set(Subnetwork.extract(base | mask, tuned(base, head=False), 2).masks) == set(base)


def test_a_tied_name_that_only_the_fine_tuned_file_saved_is_no_head(tmp_path):
    base = body()
    longer = tuned(base)
    longer["lm_head.weight"] = longer["embeddings.word_embeddings.weight"].clone()
    pair = folder(tmp_path / "base", base), folder(tmp_path / "tuned", longer)
    streaming.prune(*pair, tmp_path / "sub", 2)
    stored = Subnetwork.load(tmp_path / "sub")
    assert set(stored.whole) == {"classifier.weight", "classifier.bias"}
    assert stored.aliases == {"lm_head.weight": "embeddings.word_embeddings.weight"}
    streaming.inject(pair[0], tmp_path / "sub", tmp_path / "out.safetensors")
    restored = load_file(tmp_path / "out.safetensors")
    assert same(restored["lm_head.weight"], restored["embeddings.word_embeddings.weight"])
    assert restored.keys() == stored.apply(base).keys()


def test_a_buffer_of_minus_infinity_that_is_equal_in_both_is_accepted(tmp_path):
    mask = {"encoder.mask": torch.full((4, 4), -torch.inf).triu(1)}
    pair = folder(tmp_path / "base", body() | mask), folder(tmp_path / "tuned", tuned(body()) | mask)
    streaming.prune(*pair, tmp_path / "sub", 2, rule="rescale")
    streaming.inject(pair[0], tmp_path / "sub", tmp_path / "out.safetensors")
    assert same(load_file(tmp_path / "out.safetensors")["encoder.mask"], mask["encoder.mask"])
    ranks = ken.selection.rank_tensors(tuned(body()) | mask, body() | mask)
    ranked = Subnetwork.from_ranks(*pair, ranks, 2)
    assert ranked.counts["encoder.mask"] == (0, 16) and ranked.base == Subnetwork.load(tmp_path / "sub").base
    other = tuned(body()) | {"encoder.mask": mask["encoder.mask"].T.contiguous()}
    with pytest.raises(ValueError, match=r"tensor 'encoder.mask': fine-tuned values must be finite"):
        Subnetwork.extract(body() | mask, other, 2)
    with pytest.raises(ValueError, match=r"tensor 'encoder.mask': fine-tuned values must be finite"):
        bad = {"encoder.mask": torch.full((4, 4), torch.nan)}
        Subnetwork.extract(body() | bad, tuned(body()) | bad, 2)


# What belongs to a model besides its weights.

COMPANIONS = (
    "tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json", "modules.json",
    "config_sentence_transformers.json", "1_Pooling/config.json", "additional_chat_templates/tools.jinja", "LICENSE",
)  # fmt: skip
LEFT = ("pytorch_model.bin", "optimizer.pt", "model.py", "README.md", ".cache/x.json", "runs/a.json", "2_Dense/a.bin")


def test_companions_come_with_the_injected_model(tmp_path):
    base, finetuned = folder(tmp_path / "base", body()), folder(tmp_path / "tuned", tuned(body()))
    for name in (*COMPANIONS, *LEFT):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("base")
    (finetuned / "chat_template.jinja").write_text("tuned")
    streaming.prune(base, finetuned, tmp_path / "sub", 2)
    streaming.inject(base, tmp_path / "sub", tmp_path / "a")
    streaming.inject(base, tmp_path / "sub", tmp_path / "b", companions=finetuned)
    written = {os.path.relpath(os.path.join(at, name), tmp_path / "a") for at, _, files in os.walk(tmp_path / "a")
               for name in files}  # fmt: skip
    assert written == {*COMPANIONS, "model.safetensors"}
    texts = [(tmp_path / made / "chat_template.jinja").read_text() for made in "ab"]
    assert texts == ["base", "tuned"]
    with pytest.raises(ValueError, match="is no folder"):
        streaming.inject(base, tmp_path / "sub", tmp_path / "c", companions=tmp_path / "absent")


def test_models_with_integer_buffers_still_fit():
    pretrained, finetuned = models()
    assert "ids" in Subnetwork.extract(pretrained, finetuned, 2).whole


def masked(kind):
    from transformers import (
        AlbertConfig,
        AlbertForMaskedLM,
        BertConfig,
        BertForMaskedLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    if kind == "bert":
        return BertForMaskedLM(BertConfig(**size, vocab_size=60))
    if kind == "albert":
        return AlbertForMaskedLM(AlbertConfig(**size, vocab_size=60, embedding_size=8))
    return T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=60))


@pytest.mark.parametrize("kind", ["bert", "albert", "t5"])
def test_models_with_tied_layers_however_they_were_saved(kind, tmp_path):
    base, model = masked(kind), masked(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    for name, made in (("base", base), ("tuned", model)):
        made.save_pretrained(tmp_path / name)  # tied tensors once
        every_name = {key: tensor.clone() for key, tensor in made.state_dict().items()}
        folder(tmp_path / f"{name}-every", every_name, **made.config.to_dict())
    for number, pair in enumerate([("base", "tuned"), ("base-every", "tuned"), ("base", "tuned-every")]):
        pretrained, finetuned = (tmp_path / name for name in pair)
        streaming.prune(pretrained, finetuned, tmp_path / f"sub{number}", 0.1)
        streaming.inject(pretrained, tmp_path / f"sub{number}", tmp_path / f"out{number}")
        restored, info = type(model).from_pretrained(tmp_path / f"out{number}", output_loading_info=True)
        expected = Subnetwork.load(tmp_path / f"sub{number}").apply(pretrained)
        state = restored.state_dict()
        assert not info["missing_keys"] and all(same(state[name], tensor) for name, tensor in expected.items())
        assert Subnetwork.load(tmp_path / f"sub{number}").head_size == 0


def test_a_base_of_the_same_architecture_that_is_another_model_is_doubted(tmp_path):
    torch.manual_seed(5)
    other = {name: torch.randn(tensor.shape) for name, tensor in body().items()}
    assert streaming.prune(body(), tuned(body()), tmp_path / "right", 2) == []
    (note,) = streaming.prune(other, tuned(body()), tmp_path / "wrong", 2)
    assert (
        note.startswith("the weights differ from those of dict by 139% of their size")
        and "check that the model was" in note
    )
