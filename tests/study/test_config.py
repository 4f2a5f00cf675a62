"""The configuration: defaults at every level, and one-line messages with the path of the wrong key."""

import copy
import json
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import Field

import baselines
from baselines.base import WIDTHS
from baselines.options import Positive, Section
from ken.errors import UserError
from study import config as command
from study.definition import config
from study.definition.study import Study
from study.running.workflow import run

ROOT = Path(__file__).parents[2]
NAMES = ("ken", "ken-rescaled", "random", "magnitude", "delta-magnitude", "lora")
METHODS = {name: baselines.METHODS[name] for name in NAMES}
SMALL = """
study: small
seeds: [0, 1]
methods: [ken, random]
corpus: {packages: [scipy, sympy, torch]}
tasks:
  library: {source: docstrings, label: library, classes: [scipy, sympy], train: 20, validation: 5, test: 1e1}
  topic: {source: docstrings, label: topic, package: scipy, classes: [stats, signal],
          train: 20, validation: 5, test: 10}
models:
  small:
    source: pretraining
    architecture: distilbert
    size: {hidden_size: 128, layers: 2, heads: 2, intermediate_size: 512}
    learning_rate: 5e-4
finetuning: {learning_rate: 2e-4}
pretraining:
"""


@pytest.fixture
def small():
    return yaml.safe_load(SMALL)


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """A working directory with two data files and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.csv", "test.csv", "bert/config.json", "empty/readme"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def put(raw, path, value):
    """A copy of `raw` with a value at a path of keys; the value "del" deletes the key."""
    result = inner = copy.deepcopy(raw)
    for key in path[:-1]:
        inner = inner[key]
    if value == "del":
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


def test_defaults_are_filled_in_at_every_level(small):
    before = copy.deepcopy(small)
    loaded = config.load(small, METHODS)
    assert small == before
    assert loaded["kept_shares"] == [0.02, 0.05, 0.1, 0.25, 0.5, 0.75] and loaded["draws"] == 3
    assert loaded["corpus"] == {"packages": ["scipy", "sympy", "torch"], "min_words": 15, "max_words": 45}
    assert loaded["pretraining"]["tokens"] == 1_200_000  # the section is present but empty
    assert loaded["finetuning"]["epochs"] == 3 and loaded["finetuning"]["learning_rate"] == 2e-4
    assert loaded["evaluation"] == {"batch_size": 32, "precision": "float32"}
    assert config.load(loaded, METHODS) == loaded
    loaded["tuning"]["epochs"].append(99)
    assert 99 not in config.load(small, METHODS)["tuning"]["epochs"]


def test_defaults_are_filled_in_for_tasks(small, in_folder):
    task = {"source": "files", "train": "train.csv", "test": "test.csv#test", "text": "t", "label": "l"}
    loaded = config.load(put(small, ["tasks", "mine"], task), METHODS)
    assert loaded["tasks"]["mine"] == {**task, "validation_share": 0.1, "seed": 0}


def test_paths_may_contain_a_number_sign(small, in_folder):
    for name in ("my#data.csv", "my#bert/config.json"):
        (in_folder / name).parent.mkdir(exist_ok=True)
        (in_folder / name).write_text("x")
    task = {"source": "files", "train": "my#data.csv", "test": "test.csv", "text": "t", "label": "l"}
    raw = put(put(small, ["tasks", "mine"], task), ["models", "mine"], {"source": "directory", "path": "my#bert"})
    loaded = Study(config.load(raw, METHODS))
    assert loaded.task_files("mine") == ["my#data.csv", "test.csv"]
    for path, value in {"train": "my#data.csv#x", "test": "bert#train"}.items():
        config.load(put(raw, ["tasks", "mine", path], value), METHODS)
    with pytest.raises(UserError, match=r'mine.path is "bert#train", which does not exist'):
        config.load(put(raw, ["models", "mine", "path"], "bert#train"), METHODS)


def test_models_and_tasks_from_the_hub(small):
    small = put(put(small, ["models", "hub"], {**HUB_MODEL, "epochs": 2}), ["tasks", "hub"], HUB_TASK)
    loaded = config.load(small, METHODS)
    assert loaded["models"]["hub"] == {**HUB_MODEL, "epochs": 2}
    assert loaded["tasks"]["hub"] == {**HUB_TASK, "validation_share": 0.1, "seed": 0}
    loaded = config.load(put(small, ["tasks", "hub", "splits"], {"validation": "validation"}), METHODS)
    assert loaded["tasks"]["hub"]["splits"] == {"train": "train", "validation": "validation"}


def test_numbers_that_yaml_reads_as_text_are_converted(small):
    assert isinstance(small["models"]["small"]["learning_rate"], str)
    loaded = config.load(small, METHODS)
    assert loaded["models"]["small"]["learning_rate"] == 5e-4
    assert repr(loaded["tasks"]["library"]["test"]) == "10"
    loaded = config.load({**small, "kept_shares": ["5e-2", 0.5, 128], "draws": 3.0}, METHODS)
    assert repr(loaded["kept_shares"]) == "[0.05, 0.5, 128]" and repr(loaded["draws"]) == "3"


def test_a_config_can_extend_another(small, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(SMALL + "trained_on: {seeds: [0]}\n")
    own = {"extends": str(base), "study": "mine", "seeds": [7], "pretraining": {"tokens": 5},
           "tasks": {"topic": {"train": 3}}, "trained_on": None}  # fmt: skip
    loaded = config.load(own, METHODS)
    expected = config.load(small, METHODS)
    expected |= {"study": "mine", "seeds": [7]}
    expected["pretraining"]["tokens"], expected["tasks"]["topic"]["train"] = 5, 3
    assert loaded == expected
    base.write_text(f"extends: {base}\n{SMALL}")
    for wrong, message in (
        (str(base), "extends another"),
        ("nowhere.yaml", "must be the path of a config"),
        (3, "path"),
    ):
        with pytest.raises(UserError, match=message):
            config.load({"extends": wrong}, METHODS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0]\nstudy: a\nseeds: [1]\n", "has the key seeds twice, on lines 1 and 3: keep one"),
        ("tasks:\n  a: {text: x, label: y, text: z}\n", "has the key tasks.a.text twice, on line 2: keep one"),
        ("a:\n- b: 1\n- b: 1\n  c: 1\n  b: 2\n", r"has the key a\[1\].b twice, on lines 3 and 5: keep one"),
        ('{"study": "a", "study": "b"}', "has the key study twice, on line 1: keep one"),
    ],
)
def test_a_repeated_key_is_refused_with_its_lines(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"c.yaml {message}"):
        config.read(path, METHODS)
    with pytest.raises(UserError, match=rf"c.yaml {message}"):
        config.load({"extends": str(path)}, METHODS)


def test_aliases_and_equal_keys_of_different_sections_are_no_repetition(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a {x: 1, y: [{x: 1}]}\nb: *a\nc: {<<: *a, x: 2}\n1: x\n'1': y\n")
    config.check_keys(tmp_path / "c.yaml")
    (tmp_path / "c.json").write_text('{\n\t"a": "\\ud83d\\ude00",\n\t"b": {"a": 1}\n}')
    config.check_keys(tmp_path / "c.json")


def test_inherited_settings_of_methods_that_are_not_run_are_left_out(small, tmp_path):
    (tmp_path / "base.yaml").write_text(SMALL + "method_settings: {random: {draws: 2}, ken: {budgets: [0.5]}}\n")
    own = {"extends": str(tmp_path / "base.yaml"), "methods": ["ken"], "kenviz": {"kept_share": 0.5}}
    loaded = config.load(own, METHODS)
    assert loaded["method_settings"] == {"ken": {"budgets": [0.5]}}
    assert config.load(loaded, METHODS) == loaded
    chosen = small | {"methods": ["ken"], "method_settings": {"random": {"draws": 2}}}
    assert config.load(chosen, METHODS, unused=True)["method_settings"] == {}, "methods were chosen on the command line"


BERT = {"source": "directory", "path": "bert"}
FILES = {"source": "files", "train": "train.csv", "test": "test.csv", "text": "t", "label": "l"}
HUB_MODEL = {"source": "hub", "repository": "google-bert/bert-base-uncased", "revision": "main"}
HUB_TASK = {"source": "hub", "repository": "nyu-mll/glue", "revision": "refs/convert/parquet", "config": "sst2",
            "splits": {"train": "train", "test": "validation"}, "text": "sentence", "label": "label"}  # fmt: skip
SMALL_MODEL = ["models", "small"]
MISTAKES = [
    (["trained_on"], {"models": ["smal"]}, r'trained_on.models\[0\] is "smal", .* Did you mean "small"?'),
    (["scores_only"], ["magnitude"], r'scores_only\[0\] is "magnitude", which is not in methods'),
    (["scores_only"], ["ken"], r'scores_only\[0\] is "ken", whose stored files kenviz reads'),
    (["trained_on"], {"seeds": [4]}, r"trained_on.seeds\[0\] is 4, which is not in seeds"),
    (["inference"], {"methods": ["magnitude"]}, r'inference.methods\[0\] is "magnitude", which is not in methods'),
    (["suggestion"], {"methods": ["magnitude"]}, r'suggestion.methods\[0\] is "magnitude", which is not in methods'),
    (["method_settings"], {"randm": {}}, 'method_settings.randm is not known here. Did you mean "random"?'),
    (["method_settings"], {"ken": {"budget": [1]}}, 'ken.budget is not known here. Did you mean "budgets"?'),
    (["method_settings"], {"ken": {"budgets": [0]}}, r"ken.budgets\[0\] is 0, but must be greater than 0"),
    (
        ["method_settings"],
        {"lora": {"budgets": [2]}},
        "method_settings.lora has no effect: lora is not in methods. Add it there",
    ),
    (["study"], "reference", 'study is "reference", but results/reference holds the committed runs'),
    (["study"], "slurm-logs", 'study is "slurm-logs", but results/slurm-logs holds'),
    (["seds"], 1, 'config key seds is not known here. Did you mean "seeds"?'),
    ([*SMALL_MODEL, "learning_rat"], 1, "models.small.learning_rat is not known here. Did you mean"),
    ([*SMALL_MODEL, "path"], "bert", "models.small.path is not known here."),
    ([*SMALL_MODEL, "learning_rate"], "fast", 'models.small.learning_rate is "fast", but must be a number'),
    ([*SMALL_MODEL, "learning_rate"], 0, "models.small.learning_rate is 0, but must be greater than 0."),
    (
        [*SMALL_MODEL, "source"],
        "pretrain",
        'models.small.source is "pretrain", .* Did you mean "pretraining"?',
    ),
    (
        [*SMALL_MODEL, "source"],
        "del",
        "models.small.source is missing: .*directory, hub or pretraining",
    ),
    ([*SMALL_MODEL, "sorce"], "files", 'models.small.sorce is not known here. Did you mean "source"?'),
    ([*SMALL_MODEL, "source"], ["files"], "models.small.source is .*not known here"),
    (SMALL_MODEL, "bert", 'models.small is "bert", but must be a section with keys'),
    ([*SMALL_MODEL, "architecture"], "brt", 'architecture is "brt", .* Did you mean "bert"?'),
    (
        [*SMALL_MODEL, "size", "heads"],
        3,
        "models.small.size.heads is 3, which does not divide hidden_size 128",
    ),
    (
        [*SMALL_MODEL, "size", "intermediate_size"],
        "del",
        "models.small.size.intermediate_size is missing: width",
    ),
    (["models", "B x"], BERT, 'models has the name "B x", but a name must be lower-case'),
    (["models"], {}, "models has 0 entries, but needs at least 1"),
    (["models"], "del", "models is missing: name -> model"),
    (["models", "bert"], {**BERT, "path": "nowhere"}, 'models.bert.path is "nowhere", which does not exist'),
    (["models", "bert"], {**BERT, "path": "empty"}, 'models.bert.path is "empty", which has no config.json'),
    (["seeds"], [], "seeds has 0 entries, but needs at least 1"),
    (["seeds"], 3, "seeds is 3, but must be a list"),
    (["seeds"], [0, 1, 0], "seeds names 0 twice"),
    (["seeds"], [0, True], r"seeds\[1\] is true, but must be a whole number"),
    (["seeds"], [-1], r"seeds\[0\] is -1, but must be at least 0"),
    (["kept_shares"], [0.5, 1.0], r"kept_shares\[1\] is 1.0, but must be a share between 0 and 1"),
    (["kept_shares"], [0], r"kept_shares\[0\] is 0, but must be a share"),
    (["kept_shares"], [1.5], r"kept_shares\[0\] is 1.5, but must be a share"),
    (["kept_shares"], [float("nan")], r"kept_shares\[0\] is NaN, but must be a number"),
    (["kept_shares"], ["half"], r'kept_shares\[0\] is "half", but must be a number'),
    (["methods"], ["kenn"], r'methods\[0\] is "kenn", .* Did you mean "ken"?'),
    (
        ["methods"],
        ["ken", "x" * 99],
        r"methods\[1\] .*… Valid: delta-magnitude, ken, ken-rescaled|methods\[1\]",
    ),
    (["study"], "My study", 'study is "My study", but must be lower-case letters'),
    (["study"], 5, "study is 5, but must be text in quotes"),
    (["study"], None, "study is empty, but must be text"),
    (["corpus"], "del", "corpus is missing: tasks.library takes its text"),
    (["corpus", "packages"], ["a.b"], r'corpus.packages\[0\] is "a.b", but must be a name'),
    (["corpus", "min_words"], 46, "corpus.min_words is greater than corpus.max_words"),
    (
        ["tasks", "library", "classes"],
        ["scipy", "simpy"],
        r'library.classes\[1\] is "simpy", .* mean "sympy"?',
    ),
    (["tasks", "topic", "classes"], [False, "x"], r"topic.classes\[0\] is false, but must be text in quotes"),
    (["tasks", "topic", "package"], "del", "tasks.topic.package is missing: package whose parts"),
    (
        ["tasks", "topic", "package"],
        "pandas",
        'tasks.topic.package is "pandas", which is not in corpus.packages',
    ),
    (
        ["tasks", "mine"],
        {**FILES, "train": "trian.csv"},
        r'mine.train is "trian.csv", which does not exist \(relative paths start',
    ),
    (
        ["tasks", "mine"],
        {k: v for k, v in FILES.items() if k != "label"},
        "tasks.mine.label is missing: name of",
    ),
    (["tasks", "mine"], {**FILES, "label": "t"}, "tasks.mine.label names the same column as text"),
    (
        ["tasks", "mine"],
        {**FILES, "validation_share": 1},
        "mine.validation_share is 1, but must be less than 1",
    ),
    (
        ["models", "hub"],
        {**HUB_MODEL, "repository": "a/b/c"},
        'hub.repository is "a/b/c", but must be the name of a rep',
    ),
    (
        ["models", "hub"],
        {**HUB_MODEL, "repository": "../b"},
        'hub.repository is "../b", but must be the name of a rep',
    ),
    (
        ["models", "hub"],
        {**HUB_MODEL, "repository": "a b; ls"},
        "hub.repository is .*, but must be the name of a rep",
    ),
    (
        ["models", "hub"],
        {**HUB_MODEL, "revision": "../main"},
        'hub.revision is "../main", but must be a commit, tag',
    ),
    (["models", "hub"], {**HUB_MODEL, "revision": 7}, "hub.revision is 7, but must be text in quotes"),
    (
        ["models", "hub"],
        {"source": "hub", "repository": "bert"},
        "models.hub.revision is missing: a commit, tag",
    ),
    (["models", "hub"], {**HUB_MODEL, "branch": "x"}, "models.hub.branch is not known here"),
    (["tasks", "hub"], {**HUB_TASK, "label": "sentence"}, "tasks.hub.label names the same column as text"),
    (["tasks", "hub"], {**HUB_TASK, "splits": {}}, "tasks.hub.splits.test is missing: name of the split of the test"),
    (
        ["tasks", "hub"],
        {**HUB_TASK, "splits": {"test": "train"}},
        "is .train., which has another role: name another",
    ),
    (
        ["tasks", "hub"],
        {**HUB_TASK, "splits": {"tset": "x"}},
        'splits.tset is not known here. Did you mean "test"?',
    ),
    (["tasks", "hub"], {**HUB_TASK, "splits": {"test": 1}}, "hub.splits.test is 1, but must be text in quotes"),
    (["[key]"], 1, r"\[key\] is not known here"),
    (["tasks", "[key]"], FILES, r'tasks has the name "\[key\]", but a name must be'),
    (["trained_on"], {False: 1}, "trained_on.False is read as false, not as text: put quotes around it"),
    (["tasks", 1], FILES, "tasks.1 is read as 1, not as text: put quotes around it"),
    (["kenviz"], {"model": "smal"}, 'kenviz.model is "smal", .* Did you mean "small"?'),
    (["kenviz"], {"task": "topics"}, 'kenviz.task is "topics", .* Did you mean "topic"?'),
    (["kenviz"], {"method": "kne"}, 'kenviz.method is "kne", .* Did you mean "ken"?'),
    (["kenviz"], {"kept_share": 0.2}, "kenviz.kept_share is 0.2, but no method that keeps a share is run at it"),
    (
        ["kenviz"],
        {"method": "magnitude"},
        r"kenviz.method is .magnitude., which is not run at .* that is \(ken, random",
    ),
    (["method_settings"], {"ken": {"draws": 3}}, "settings.ken.draws is 3, but ken draws nothing at random: leave"),
    (["method_settings"], {"random": {"rate_factors": [2]}}, "random.rate_factors is .2., but random does not train"),
    (["spread"], {"methods": ["ken"], "kept_share": 0.3}, r"spread.methods\[0\] is ken, which is not run at .*\(0.3\)"),
    (["finetuning", "epochs"], 2.5, "finetuning.epochs is 2.5, but must be a whole number"),
    (["finetuning", "random_init_seeds"], "all", 'finetuning.random_init_seeds is "all", but must be a list'),
    (["finetuning", "random_init_seeds"], [7], "finetuning.random_init_seeds names 7, but must name some of seeds"),
    (["finetuning", "warmup_share"], 2, "finetuning.warmup_share is 2, but must be at most 1"),
]


@pytest.mark.parametrize(("path", "value", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_every_mistake_gives_a_one_line_message(small, in_folder, path, value, message):
    with pytest.raises(UserError, match=message) as refused:
        config.load(put(small, path, value), METHODS)
    assert str(refused.value).startswith("config key ") and "\n" not in str(refused.value)


def test_the_kept_shares_of_a_task_must_leave_every_method_a_budget(small):
    limited = put(small, ["tasks", "topic", "kept_shares"], [0.05, 0.25])
    assert config.load(limited, METHODS)["tasks"]["topic"]["kept_shares"] == [0.05, 0.25]
    without = limited | {"method_settings": {"random": {"budgets": [0.5]}}}
    with pytest.raises(UserError, match=r"tasks.topic.kept_shares has none of the budgets of random: add one of them"):
        config.load(without, METHODS)
    unused = put(small, ["tasks", "topic", "kept_shares"], [0.05, 0.07])
    with pytest.raises(UserError, match=r"tasks.topic.kept_shares has 0\.07, at which no method is run: leave it out"):
        config.load(unused, METHODS)
    first = put(small, ["tasks", "library", "kept_shares"], [0.05])
    with pytest.raises(UserError, match=r"kenviz.kept_share is 0\.25, but no method that keeps a share is run at it"):
        config.load(first, METHODS)
    with pytest.raises(UserError, match=r"tasks\.topic\.scored_texts is 0"):
        config.load(put(small, ["tasks", "topic", "scored_texts"], 0), METHODS)


def test_only_sub_networks_are_drawn_and_measured(small):
    methods = METHODS | {"compeft": baselines.METHODS["compeft"]}
    small |= {"methods": ["random", "compeft"], "inference": {"methods": []}, "suggestion": {"methods": []}}
    small["spread"] = {"methods": []}
    assert config.load(small, methods)["kenviz"]["method"] == "random"
    with pytest.raises(UserError, match=r"kenviz.method is .compeft., .* name one that is \(random\)"):
        config.load(put(small, ["kenviz"], {"method": "compeft"}), methods)
    with pytest.raises(UserError, match=r"spread.methods\[0\] is compeft, whose file is no sub-network: leave it out"):
        config.load(put(small, ["spread"], {"methods": ["compeft"]}), methods)


def test_bloom_needs_no_intermediate_size(small):
    size = {"hidden_size": 96, "layers": 2, "heads": 2}
    model = {"source": "pretraining", "architecture": "bloom", "size": size}
    assert config.load(put(small, SMALL_MODEL, model), METHODS)["models"]["small"] == model


def test_a_study_of_local_data_and_models_needs_no_corpus(in_folder):
    raw = {
        "study": "own",
        "seeds": [0],
        "methods": ["ken"],
        "tasks": {"mine": FILES},
        "models": {"bert": BERT},
    }
    assert "corpus" not in config.load(raw, METHODS)
    raw["models"]["small"] = {**yaml.safe_load(SMALL)["models"]["small"], "checkpoint": "bert"}
    assert "corpus" not in config.load(raw, METHODS)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("bert"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner),
    max_leaves=5,
)


def _paths(value, path=()):
    """Paths of all values inside a config."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


