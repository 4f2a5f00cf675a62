"""Texts in a batch: the answers of single texts, for every architecture and whatever a tokenizer pads with."""

import csv
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from ken import cli
from ken.text import TextClassifier, pad_batch, set_padding
from study.models.classifiers import load_tokenizer
from study.training.examples import Examples
from tests.conftest import MODELS

TEXTS = ["A plum.", "A saw and one drill and one wrench here.", "The pear lies beside the hammer.", "apple " * 60]
CHANGES = {
    "as it is": lambda tokenizer, config: None,
    "left": lambda tokenizer, config: setattr(tokenizer, "padding_side", "left"),
    "another token": lambda tokenizer, config: setattr(tokenizer, "pad_token", tokenizer.unk_token),
    "end token": lambda tokenizer, config: [
        setattr(tokenizer, "eos_token", tokenizer.eos_token or tokenizer.sep_token),
        setattr(tokenizer, "pad_token", tokenizer.eos_token),
        setattr(config, "pad_token_id", tokenizer.eos_token_id),
    ],
    "none": lambda tokenizer, config: setattr(tokenizer, "pad_token", None),
}


@pytest.fixture(scope="module")
def folders(finetuned_cells, tmp_path_factory):
    """Model -> fine-tuned folder, also of models that count positions from the padding, end at it, or read the end."""
    root = tmp_path_factory.mktemp("more")
    made = dict(finetuned_cells)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    for name in ("roberta", "gpt2", "xlnet"):
        tokenizer = AutoTokenizer.from_pretrained(finetuned_cells["bloom-560m" if name == "gpt2" else "bert"])
        vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        torch.manual_seed(0)
        model = {
            "roberta": lambda v=vocabulary: RobertaForSequenceClassification(
                RobertaConfig(**size, **v, max_position_embeddings=40)
            ),
            "gpt2": lambda v=vocabulary: GPT2ForSequenceClassification(
                GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=40, **v)
            ),
            "xlnet": lambda v=vocabulary: XLNetForSequenceClassification(
                XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=32, **v)
            ),
        }[name]()
        with torch.no_grad():  # larger weights: answers that differ
            for parameter in model.parameters():
                parameter.mul_(5)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        made[name] = root / name
    return made


@pytest.fixture(params=[*MODELS, "roberta", "gpt2", "xlnet"])
def model(request):
    return request.param


@pytest.mark.parametrize("change", CHANGES)
def test_a_batch_gives_the_answers_of_single_texts(model, change, folders, tmp_path):
    shutil.copytree(folders[model], tmp_path / "model")
    tokenizer, config = (kind.from_pretrained(tmp_path / "model") for kind in (AutoTokenizer, AutoConfig))
    CHANGES[change](tokenizer, config)
    tokenizer.save_pretrained(tmp_path / "model")
    config.save_pretrained(tmp_path / "model")

    classifier = TextClassifier(str(tmp_path / "model"), str(tmp_path / "model"), max_length=20)
    logits = []
    together = classifier.predictor(TEXTS)(recording(classifier.model, logits))
    rows = [classifier.tokenizer(text, truncation=True, max_length=20)["input_ids"] for text in TEXTS]
    fresh = type(classifier.model).from_pretrained(tmp_path / "model").eval()  # with the configuration of the folder
    with torch.inference_mode():
        alone = torch.cat([fresh(input_ids=torch.tensor([row])).logits for row in rows])
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    torch.testing.assert_close(torch.cat(logits), alone[order], atol=2e-5, rtol=1e-4)
    assert together.tolist() == alone.argmax(1).tolist()

    study = load_tokenizer(tmp_path / "model", 20)
    assert (study.pad_token_id, study.padding_side) == (classifier.pad, classifier.tokenizer.padding_side)


def recording(model, logits):
    def call(**inputs):
        answer = model(**inputs)
        logits.append(answer.logits)
        return answer

    call.device = model.device
    return call


def test_a_study_pads_as_the_command_does(model, folders):
    tokenizer = load_tokenizer(folders[model], 24)
    rows = [tokenizer(text, truncation=True)["input_ids"] for text in TEXTS] + [[]]
    batch = Examples(rows, torch.zeros(5).long().numpy(), tokenizer.pad_token_id, tokenizer.padding_side)
    ids, mask = pad_batch(rows, tokenizer.pad_token_id, "left" if model == "xlnet" else "right")
    found = batch.batch([0, 1, 2, 3, 4])
    assert torch.equal(found["input_ids"], ids) and torch.equal(found["attention_mask"], mask)
    assert mask.sum(1).tolist() == [max(1, len(row)) for row in rows]
    assert mask[4, -1 if model == "xlnet" else 0] == 1


