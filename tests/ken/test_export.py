"""`ken export --peft`: peft itself loads the adapter, and its answers are those of the restored `svd` method."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines import METHODS, Cell
from ken import cli
from ken.pairing import Pair
from ken.peft_export import export_peft
from tests.baselines.storing import store_and_restore

TOLERANCE = 2e-6  # of the largest logit: sums in float32 in another order
MODELS = ("bert", "distilbert", "deberta", "ernie", "electra", "bloom-560m")
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 300}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4}
OTHERS = {  # a convolution; weights (inputs, outputs); a head of two layers; no biases; a task; images
    "deberta-v2": ("DebertaV2ForSequenceClassification", TINY | RELATIVE | {"conv_kernel_size": 3}),
    "gpt2": (
        "GPT2ForSequenceClassification",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 300, "pad_token_id": 0},
    ),
    "roberta": ("RobertaForSequenceClassification", TINY),
    "llama": ("LlamaForSequenceClassification", TINY | {"pad_token_id": 0}),
    "bert": ("BertForTokenClassification", TINY),
    "convnext": (
        "ConvNextForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2},
    ),
}


def classifier(folder, like=None):
    """The model in a folder, or of the class of another with the body of this folder."""
    from transformers import AutoModelForSequenceClassification

    labels = {"num_labels": like.config.num_labels} if like else {}
    kind = type(like) if like else AutoModelForSequenceClassification
    return kind.from_pretrained(folder, dtype=torch.float32, **labels).eval()


def disturb(model, seed=0) -> None:
    """Change every parameter, so that no part of an adapter is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module")
def pairs(checkpoints, finetuned_cells, tmp_path_factory):
    """Model name -> folders of a base and a fine-tuned classifier all of whose tensors differ from it."""
    import transformers

    root = tmp_path_factory.mktemp("pairs")
    folders = {model: (checkpoints[model], root / model) for model in MODELS}
    models = {model: classifier(finetuned_cells[model]) for model in MODELS}
    for kind, (name, settings) in OTHERS.items():
        torch.manual_seed(1)
        config = transformers.AutoConfig.for_model(kind, num_labels=3, **settings)
        models[name] = getattr(transformers, name)(config)
        body = models[name].base_model
        disturb(body, seed=1)  # biases are zero at first
        body.save_pretrained(root / f"{name}-base")
        folders[name] = (root / f"{name}-base", root / name)
    for name, model in models.items():
        disturb(model)
        model.save_pretrained(folders[name][1])
    return folders