@settings(max_examples=40, deadline=None)
@given(path=st.sampled_from(list(_paths(yaml.safe_load(SMALL)))), value=anything)
def test_any_value_is_accepted_or_refused_with_a_message(path, value):
    raw = put(yaml.safe_load(SMALL), path, value)
    try:
        loaded = config.load(raw, METHODS)
    except UserError as error:
        assert str(error).startswith("config key ")
    else:
        assert config.load(loaded, METHODS) == loaded


@settings(max_examples=20, deadline=None)
@given(value=anything.filter(lambda value: not isinstance(value, dict)))
def test_a_config_must_be_a_mapping(value):
    with pytest.raises(UserError, match=r"the config is .*, but must be a section with keys"):
        config.load(value, METHODS)


def test_kenviz_settings_are_resolved(small):
    shown = config.load(small, METHODS)["kenviz"]
    assert shown == {"model": "small", "task": "library", "method": "ken", "kept_share": 0.25}
    small |= {"methods": ["random", "magnitude"], "kept_shares": [0.1, 0.5], "scores_only": ["random"]}
    small |= {"spread": {"methods": []}, "inference": {"methods": []}, "suggestion": {"methods": []}}
    loaded = config.load(small, METHODS)
    assert loaded["kenviz"]["method"] == "magnitude" and loaded["kenviz"]["kept_share"] == 0.5
    assert config.load(loaded, METHODS) == loaded
    small |= {"methods": ["magnitude", "random", "lora"], "method_settings": {"random": {"budgets": [0.1]}}}
    assert config.load(small | {"scores_only": []}, METHODS)["kenviz"]["method"] == "magnitude", "run at one half"