def test_a_text_is_cut_at_the_positions_of_the_model(model, folders, tmp_path):
    shutil.copytree(folders[model], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.model_max_length = 10**30  # names no limit
    tokenizer.save_pretrained(tmp_path / "model")
    classifier = TextClassifier(str(tmp_path / "model"), "", max_length=60)
    assert classifier.predictor(["apple " * 200])(classifier.model).shape == (1,)
    positions = 24 if model in MODELS and "bloom" not in model else {"roberta": 39, "gpt2": 40}.get(model, 60)
    assert classifier.max_length == load_tokenizer(tmp_path / "model", 60).model_max_length == positions


def test_a_tokenizer_without_padding_and_end_token_pads_with_another(checkpoints):
    tokenizer, config = (kind.from_pretrained(checkpoints["bert"]) for kind in (AutoTokenizer, AutoConfig))
    tokenizer.pad_token = tokenizer.eos_token = None
    config.pad_token_id = None
    assert set_padding(tokenizer, config) == tokenizer.pad_token_id == config.pad_token_id is not None


def write_csv(path, rows: int = 20):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([text, "fruit"] for text in TEXTS * (rows // 4))])
    return str(path)


def suggest(base, tuned, path, *more) -> None:
    cli.main(["suggest", "--pretrained", str(base), "--finetuned", str(tuned), "--validation", path, "--quiet", *more])


def test_too_few_rows_for_the_confidence_are_refused(checkpoints, finetuned_cells, tmp_path):
    path = write_csv(tmp_path / "few.csv", 8)
    with pytest.raises(SystemExit, match=r"8 validation examples cannot show at 95% confidence .* give at least 368"):
        suggest(checkpoints["bert"], finetuned_cells["bert"], path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label,label\na,fruit,tool\n", "has 2 columns 'label': rename all but one"),
        ("text,label\na,b,fruit\n", "has more cells than columns in row 1: quote"),
        ('text,label\n"apple,fruit\nsaw,tool\n', "cannot be read as CSV in UTF-8"),
        ("text,label\nsaw,tools\n", r'the label \'tools\', which is not a class .* Did you mean "tool"'),
        ("text,label\nsaw,1.0\n", r"the label '1.0', which is not a class of the model: fruit, tool, 0, 1"),
    ],
)
def test_data_that_would_be_misread_are_refused(content, message, checkpoints, finetuned_cells, tmp_path):
    (tmp_path / "my#file.csv").write_text(content)
    with pytest.raises(SystemExit, match=message):
        suggest(checkpoints["bert"], finetuned_cells["bert"], str(tmp_path / "my#file.csv"))


def test_a_random_head_is_refused(checkpoints, finetuned_cells, tmp_path):
    path = write_csv(tmp_path / "data.csv")
    with pytest.raises(SystemExit, match=r"lacks .*classifier.bias.* which would be drawn at random"):
        suggest(checkpoints["bert"], checkpoints["bert"], path, "--margin", "0.3")
    shutil.copytree(finetuned_cells["bert"], tmp_path / "wide")
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    labels = {str(index): str(index) for index in range(4)}
    config |= {"id2label": labels, "label2id": {name: int(index) for index, name in labels.items()}}
    (tmp_path / "wide" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match=r"lacks .*classifier.weight.* which would be drawn at random"):
        suggest(checkpoints["bert"], tmp_path / "wide", path, "--margin", "0.3")


def test_a_folder_without_a_tokenizer_takes_that_of_the_base_or_is_refused(checkpoints, finetuned_cells, tmp_path):
    def without_tokenizer(folder, name):
        (tmp_path / name).mkdir()
        shutil.copyfile(folder / "config.json", tmp_path / name / "config.json")
        save_file(load_file(folder / "model.safetensors"), tmp_path / name / "model.safetensors", {"format": "pt"})
        return str(tmp_path / name)

    tuned = without_tokenizer(finetuned_cells["bert"], "tuned")
    expected = TextClassifier(str(finetuned_cells["bert"]), "").tokenizer.get_vocab()
    assert TextClassifier(tuned, str(checkpoints["bert"])).tokenizer.get_vocab() == expected
    with pytest.raises(ValueError, match="hold no tokenizer that transformers can read: save the model's there"):
        TextClassifier(tuned, without_tokenizer(checkpoints["bert"], "base"))


def test_an_import_that_fails_is_told_with_its_cause(monkeypatch, finetuned_cells):
    import builtins

    def broken(error):
        def call(name, *rest, **more):
            if name == "transformers":
                raise error
            return imported(name, *rest, **more)

        return call

    imported = builtins.__import__
    for error, message in (
        (ImportError("libxyz.so.1: cannot open shared object file"), r"cannot be imported \(libxyz.so.1: cannot open"),
        (ModuleNotFoundError("No module named 'regex'", name="regex"), r"cannot be imported \(No module named 'regex'"),
        (ModuleNotFoundError("No module named 'transformers'", name="transformers"), "is not installed: pip install"),
    ):
        monkeypatch.setattr(builtins, "__import__", broken(error))
        with pytest.raises(ValueError, match=f"transformers .*{message}"):
            TextClassifier(str(finetuned_cells["bert"]), "")
        monkeypatch.setattr(builtins, "__import__", imported)


def test_a_file_of_weights_or_texts_without_tokens_are_told_at_once(folders):
    with pytest.raises(ValueError, match=r"model.safetensors is a file: give the folder of the model"):
        TextClassifier(folders["bert"] / "model.safetensors", folders["bert"])
    with pytest.raises(ValueError, match="must be at least 1, found 0"):
        TextClassifier(folders["bert"], folders["bert"], max_length=0)
