"""`ken export --peft`: peft itself loads the adapter, and its answers are those of the restored `svd` method."""

import json

import pytest
import torch
from safetensors.torch import load_file

from baselines import METHODS, Cell
from ken import cli
from ken.peft_export import export_peft
from ken.sources import open_source
from tests.baselines.storing import store_and_restore

TOLERANCE = 2e-6  # of the largest logit: a sum in float32 in another order


def tensors_of(folder) -> dict[str, torch.Tensor]:
    source = open_source(folder)
    return {name: source.tensor(name).clone() for name in source.specs}


def classifier(folder, like=None):
    """A model of a folder; `like` a classifier whose head it gets the shape of."""
    from transformers import AutoModelForSequenceClassification

    labels = {} if like is None else {"num_labels": like.config.num_labels}
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **labels).eval()


def restored(base, tuned, rank, path):
    """The fine-tuned model with the tensors that the method `svd` restores."""
    model = classifier(tuned)
    finetuned = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    from ken.pairing import Pair

    pair = Pair.opened(base, tuned)
    pretrained = {name: pair.base.tensor(pair.body[name]).clone() for name in finetuned if name in pair.body}
    state = store_and_restore(METHODS["svd"], Cell(pretrained, finetuned, 0, model), rank, path)[1]
    model.load_state_dict(state)
    return model


@torch.no_grad()
def logits(model):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 250, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return model(input_ids=ids, attention_mask=mask).logits


def assert_same(found, expected):
    assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())), (
        (found - expected).abs().max()
    )


MODELS = ("bert", "distilbert", "deberta", "ernie", "electra", "bloom-560m")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rank", [1, 4, 100])
def test_peft_answers_like_svd(model, rank, checkpoints, finetuned_cells, tmp_path):
    from peft import PeftModel

    base, tuned = checkpoints[model], finetuned_cells[model]
    exported = export_peft(base, tuned, tmp_path / "adapter", rank)
    expected = restored(base, tuned, rank, tmp_path / "svd")
    adapted = PeftModel.from_pretrained(classifier(base, expected), tmp_path / "adapter").eval()
    print(exported)
    assert_same(logits(adapted), logits(expected))
    merged = adapted.merge_and_unload()
    assert_same(logits(merged), logits(expected))
    state = expected.state_dict()
    for name, tensor in merged.state_dict().items():
        assert torch.allclose(tensor, state[name], rtol=1e-5, atol=1e-6), name