def test_the_schema_is_valid_and_describes_every_key():
    schema = config.schema(METHODS)
    Draft202012Validator.check_schema(schema)

    def described(node, path):
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]] | node
        assert node.get("description") or "oneOf" in node, f"{path} has no description"
        for key, inner in node.get("properties", {}).items():
            described(inner, f"{path}.{key}")
        for inner in node.get("patternProperties", {}).values():
            described(inner, f"{path}.*")
        if "items" in node:
            described({"description": node.get("description")} | node["items"], f"{path}[]")
        for branch in node.get("oneOf", []):
            described(branch, f"{path}.oneOf")

    described(schema, "config")
    assert schema["$defs"]["MethodName"]["anyOf"][0]["enum"] == sorted(METHODS)
    assert sorted(schema["$defs"]["SettingsByMethod"]["properties"]) == sorted(METHODS)


def test_the_schema_accepts_the_configs_of_this_repository():
    validator = Draft202012Validator(config.schema(baselines.METHODS))
    for name in ("mini", "offline", "paper", "surgeon", "test", "examples/real"):
        raw = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
        if "extends" not in raw:
            validator.validate(raw)
        validator.validate(config.load(raw, baselines.METHODS, sources=False))


def test_selections_with_a_number_of_bits_are_methods(small):
    coded = [f"{name}-{width}bit" for name in ("seeded-rescaled", "ken") for width in WIDTHS]
    small["methods"] = ["ken", *coded]
    small["method_settings"] = {"seeded-rescaled-3bit": {"budgets": [0.05]}}
    loaded = config.load(small, baselines.METHODS)
    assert loaded["methods"] == ["ken", *coded] and loaded["method_settings"] == small["method_settings"]
    validator = Draft202012Validator(config.schema(baselines.METHODS))
    validator.validate(loaded)
    for wrong in ("seeded-rescaled-5bit", "lora-4bit", "xseeded-4bit", "seeded-4bits"):
        assert not validator.is_valid(loaded | {"methods": [wrong]})
        assert not validator.is_valid(loaded | {"method_settings": {wrong: {}}})
    assert not validator.is_valid(loaded | {"method_settings": {"ken-4bit": {"budgts": [0.1]}}})
    with pytest.raises(UserError, match=r'method_settings.ken-4bit.budgts is not known here. Did you mean "budgets"'):
        config.load(small | {"method_settings": {"ken-4bit": {"budgts": [0.1]}}}, baselines.METHODS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seeded-rescaled-5bit", r"the kept updates of seeded-rescaled have 16, 8, 4, 3, 2 or 1 bits\."),
        ("ken-4bits", r"the kept updates of ken have 16, 8, 4, 3, 2 or 1 bits\."),
        ("seeded-rescald-3bit", 'Did you mean "seeded-rescaled-3bit"'),
    ],
)
def test_an_unknown_number_of_bits_is_answered_with_the_valid_ones(small, name, message):
    with pytest.raises(UserError, match=rf'methods\[1\] is "{name}", which is not known here.*{message}'):
        config.load(small | {"methods": ["ken", name]}, baselines.METHODS)
    if "rescald" not in name:
        with pytest.raises(UserError, match=rf"method_settings.{name} is not known here: {message}"):
            config.load(small | {"method_settings": {name: {}}}, baselines.METHODS)