def restored(base, tuned, rank, path):
    """The fine-tuned model with the tensors that the method `svd` restores."""
    import transformers

    name = json.loads((tuned / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(tuned, dtype=torch.float32).eval()
    finetuned = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pair = Pair.opened(base, model, allow_head=True)
    pretrained = {key: pair.base.tensor(name).clone() for key, name in pair.body.items()}
    cell = Cell(pretrained, finetuned, 0, model)
    model.load_state_dict(store_and_restore(METHODS["svd"], cell, rank, path)[1])
    return model


@torch.no_grad()
def logits(model):
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        return model(pixel_values=torch.randn(4, 3, 16, 16, generator=generator)).logits
    ids = torch.randint(5, 250, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return model(input_ids=ids, attention_mask=mask).logits


def assert_same(found, expected):
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.filterwarnings("error:.*missing adapter keys.*")
@pytest.mark.parametrize("model", [*MODELS, *(name for name, _ in OTHERS.values())])
@pytest.mark.parametrize("rank", [1, 4, 100])
def test_peft_answers_like_svd(model, rank, pairs, tmp_path):
    import peft

    base, tuned = pairs[model]
    exported = export_peft(base, tuned, tmp_path / "adapter", rank, allow_head=True)
    expected = restored(base, tuned, rank, tmp_path / "svd")
    adapted = peft.PeftModel.from_pretrained(classifier(base, expected), tmp_path / "adapter").eval()
    assert_same(logits(adapted), logits(expected))
    file = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert peft.set_peft_model_state_dict(adapted, file).unexpected_keys == []
    merged = adapted.merge_and_unload()
    assert_same(logits(merged), logits(expected))
    state = expected.state_dict()
    for name, tensor in merged.state_dict().items():
        assert torch.allclose(tensor, state[name], rtol=1e-5, atol=1e-6), name
    assert exported.rank <= rank and (exported.captured > 0.999999 if rank == 100 else exported.captured < 0.999)


def test_the_command_and_the_tools_of_peft(pairs, tmp_path, capsys):
    """The folder also loads by the auto class, is written again by peft, and is the same when exported again."""
    import peft

    base, tuned = pairs["electra"]
    out, twice = tmp_path / "adapter", tmp_path / "again"
    arguments = ["export", "--peft", "--pretrained", str(base), "--finetuned", str(tuned), "--rank", "4"]
    cli.main([*arguments, "--quiet", "--out", str(out)])
    text = capsys.readouterr()
    size = (out / "adapter_model.safetensors").stat().st_size
    assert f"{size:,} bytes; 16 matrices of rank 4 or less, 6 modules whole (classifier, " in text.out and not text.err
    cli.main([*arguments, "--json", "--out", str(twice)])
    facts = json.loads(capsys.readouterr().out)
    assert facts["file_bytes"] == size and facts["rank"] == 4 and facts["matrices"] == 16 and not facts["notes"]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (out / name).read_bytes() == (twice / name).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]

    adapted = peft.AutoPeftModelForSequenceClassification.from_pretrained(out).eval()
    expected = logits(restored(base, tuned, 4, tmp_path / "svd"))
    assert_same(logits(adapted), expected)
    adapted.save_pretrained(tmp_path / "saved", save_embedding_layers=False)
    assert_same(logits(peft.PeftModel.from_pretrained(classifier(base), tmp_path / "saved").eval()), expected)
    with pytest.raises(ValueError, match="supports only 1 adapter with bias"):
        adapted.load_adapter(out, "other")


def test_parameters_that_peft_does_not_save(pairs, tmp_path, capsys):
    base, tuned = map(str, pairs["deberta"])
    cli.main(["export", "--peft", "--pretrained", base, "--finetuned", tuned, "--rank", "2", "--quiet", "--out",
              str(tmp_path / "adapter")])  # fmt: skip
    assert "note: peft loads deberta.encoder.layer.0.attention.self.q_bias, " in capsys.readouterr().err


@pytest.mark.parametrize("head_changes", [False, True])
@pytest.mark.parametrize("model", ["distilbert", "electra"])
def test_a_base_with_a_head(model, head_changes, pairs, tmp_path):
    """The head of the base is part of its body; peft stores it whole in any case."""
    from peft import PeftModel

    base = pairs[model][1]
    tuned = classifier(base)
    disturb(tuned if head_changes else tuned.base_model)
    tuned.save_pretrained(tmp_path / "tuned")
    export_peft(base, tmp_path / "tuned", tmp_path / "adapter", 3)
    adapted = PeftModel.from_pretrained(classifier(base), tmp_path / "adapter").eval()
    assert_same(logits(adapted), logits(restored(base, tmp_path / "tuned", 3, tmp_path / "svd")))


def test_only_what_changed_is_stored(pairs, tmp_path):
    """Weights in 16 bits: rows that did not change stay, unchanged layers get no factors."""
    from peft import PeftModel

    base = classifier(pairs["bert"][1]).bfloat16()
    base.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        base.bert.embeddings.word_embeddings.weight[7:9] += 0.5
        base.bert.encoder.layer[0].output.dense.weight += 0.1 * torch.randn(16, 32).bfloat16()
        base.bert.encoder.layer[1].output.dense.bias += 0.5
    base.save_pretrained(tmp_path / "tuned")
    export_peft(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter", 4)
    names = {
        name.removeprefix("base_model.model.") for name in load_file(tmp_path / "adapter/adapter_model.safetensors")
    }
    assert names == {
        "bert.embeddings.word_embeddings.lora_embedding_A", "bert.embeddings.word_embeddings.lora_embedding_B",
        "bert.encoder.layer.0.output.dense.lora_A.weight", "bert.encoder.layer.0.output.dense.lora_B.weight",
        "bert.encoder.layer.1.output.dense.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    base = classifier(tmp_path / "base")
    before = base.bert.embeddings.word_embeddings.weight.clone()
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    changed = (merged.bert.embeddings.word_embeddings.weight != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [7, 8]


def edited(folder, out, config=None, tensors=None):
    """A copy of a checkpoint with other settings or tensors."""
    shutil.copytree(folder, out)
    settings = json.loads((out / "config.json").read_text()) | (config or {})
    (out / "config.json").write_text(json.dumps(settings))
    state = load_file(out / "model.safetensors")
    for name, change in (tensors or {}).items():
        state[name] = change(state[name])
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize(
    ("config", "tensors", "sentence"),
    [
        ({"architectures": None}, {}, "names no architecture"),
        ({"architectures": ["BertForNothing"]}, {}, "transformers has no class 'BertForNothing'"),
        ({"architectures": ["BertForMaskedLM"]}, {}, "ties 'cls.predictions.decoder.weight'"),
        ({"architectures": ["BertForMultipleChoice"], "hidden_size": 17}, {}, "describes no BertForMultipleChoice"),
        ({"architectures": ["BertModel"]}, {}, "has no tensor 'classifier.bias'"),
        ({"num_hidden_layers": 3}, {}, "lacks tensor 'bert.encoder.layer.2.attention.output.LayerNorm.bias'"),
        ({"intermediate_size": 31}, {}, "is .* by its config.json"),
        ({}, {"bert.embeddings.LayerNorm.bias": lambda tensor: tensor / 0}, "an update that is not finite"),
        ({}, {"bert.embeddings.word_embeddings.weight": lambda tensor: torch.cat([tensor, tensor[:2]])},
         "vocabulary was extended .* which an adapter cannot express"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_exported(config, tensors, sentence, pairs, tmp_path):
    base, tuned = pairs["bert"]
    with pytest.raises(SystemExit, match=sentence):
        run(base, edited(tuned, tmp_path / "tuned", config, tensors), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def run(base, tuned, out, rank=2):
    cli.main(["export", "--peft", "--pretrained", str(base), "--finetuned", str(tuned), "--rank", str(rank), "--quiet",
              "--out", str(out)])  # fmt: skip


def test_a_head_whose_name_ends_like_those_of_layers(pairs, tmp_path, monkeypatch):
    """peft would take the layers "out_lin" for the module "lin" of a head."""
    from peft import PeftModel

    from ken import peft_layout

    monkeypatch.setattr(peft_layout, "TASKS", {"ForSequenceClassification": ("SEQ_CLS", ("classifier", "lin"))})
    base, tuned = pairs["distilbert"]
    whole = export_peft(base, tuned, tmp_path / "adapter", 3).modules
    assert "distilbert.transformer.layer.0.attention.q_lin" in whole and "classifier" in whole
    expected = restored(base, tuned, 3, tmp_path / "svd")
    adapted = PeftModel.from_pretrained(classifier(base, expected), tmp_path / "adapter").eval()
    assert_same(logits(adapted), logits(expected))


def test_bad_input(pairs, tmp_path, monkeypatch):
    base, tuned = pairs["bert"]
    with pytest.raises(SystemExit, match="the rank is 0, expected at least 1"):
        run(base, tuned, tmp_path / "adapter", rank=0)
    with pytest.raises(SystemExit, match="exists already: name a new folder"):
        run(base, tuned, tmp_path)
    with pytest.raises(SystemExit, match="No such file or directory"):
        run(base, tuned, tmp_path / "nowhere" / "adapter")
    with pytest.raises(SystemExit, match="has no config"):
        run(base, tuned / "model.safetensors", tmp_path / "adapter")
    with pytest.raises(SystemExit, match="is a distilbert model and"):
        run(base, pairs["distilbert"][1], tmp_path / "adapter")
    classifier(tuned).base_model.save_pretrained(tmp_path / "body")
    with pytest.raises(SystemExit, match="changed no linear layer and no embedding"):
        run(tmp_path / "body", tuned, tmp_path / "adapter")
    run(base, tuned, tmp_path / "adapter")
    with pytest.raises(SystemExit, match="holds an adapter"):
        run(base, tmp_path / "adapter", tmp_path / "other")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SystemExit, match=r'peft is not installed: pip install "ken-benchmark\[peft\]"'):
        run(base, tuned, tmp_path / "other")
    assert not (tmp_path / "other").exists()
