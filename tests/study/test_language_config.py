"""The config section of language models and the options of LLM Surgeon: defaults and one-line error messages."""

from pathlib import Path

import pytest
import yaml

from baselines import METHODS
from ken.errors import UserError
from study.definition import config
from tests.study.test_config import SMALL, put

ROOT = Path(__file__).parents[2]
BLOOM = {"source": "pretraining", "architecture": "bloom", "size": {"hidden_size": 32, "layers": 2, "heads": 2}}
BERT = BLOOM | {"architecture": "bert", "size": BLOOM["size"] | {"intermediate_size": 64}}
TEXT = {"source": "docstrings", "packages": ["scipy"]}


@pytest.fixture
def small():
    raw = yaml.safe_load(SMALL)
    return raw | {"language_modelling": {"models": {"tiny": BLOOM}, "pruning": {"text": TEXT}}}


def test_a_study_without_the_section_has_no_language_models():
    section = config.load(yaml.safe_load(SMALL), METHODS)["language_modelling"]
    assert section["models"] == {} and "text" not in section["pruning"] and "text" not in section["adaptation"]


def test_defaults_are_filled_in_for_the_text(small):
    section = config.load(small, METHODS)["language_modelling"]
    assert section["pruning"]["text"] == TEXT | {"train_words": 100_000, "test_words": 30_000}
    assert section["pruning"]["structures"] == ["element", "2:4", "row-column"] and section["max_length"] == 64


def test_the_study_of_llm_surgeon_is_valid():
    loaded = config.read(ROOT / "config" / "surgeon.yaml", METHODS)
    assert set(loaded["language_modelling"]["models"]) == {"bloom-560m", "bloom-1b7"}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (["pruning", "methods"], ["llm-surgon"], 'methods[0] is "llm-surgon", which is not known here. Did you mean'),
        (
            ["pruning", "structures"],
            ["row-colum"],
            'structures[0] is "row-colum", which is not known here. Did you mean',
        ),
        (["pruning", "structures"], [124], "structures[0] is 124, but must be text in quotes"),
        (["pruning", "sparsities"], [0.5, 1.0], "sparsities[1] is 1.0, but must be less than 1"),
        (["pruning", "shots"], [0], "shots[0] is 0, but must be at least 1"),
        (["pruning", "text"], {"source": "dokstrings"}, 'source is "dokstrings"'),
        (
            ["pruning", "text", "packages"],
            ["scypi"],
            'text.packages[0] is "scypi", which is not in corpus.packages.',
        ),
        (["pruning", "txt"], {}, 'pruning.txt is not known here. Did you mean "text"?'),
        (
            ["adaptation"],
            {"methods": ["kenn"]},
            'adaptation.methods[0] is "kenn", which is not known here. Did you mean',
        ),
        (["models", "tiny"], BERT, 'tiny.architecture is "bert", but language models here are bloom'),
        (["models"], {}, "models is empty: name a causal language model"),
        (["pruning"], {}, "the models need a text"),
        (["models", "small"], BLOOM, "models.small differs from models.small: give one of them another name"),
    ],
)
def test_mistakes_give_one_line_messages_with_the_path(small, path, value, sentence):
    raw = put(small, ["language_modelling", *path], value)
    with pytest.raises(UserError) as error:
        config.load(raw, METHODS)
    assert sentence in str(error.value) and "language_modelling" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        (
            "llm-surgeon",
            {"structure": "row-colum"},
            'is "row-colum", which is not known here. Did you mean "row-column"?',
        ),
        ("llm-surgeon", {"costs": "kbd"}, 'method_settings.llm-surgeon.costs is "kbd"'),
        ("llm-surgeon", {"updates": "corelated"}, 'Did you mean "correlated"?'),
        ("llm-surgeon", {"shots": 0}, "method_settings.llm-surgeon.shots is 0, but must be at least 1"),
        ("llm-surgeon", {"sequence": 3}, 'Did you mean "sequences"?'),
        ("surgeon-delta", {"structure": "element"}, "method_settings.surgeon-delta.structure is not known here"),
        ("ken", {"structure": "element"}, "method_settings.ken.structure is not known here"),
    ],
)
def test_options_of_llm_surgeon_are_validated(small, method, options, sentence):
    with pytest.raises(UserError) as error:
        config.load(small | {"method_settings": {method: options}}, METHODS)
    assert sentence in str(error.value)


def test_methods_of_the_adaptation_may_have_settings(small):
    settings = {"method_settings": {"delta-magnitude": {"budgets": [0.5]}}}
    with pytest.raises(UserError, match=r"method_settings.delta-magnitude has no effect"):
        config.load(small | settings, METHODS)
    adapted = put(small, ["language_modelling", "adaptation"], {"text": TEXT, "methods": ["delta-magnitude"]})
    assert config.load(adapted | settings, METHODS)["method_settings"] == settings["method_settings"]


@pytest.mark.parametrize("options", [{"updates": "none"}, {"costs": "obd"}])
def test_a_correction_without_updates_is_refused(small, options):
    with pytest.raises(UserError, match=r"method_settings.llm-surgeon.low_rank is 4, but nothing is updated"):
        config.load(small | {"method_settings": {"llm-surgeon": options | {"low_rank": 4}}}, METHODS)


@pytest.mark.parametrize(
    "options",
    [
        {"structure": "2:4"},
        {"costs": "magnitude", "structure": "row-column"},
        {"shots": 2, "low_rank": 4, "low_rank_rate": 1e-3, "structure": "element"},
    ],
)
def test_valid_options_are_accepted_by_the_method(small, options):
    methods = [*small["methods"], "llm-surgeon"]
    loaded = config.load(small | {"methods": methods, "method_settings": {"llm-surgeon": options}}, METHODS)
    method = METHODS["llm-surgeon"].configured(loaded["method_settings"]["llm-surgeon"])
    assert method.settings.structure == options["structure"] and method.settings.low_rank == options.get("low_rank", 0)