def test_architectures_of_the_schema_are_those_that_can_be_pretrained():
    from study.models.architectures import ARCHITECTURES

    model = config.schema(METHODS)["$defs"]["PretrainingModel"]
    assert sorted(model["properties"]["architecture"]["enum"]) == sorted(ARCHITECTURES)


def test_unreadable_configs_give_one_line_messages(tmp_path):
    for content, message in {
        "a: [1": "is not YAML: ",
        "": "config key study is missing",
        "- 1": "the config is",
    }.items():
        (tmp_path / "c.yaml").write_text(content)
        with pytest.raises(UserError, match=message) as refused:
            config.read(tmp_path / "c.yaml", METHODS)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"cannot read the config .*missing.yaml: No such file"):
        config.read(tmp_path / "missing.yaml", METHODS)


def test_the_command_prints_the_resolved_config_or_a_one_line_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["config", "c.yaml"])
    (tmp_path / "c.yaml").write_text(SMALL)
    command.main()
    assert yaml.safe_load(capsys.readouterr().out) == config.load(yaml.safe_load(SMALL), METHODS)
    (tmp_path / "c.yaml").write_text(SMALL.replace("seeds:", "seed:"))
    with pytest.raises(SystemExit) as ended:
        run(command.main)
    assert ended.value.code == 'error: config key seed is not known here. Did you mean "seeds"?'


