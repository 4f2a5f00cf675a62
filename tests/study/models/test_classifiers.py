"""Loading classifiers of many architectures: new heads, tied tensors, and a cell of each from checkpoint to scores."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from study.cells.cell_training import CellTraining
from study.cells.finetuned_cell import FinetunedCell
from study.cells.suggest import suggest
from study.compress import compress
from study.finetune import finetune
from study.import_model import import_model
from study.models.classifiers import load_classifier, load_tokenizer
from study.models.tokenization import train_tokenizer
from study.training.examples import encode, load_task, predict
from tests.conftest import SETTINGS, make_texts
from tests.study.test_cells import EVALUATION

AXES = {"model": "m", "task": "words", "seed": 0}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
CONFIGS = {
    "Bert": SHAPE,
    "Roberta": SHAPE,
    "Electra": SHAPE,
    "DebertaV2": SHAPE,
    "Bart": BART,
    "MBart": BART,
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "XLNet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32},
    "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "Llama": SHAPE,
}


def make_classifier(folder, architecture: str, labels: list[str] = ("tool", "fruit"), **changed):
    """Write a whole classifier, with a head, and a tokenizer whose texts end with an end token."""
    tokenizer = train_tokenizer("wordpiece", make_texts(), 320, 24)
    tokenizer.eos_token = tokenizer.sep_token
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.sep_token_id, "bos_token_id": 2}
    ids["decoder_start_token_id"] = tokenizer.sep_token_id
    settings = CONFIGS[architecture] | ids | {"vocab_size": len(tokenizer), "id2label": dict(enumerate(labels))}
    settings["label2id"] = {label: index for index, label in enumerate(labels)}
    config = getattr(transformers, f"{architecture}Config")(**settings | changed)
    torch.manual_seed(1)
    model = getattr(transformers, f"{architecture}ForSequenceClassification")(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("labels", [["tool", "fruit"], ["a", "b", "c"]], ids=len)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_head_is_new_even_if_the_checkpoint_has_one(architecture, labels, tmp_path):
    own = make_classifier(tmp_path, architecture, labels).state_dict()
    torch.manual_seed(0)
    model, head = load_classifier(tmp_path, ["fruit", "tool"], 0)
    assert model.config.id2label == {0: "fruit", 1: "tool"}
    assert head == sorted(name for name in own if not name.startswith(f"{model.base_model_prefix}."))
    for name, tensor in model.state_dict().items():
        if name not in head:
            assert torch.equal(tensor, own[name])
        elif own[name].shape == tensor.shape and "bias" not in name:
            assert not torch.equal(tensor, own[name])
    torch.manual_seed(0)
    again, _ = load_classifier(tmp_path, ["fruit", "tool"], 0)
    assert all(torch.equal(again.state_dict()[name], model.state_dict()[name]) for name in head)


def test_the_manifest_says_that_a_head_was_replaced(tmp_path, checkpoints, task_folder, finetuned_cells, capsys):
    make_classifier(tmp_path / "with-head", "Bert", ["tool", "fruit"])
    import_model(tmp_path / "with-head", "m", tmp_path / "imported")
    manifest = finetune(tmp_path / "imported", task_folder, AXES, SETTINGS, tmp_path / "cell")
    sentence = "The checkpoint's own classification head (labels: tool, fruit) was replaced by a new one."
    assert manifest["replaced_head"] == sentence and sentence in capsys.readouterr().out
    assert manifest["head"] == ["classifier.bias", "classifier.weight"]
    assert "replaced_head" not in json.loads((finetuned_cells["bert"] / "manifest.json").read_text())
    compress(FinetunedCell(tmp_path / "cell", task_folder, EVALUATION), ["none"], tmp_path / "out")
    kept = pd.read_csv(tmp_path / "out" / "none" / "scores.csv")["kept"][0]
    tuned = load_file(tmp_path / "cell" / "model.safetensors")
    assert kept == sum(tuned[name].numel() for name in manifest["head"]), "the head is kept in full"


def test_a_head_for_another_kind_of_problem_is_replaced(tmp_path, task_folder):
    make_classifier(tmp_path / "model", "Bert", ["score"], problem_type="regression")
    manifest = finetune(tmp_path / "model", task_folder, AXES, SETTINGS, tmp_path / "cell")
    assert manifest["history"][0]["loss"] < 2
    assert json.loads((tmp_path / "cell" / "config.json").read_text())["problem_type"] == "single_label_classification"


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_goes_from_checkpoint_to_scores(architecture, tmp_path, task_folder):
    make_classifier(tmp_path / "model", architecture)
    manifest = finetune(tmp_path / "model", task_folder, AXES, SETTINGS, tmp_path / "cell")
    options = {"lora": {"budgets": [1], "rate_factors": [4]}, "flop": {"budgets": [0.5], "rate_factors": [1]}}
    options |= {"lt-sft": {"budgets": [0.25], "rate_factors": [1]}}
    cell = FinetunedCell(tmp_path / "cell", task_folder, EVALUATION | {"methods": options})
    assert set(cell.initial) == set(cell.finetuned)
    assert sum(tensor.numel() for tensor in cell.initial.values()) == sum(p.numel() for p in cell.model.parameters())
    methods = ["full", "none", "ken", "ken-rescaled", "random", "bitdelta", "lora", "flop", "lt-sft", "fish"]
    compress(cell, methods, tmp_path / "out")
    rows = pd.concat(pd.read_csv(tmp_path / "out" / name / "scores.csv") for name in methods)
    declined = {"lora", "flop", "bitdelta"} if architecture in ("XLNet", "GPT2") else set()  # no torch.nn.Linear
    assert set(rows.loc[rows["status"] != "ok", "method"]) <= declined, rows[["method", "status", "reason"]].to_string()
    full = rows[rows["method"] == "full"].iloc[0]
    assert full["weighted_f1"] == pytest.approx(manifest["weighted_f1"]) and full["kept_share"] == 1
    suggest(cell, {"methods": ["ken"]} | {"margin": 0.5, "confidence": 0.9, "resolution": 0.5}, tmp_path / "suggested")


@pytest.mark.parametrize("architecture", ["T5", "Bart"])
def test_tied_tensors_count_once_and_stay_tied(architecture, tmp_path, task_folder):
    make_classifier(tmp_path / "model", architecture)
    finetune(tmp_path / "model", task_folder, AXES, SETTINGS, tmp_path / "cell")
    cell = FinetunedCell(tmp_path / "cell", task_folder, EVALUATION)
    (shared,) = [name for name in cell.initial if "shared" in name]
    assert not [name for name in cell.initial if "embed_tokens" in name]
    training = CellTraining(tmp_path / "cell", cell.initial, cell.manifest, {}, ())
    for model in (cell.new_model(), training.initial_model()):
        model.load_state_dict(cell.finetuned)
        named = dict(model.named_parameters(remove_duplicate=False))
        same = [tensor for name, tensor in named.items() if "embed_tokens" in name or name == shared]
        assert len(same) == 3 and len({id(tensor) for tensor in same}) == 1
        assert torch.equal(same[0], cell.finetuned[shared])
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "cell").eval()
    cell.model.load_state_dict(cell.finetuned)
    ids = torch.tensor([load_tokenizer(tmp_path / "cell", 24)("A plum and one saw here.")["input_ids"]])
    with torch.inference_mode():
        ours, theirs = cell.model(input_ids=ids).logits, whole(input_ids=ids).logits
    assert np.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("architecture", ["Bert", "GPT2", "Llama"])
def test_a_tokenizer_without_special_tokens_gives_a_batch_the_answers_of_single_texts(
    architecture, tmp_path, task_folder
):
    splits, classes = load_task(task_folder)
    words = sorted({word for text in splits["train"]["text"] for word in text.split()})
    ids = {"vocab_size": len(words), "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    config = getattr(transformers, f"{architecture}Config")(**CONFIGS[architecture] | ids)
    getattr(transformers, f"{architecture}Model")(config).save_pretrained(tmp_path / "model")
    tokenizer = Tokenizer(models.WordLevel(dict(zip(words, range(len(words)), strict=True)), unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "model")
    manifest = finetune(tmp_path / "model", task_folder, AXES, SETTINGS, tmp_path / "cell")
    assert 0 <= manifest["weighted_f1"] <= 1
    cell = FinetunedCell(tmp_path / "cell", task_folder, EVALUATION)
    frame = splits["test"].assign(text=splits["test"]["text"].str.split().str[:3].str.join(" "))
    tested = pd.concat([splits["test"], frame], ignore_index=True)
    examples = encode(tested, classes, load_tokenizer(tmp_path / "cell", 24))
    cell.model.load_state_dict(cell.finetuned)
    assert predict(cell.model, examples, 16).tolist() == predict(cell.model, examples, 1).tolist()