def test_the_command_prints_the_schema(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["config", "--schema"])
    command.main()
    assert json.loads(capsys.readouterr().out) == config.schema(baselines.METHODS)


class Degree(Section):
    degree: Positive = Field(2, description="of the polynomial")


class Polynomial(baselines.Method):
    name = "polynomial"
    options_model = Degree

    def store(self, cell, prepared, budget, path):
        raise NotImplementedError

    def restore(self, pretrained, path):
        raise NotImplementedError


def test_a_method_declares_its_own_options(small):
    methods = METHODS | {"polynomial": Polynomial()}
    small["methods"].append("polynomial")
    settings = {"polynomial": {"degree": "3", "budgets": [0.5]}}
    assert config.load(small | {"method_settings": settings}, methods)["method_settings"] == {
        "polynomial": {"degree": 3, "budgets": [0.5]}
    }
    for options, message in {
        "degre": r'polynomial.degre is not known here. Did you mean "degree"\?',
        "degree": "polynomial.degree is 0, but must be at least 1",
    }.items():
        with pytest.raises(UserError, match=message):
            config.load(small | {"method_settings": {"polynomial": {options: 0}}}, methods)
    assert config.schema(methods)["$defs"]["DegreeSettings"]["properties"]["degree"]["description"]


UNSAFE_NAMES = (
    "..",
    "../out",
    "/tmp/out",
    "a/../../out",
    "a/b",
    "a\\b",
    "C:out",
    ".hidden",
    "",
    "a\n",
    "a b",
    "$(id)",
    "a;b",
    "-x",
)


@pytest.mark.parametrize("name", UNSAFE_NAMES)
@pytest.mark.parametrize("kind", ["study", "tasks", "models"])
def test_unsafe_names_are_refused(small, kind, name):
    raw = put(small, ["study"], name) if kind == "study" else small
    if kind != "study":
        raw[kind][name] = raw[kind].pop(next(iter(raw[kind])))
    with pytest.raises(UserError, match=rf"config key {kind} "):
        config.load(raw, METHODS)


@pytest.mark.parametrize(("section", "key"), [("kenviz", "matrix"), ("corpus", "packages")])
def test_values_used_in_commands_may_not_contain_newlines(small, section, key):
    value = {"matrix": "query.weight\nid", "packages": ["scipy", "sympy", "torch\n"]}[key]
    with pytest.raises(UserError, match=rf"config key {section}\.{key}"):
        config.load(put(small | {section: small.get(section) or {}}, [section, key], value), METHODS)


def test_missing_sources_are_accepted_for_rebuilding_the_report(small, tmp_path):
    small["tasks"]["own"] = {"source": "files", "train": "no.csv", "test": "no.csv", "text": "a", "label": "b"}
    small["models"]["own"] = {"source": "directory", "path": "no-model"}
    with pytest.raises(UserError, match="does not exist"):
        config.load(small, METHODS)
    loaded = config.load(small, METHODS, sources=False)
    assert config.load(loaded, METHODS, sources=False) == loaded, "a recorded config can be loaded again"


def test_kenviz_draws_a_method_whose_file_names_its_entries(small):
    for section in ("spread", "suggestion", "inference"):
        small.pop(section, None)
    raw = small | {"methods": ["ken-rescaled", "seeded-rescaled-3bit"], "kept_shares": [0.25], "method_settings": {}}
    assert config.load(raw, baselines.METHODS)["kenviz"]["method"] == "ken-rescaled"
    with pytest.raises(UserError, match=r"kenviz.kept_share is 0\.25, but no method that keeps a share is run at it"):
        config.load(raw | {"methods": ["seeded-rescaled-3bit"]}, baselines.METHODS)


@pytest.mark.parametrize("name", ["real", "base", "small"])
def test_the_studies_of_real_encoders_are_valid(name):
    """Without their data, which is not committed."""
    path = ROOT / "config" / "examples" / f"{name}.yaml"
    config.check_keys(path)
    loaded = config.load(yaml.safe_load(path.read_text()), baselines.METHODS, sources=False)
    assert loaded["study"] == name and {"shrink", "random-rescaled"} <= set(loaded["methods"])
    rates = {model: settings["learning_rate"] for model, settings in loaded["models"].items()}
    assert all(float(model.partition("-")[2]) == rate for model, rate in rates.items()), "the name says the rate"


@pytest.mark.parametrize(("shares", "noted"), [([1], True), ([2, 0.25], False)])
def test_a_kept_share_of_one_entry_has_a_note(small, tmp_path, monkeypatch, capsys, shares, noted):
    small["kept_shares"] = small["tasks"]["topic"]["kept_shares"] = shares
    small["methods"], small["kenviz"] = ["ken"], {"kept_share": shares[0]}
    small["spread"] = {"kept_share": shares[0]}
    small["method_settings"] = {"ken": {"budgets": shares}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    monkeypatch.setattr(sys, "argv", ["config", str(tmp_path / "small.yaml")])
    command.main()
    keys = ("kept_shares", "tasks.topic.kept_shares", "method_settings.ken.budgets")
    advice = "has 1, which keeps one entry of each row; all of them are kept by the control full"
    assert capsys.readouterr().err.splitlines() == [f"note: {key} {advice}" for key in keys if noted]


@pytest.mark.parametrize("name", ["mini", "offline"])
def test_ken_of_linear_layers_is_run_around_the_sizes_of_flop(name):
    settings = config.read(ROOT / "config" / f"{name}.yaml", baselines.METHODS)["method_settings"]
    shares = settings["ken-linear"]["budgets"]
    for size in settings["flop"]["budgets"]:  # which keeps a few entries fewer than this share of the linear layers
        assert size in shares and any(share < size for share in shares)
