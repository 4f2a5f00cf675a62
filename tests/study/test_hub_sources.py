"""Models and data sets from a hub on 127.0.0.1, under the names in config/paper.yaml."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import yaml
from huggingface_hub import constants

from baselines import METHODS
from ken.errors import UserError
from ken.hub import Snapshot, fetch
from study import import_model, tasks, text
from study.data import hub_tasks
from study.definition import config
from study.definition.paths import Paths
from study.definition.study import Study
from study.finetune import finetune
from study.running import files, hub
from study.running.workflow import run
from tests import hub_server
from tests.conftest import SETTINGS, WORDS

ROOT = Path(__file__).parents[2]
TOKEN = "hf_AbCdEfGhIjKlMnOp"
GLUE = "datasets/nyu-mll/glue"
PICKLES = {"pytorch_model.bin": b"\x80\x04.", "modeling.py": b"import os", "onnx/model.safetensors": b"other weights"}
SST2 = {"source": "hub", "repository": "nyu-mll/glue", "revision": "main", "config": "sst2", "text": "sentence",
        "label": "label", "splits": {"train": "train", "test": "validation"}}  # fmt: skip


@pytest.fixture(scope="module")
def paper():
    return config.load(yaml.safe_load((ROOT / "config" / "paper.yaml").read_text()), METHODS)


def table(text: str, label: str, start: int, count: int, hidden: bool = False) -> bytes:
    """A Parquet file with class labels as on the hub; -1 if the labels are hidden."""
    kinds = datasets.ClassLabel(names=["tool", "fruit"])
    features = datasets.Features({text: datasets.Value("string"), label: kinds, "idx": datasets.Value("int32")})
    rows = range(start, start + count)
    words = {name: words.split() for name, words in WORDS.items()}
    texts = [f"Item {row} is a {words[['tool', 'fruit'][row % 2]][row % 5]}." for row in rows]
    labels = [-1 if hidden else row % 2 for row in rows]
    buffer = io.BytesIO()
    datasets.Dataset.from_dict({text: texts, label: labels, "idx": list(rows)}, features=features).to_parquet(buffer)
    return buffer.getvalue()


def glue_files() -> dict[str, bytes]:
    """Files of two configurations, one with two training files and hidden test labels."""
    return {
        "README.md": b"# GLUE",
        "glue.py": b"raise SystemExit('a loading script was run')",
        "sst2/train-00000-of-00002.parquet": table("sentence", "label", 0, 40),
        "sst2/train-00001-of-00002.parquet": table("sentence", "label", 40, 20),
        "sst2/validation-00000-of-00001.parquet": table("sentence", "label", 60, 16),
        "sst2/test-00000-of-00001.parquet": table("sentence", "label", 80, 10, hidden=True),
        "cola/train-00000-of-00001.parquet": table("sentence", "label", 0, 10),
    }


@pytest.fixture
def served(checkpoints):
    """A hub with two models and a data set of the paper's study."""
    models = {
        name: {path.name: path.read_bytes() for path in checkpoints[model].iterdir()} | PICKLES
        for model, name in {"bert": "google-bert/bert-base-uncased", "bloom-560m": "bigscience/bloom-560m"}.items()
    }
    with hub_server.running(models | {GLUE: glue_files()}) as server:
        yield server


@pytest.fixture
def use_hub(monkeypatch, tmp_path):
    """A function that points huggingface_hub, which reads its environment only once, to an address and a cache."""

    def point(address: str, offline: bool = False) -> None:
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
            "HF_HUB_OFFLINE": offline,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)

    return point


@pytest.fixture
def hub_here(served, use_hub):
    use_hub(served.address)
    return served


def error_message(call, *arguments) -> str:
    """The one-line message of the error that a call raises."""
    with pytest.raises(UserError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def fetch_bert(revision: str = "main") -> Snapshot:
    return hub.fetch_model("google-bert/bert-base-uncased", revision, import_model.COPIED)


def step_arguments(paper: dict, out: Path) -> list[list[str]]:
    """Steps and arguments of the rules import_model and build_task, for two models and a task of the paper."""
    Study(paper).write(out)
    calls = [["import_model", str(out), "--model", name] for name in ("bert", "bloom-560m")]
    return [*calls, ["tasks", str(out), "--task", "sst2"]]


def test_models_and_data_are_fetched_from_the_hub_and_later_read_offline(served, use_hub, paper, tmp_path, monkeypatch):
    program = """
import json, sys
from importlib import import_module
for step, *arguments in json.loads(sys.argv[1]):
    sys.argv = [step, *arguments]
    import_module(f"study.{step}").main()
"""
    sources = {"": [paper["models"]["bert"], paper["models"]["bloom-560m"]], "datasets/": [paper["tasks"]["sst2"]]}
    for kind, own in sources.items():
        for source in own:  # at the commit in the config
            name = kind + source["repository"]
            served.repositories[f"{name}@{source['revision']}"] = served.repositories[name]
    environment = os.environ | {"HF_ENDPOINT": served.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    environment = {key: value for key, value in environment.items() if key != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", program, json.dumps(step_arguments(paper, tmp_path / "first"))]
    completed = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert not any(word in path for path in served.requests for word in (".bin", ".py", "onnx", "cola", "sst2/test"))
    for path in (tmp_path / "first").rglob("*.json"):
        assert TOKEN not in path.read_text()
    assert TOKEN not in completed.stdout + completed.stderr

    use_hub("http://127.0.0.1:9", offline=True)
    for step, *arguments in step_arguments(paper, tmp_path / "second"):
        monkeypatch.setattr(sys, "argv", [step, *arguments])
        {"import_model": import_model, "tasks": tasks}[step].main()
    for first in (tmp_path / "first").rglob("*.*"):
        second = tmp_path / "second" / first.relative_to(tmp_path / "first")
        assert first.is_dir() or first.read_bytes() == second.read_bytes()
    axes = {"model": "bert", "task": "sst2", "seed": 0}
    paths = Paths(tmp_path / "second")
    trained = finetune(paths.pretrained("bert"), paths.task("sst2"), axes, SETTINGS, tmp_path / "cell")
    assert trained["head"] and 0 <= trained["accuracy"] <= 1


def test_the_manifest_of_a_model_records_the_resolved_commit(hub_here, tmp_path):
    snapshot = fetch_bert()
    manifest = import_model.import_model(snapshot.folder, "bert", tmp_path / "bert", snapshot.origin())
    served_files = hub_here.repositories["google-bert/bert-base-uncased"]
    commit = hub_server.commit(served_files)
    assert manifest["source"] == f"google-bert/bert-base-uncased@{commit}"
    assert {key: manifest["hub"][key] for key in ("repository", "revision", "commit")} == {
        "repository": "google-bert/bert-base-uncased", "revision": "main", "commit": commit,
    }  # fmt: skip
    assert set(manifest["hub"]["sha256"]) == set(served_files) - set(PICKLES)
    assert manifest["hub"]["sha256"]["model.safetensors"] == manifest["sha256"]["model.safetensors"]
    assert {path.name for path in (tmp_path / "bert").iterdir()} == set(snapshot.names) | {"manifest.json"}


def test_foreign_files_in_the_cache_are_not_imported(hub_here, tmp_path):
    snapshot = fetch_bert()
    (snapshot.folder / "model-00002.safetensors").write_bytes(b"left by others")
    (snapshot.folder / "manifest.json").write_text("[]")
    manifest = import_model.import_model(snapshot.folder, "bert", tmp_path / "bert", snapshot.origin())
    assert set(manifest["sha256"]) == set(snapshot.names) and manifest["pretraining"] is None


def test_commits_and_pull_requests_can_be_revisions(hub_here):
    weights = dict(hub_here.repositories["google-bert/bert-base-uncased"])
    hub_here.repositories["google-bert/bert-base-uncased"] = {"config.json": b"{}", "pytorch_model.bin": b"\x80"}
    hub_here.repositories["google-bert/bert-base-uncased@refs/pr/7"] = weights
    assert fetch_bert("refs/pr/7").commit == fetch_bert(hub_server.commit(weights)).commit
    message = error_message(fetch_bert)
    assert "its weights as pytorch_model.bin only" in message and "refs/pr/<number>" in message
    assert f"{hub_here.address}/google-bert/bert-base-uncased/discussions" in message


def test_only_the_hubs_own_safetensors_conversion_is_used(hub_here, tmp_path):
    name = "google-bert/bert-base-uncased"
    whole = dict(hub_here.repositories[name])
    pickled = {file: data for file, data in whole.items() if not file.endswith(".safetensors")}
    stranger = pickled | {"model.safetensors": whole["model.safetensors"][:-1] + b"!"}
    hub_here.repositories[name] = pickled | {"README.md": b"newer than the conversion"}
    hub_here.repositories |= {f"{name}@refs/pr/1": stranger, f"{name}@refs/pr/3": whole}
    hub_here.repositories[f"{name}@refs/pr/2"] = whole | {"pytorch_model.bin": b"\x80 of an older revision"}
    authors = {1: "stranger", 2: "SFconvertbot", 3: "SFconvertbot"}
    requests = {number: hub_server.pull_request(name, number, author) for number, author in authors.items()}
    hub_here.discussions[name] = [requests[1], requests[2]]
    assert "the hub has no conversion of its own" in error_message(fetch_bert)
    hub_here.discussions[name] = list(requests.values())
    snapshot = fetch_bert()
    assert (snapshot.revision, snapshot.commit) == ("main", hub_server.commit(whole))
    assert (snapshot.folder / "model.safetensors").read_bytes() == whole["model.safetensors"]
    assert not {"pytorch_model.bin", "README.md"} & set(snapshot.names)
    manifest = import_model.import_model(snapshot.folder, "bert", tmp_path / "bert", snapshot.origin())
    assert manifest["source"] == f"{name}@{snapshot.commit}" and manifest["hub"]["revision"] == "main"


def test_a_failed_search_for_a_conversion_is_not_reported_as_missing(hub_here, use_hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    name = "google-bert/bert-base-uncased"
    whole = dict(hub_here.repositories[name])
    hub_here.repositories[name] = {file: data for file, data in whole.items() if not file.endswith(".safetensors")}
    hub_here.repositories[f"{name}@refs/pr/3"] = whole
    hub_here.discussions[name] = 500
    assert f"a request to the hub for model {name}" in error_message(fetch_bert)
    hub_here.discussions[name] = [hub_server.pull_request(name, 3, "SFconvertbot")]
    commit = fetch_bert().commit
    use_hub(hub_here.address, offline=True)
    assert "conversion cannot be looked up: set revision to the commit of the conversion" in error_message(fetch_bert)
    assert fetch_bert(commit).commit == commit


def test_a_data_set_becomes_a_task_with_the_names_of_its_classes(hub_here, tmp_path):
    manifest = tasks.build("sst2", SST2, {}, tmp_path / "sst2")
    assert manifest["classes"] == ["fruit", "tool"]
    assert {split: sum(counts.values()) for split, counts in manifest["counts"].items()} == {
        "train": 54, "validation": 6, "test": 16,
    }  # fmt: skip
    origin = manifest["origin"]
    served_files = hub_here.repositories[GLUE]
    assert origin["commit"] == hub_server.commit(served_files) and origin["splits"] == SST2["splits"]
    assert list(origin["sha256"]) == [name for name in sorted(served_files) if "sst2/tr" in name or "sst2/v" in name]
    for name, digest in origin["sha256"].items():
        assert hub_server.described(name, served_files[name])["lfs"]["oid"] == digest


def test_without_a_test_split_validation_becomes_the_test_set(hub_here):
    *frames, notes, origin = hub_tasks.prepare(SST2 | {"splits": {"train": "train", "validation": "validation"}})
    assert [len(frame) for frame in frames] == [54, 6, 16]
    assert notes[0] == 'test: the split "validation", since no test split is named'
    assert origin["splits"] == {"train": "train", "test": "validation"}


def test_a_data_set_with_a_loading_script_needs_its_parquet_conversion(hub_here):
    emo = {"source": "hub", "repository": "emo", "revision": "main", "text": "text", "label": "label",
           "splits": {"train": "train", "test": "test"}}  # fmt: skip
    hub_here.repositories["datasets/emo"] = {"emo.py": b"raise SystemExit('run')"}
    hub_here.repositories["datasets/emo@refs/convert/parquet"] = {
        "emo2019/train/0000.parquet": table("text", "label", 0, 20),
        "emo2019/train/0001.parquet": table("text", "label", 20, 20),
        "emo2019/test/0000.parquet": table("text", "label", 40, 10),
        "emo2019/partial-extra/0000.parquet": table("text", "label", 50, 10),
    }
    assert "set revision to refs/convert/parquet" in error_message(hub_tasks.prepare, emo)
    emo["revision"] = "refs/convert/parquet"
    train, validation, test, *_ = hub_tasks.prepare(emo)
    assert [len(train), len(validation), len(test)] == [36, 4, 10] and set(test["label"]) == {"fruit", "tool"}
    message = error_message(hub_tasks.prepare, emo | {"splits": {"train": "extra", "test": "test"}})
    assert 'holds only a part of the split "extra"' in message


def test_a_text_column_becomes_documents(hub_here):
    shards = {f"{split}.parquet": table("text", "label", start, 10) for start, split in enumerate(text.SPLITS)}
    hub_here.repositories["datasets/lab/lines"] = shards
    spec = {"source": "hub", "repository": "lab/lines", "revision": "main", "text": "text"}
    spec |= {"train_words": 1000, "test_words": 1000}
    documents, origin = text.build(spec, [])
    assert set(origin["sha256"]) == set(shards)
    assert {split: len(frame) for split, frame in documents.items()} == dict.fromkeys(text.SPLITS, 1)
    lines = documents["validation"]["text"][0].splitlines()
    assert len(lines) == 10 and lines[0].startswith("Item 1 is a ")
    message = error_message(text.build, spec | {"text": "txet"}, [])
    assert 'has no column "txet"' in message and 'Did you mean "text"?' in message


def test_a_repository_that_was_renamed_is_found_under_its_old_name(hub_here):
    hub_here.repositories["datasets/SemEvalWorkshop/emo"] = {"train.parquet": table("text", "label", 0, 4)}
    hub_here.moved["datasets/emo"] = "datasets/SemEvalWorkshop/emo"
    snapshot = fetch("emo", "dataset", "main", lambda listed: listed)
    assert snapshot.names == ["train.parquet"] and snapshot.origin()["repository"] == "emo"


@pytest.mark.parametrize(
    ("name", "config_and_split"),
    {
        "data/train-00000-of-00001.parquet": ("default", "train"),
        "data/train-00000-of-00002-1359597a978bc4fa.parquet": ("default", "train"),
        "test.parquet": ("default", "test"),
        "plain_text/train-00000-of-00001.parquet": ("plain_text", "train"),
        "default/train/0000.parquet": ("default", "train"),
        "a/b/part-of-speech/0001.parquet": ("a/b", "part-of-speech"),
    }.items(),
)
def test_config_and_split_from_a_file_name(name, config_and_split):
    assert hub_tasks._config_and_split(name) == config_and_split


WRONG_TASKS = [
    ({"config": None}, 'has 2 configurations: name one as config. Valid: cola, sst2'),
    ({"config": "sst"}, 'has no configuration "sst". Did you mean "sst2"?'),
    ({"splits": {"train": "trian", "test": "validation"}}, 'has no split "trian". Did you mean "train"?'),
    ({"splits": {"train": "train", "test": "test"}}, "no label in column .* name a split that has labels"),
    ({"text": "sentnce"}, 'has no column "sentnce".* Did you mean "sentence"?'),
    ({"revision": "v2"}, 'data set nyu-mll/glue has no revision "v2": name a commit, tag or branch that .* shows'),
    ({"repository": "nyu-mll/glue.git"}, "nyu-mll/glue.git is not a valid repository name .*correct it"),
    ({"repository": "nyu-mll/gleu"}, "data set nyu-mll/gleu is not on the hub, or private: correct the name"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG_TASKS, ids=lambda value: str(value)[:30])
def test_missing_parts_of_a_data_set_give_one_line_messages(hub_here, tmp_path, change, message):
    sentence = error_message(tasks.build, "sst2", SST2 | change, {}, tmp_path / "sst2")
    assert re.search(message, sentence) and not (tmp_path / "sst2").exists()


REFUSED = {
    "gated": (403, {"X_Error_Code": "GatedRepo"}, "is gated: request access on .*, then set HF_TOKEN"),
    "gated, no token": (401, {"X_Error_Code": "GatedRepo"}, "is gated: request access on"),
    "private": (401, {}, "is not on the hub, or private: correct the name; for a private one set HF_TOKEN"),
    "wrong token": (
        401,
        {"X_Error_Message": "Invalid credentials in Authorization header"},
        r"the hub rejects the token for model .* \(401\): renew or unset HF_TOKEN",
    ),
    "forbidden": (403, {"X_Error_Message": "No right for {shown}"}, r"denies access to model .* \(403\)"),
    "down": (500, {"X_Error_Message": "Broken for {shown}"}, "a request to the hub for model .*check the network"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_of_the_hub_give_one_line_messages_without_the_token(hub_here, monkeypatch, case):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    status, headers, message = REFUSED[case]
    hub_here.refused["google-bert/bert-base-uncased"] = (status, headers)
    sentence = error_message(fetch_bert)
    assert re.search(message, sentence) and TOKEN not in sentence and "Bearer" not in sentence.replace("Bearer …", "")


def test_without_network_and_cache_the_error_says_so(use_hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    use_hub("http://someone:secret@127.0.0.1:9")
    message = error_message(fetch_bert)
    assert "a request to the hub for model google-bert/bert-base-uncased" in message and "secret" not in message
    use_hub("http://127.0.0.1:9", offline=True)
    message = error_message(fetch_bert)
    assert "is not complete in the cache" in message and "HF_HUB_OFFLINE is set: unset it" in message


def test_a_full_disk_gives_a_one_line_message(hub_here, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert "no space for model google-bert/bert-base-uncased is left in" in error_message(fetch_bert)


@pytest.mark.parametrize("how", ["short", "cut"])
def test_an_interrupted_download_leaves_no_partial_file_and_resumes(hub_here, use_hub, monkeypatch, how):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its attempts
    hub_here.broken["model.safetensors"] = how
    message = error_message(fetch_bert)
    assert "the download of model google-bert/bert-base-uncased was interrupted" in message and "run again" in message
    cache = Path(constants.HF_HUB_CACHE)
    assert not list(cache.rglob("*.incomplete")) and not list(cache.rglob("model.safetensors"))
    use_hub(hub_here.address, offline=True)
    assert "is not complete in the cache" in error_message(fetch_bert)
    use_hub(hub_here.address)
    hub_here.broken.clear()
    before = len(hub_here.requests)
    weights = fetch_bert().folder / "model.safetensors"
    assert weights.read_bytes() == hub_here.repositories["google-bert/bert-base-uncased"]["model.safetensors"]
    fetched = {path.rpartition("/")[2] for path in hub_here.requests[before:] if "/resolve/" in path}
    assert "model.safetensors" in fetched and len(fetched) < len(fetch_bert().names)


def test_a_damaged_file_in_the_cache_is_detected(hub_here):
    snapshot = fetch_bert()
    weights = (snapshot.folder / "model.safetensors").resolve()
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    assert "is not the file that the hub has (model.safetensors is damaged): delete it" in error_message(
        snapshot.origin
    )
    weights.unlink()
    assert fetch_bert().origin()["sha256"]["model.safetensors"] == files.sha256(weights)


@pytest.mark.parametrize(
    "name", ["../out.parquet", "/tmp/out.parquet", "a/../../out.parquet", "..\\o.parquet", "C:o.parquet"]
)
def test_file_names_outside_the_folder_are_refused(hub_here, tmp_path, name):
    hub_here.repositories["datasets/lab/evil"] = {name: b"x", "train.parquet": b"x"}
    message = error_message(fetch, "lab/evil", "dataset", "main", lambda listed: listed)
    assert "leads out of its folder" in message
    assert not any("resolve" in path for path in hub_here.requests) and not list(tmp_path.rglob("out.parquet"))


def test_file_names_are_not_treated_as_patterns(hub_here):
    hub_here.repositories["datasets/lab/odd"] = {"[a]*.parquet": b"x", "a1.parquet": b"y"}
    assert fetch("lab/odd", "dataset", "main", lambda listed: listed[:1]).names == ["[a]*.parquet"]
    assert not any("a1.parquet" in path for path in hub_here.requests)


def test_repositories_without_configuration_or_weights_are_refused(hub_here):
    hub_here.repositories["lab/empty"] = {"README.md": b"x"}
    fetch_empty = lambda: hub.fetch_model("lab/empty", "main", import_model.COPIED)  # noqa: E731
    assert "has no config.json: name the repository of a transformers model" in error_message(fetch_empty)
    hub_here.repositories["lab/empty"] = {"config.json": b"{}"}
    assert "has no weights, but only safetensors is read" in error_message(fetch_empty)


def test_code_in_a_model_repository_is_never_run(hub_here, tmp_path):
    served_files = hub_here.repositories["google-bert/bert-base-uncased"]
    own_code = {"model_type": "other", "auto_map": {"AutoConfig": "modeling.Config"}}
    served_files |= {"config.json": json.dumps(own_code).encode(), "modeling.py": b"raise SystemExit('run')"}
    snapshot = fetch_bert()
    assert "modeling.py" not in snapshot.names
    message = error_message(import_model.import_model, snapshot.folder, "bert", tmp_path / "bert", snapshot.origin())
    assert "config.json is not a configuration transformers can read: it needs code of its own" in message
    assert not (tmp_path / "bert").exists()


def test_a_step_ends_with_the_one_line_message(hub_here, monkeypatch, tmp_path):
    model, out = {"source": "hub", "repository": "lab/absent", "revision": "main"}, tmp_path / "models"
    Study({"study": "mine", "models": {"m": model}, "language_modelling": {"models": {}}}).write(tmp_path)
    monkeypatch.setattr(sys, "argv", ["import_model", str(tmp_path), "--model", "m"])
    with pytest.raises(SystemExit) as ended:
        run(import_model.main)
    assert str(ended.value.code).startswith("error: model lab/absent is not on the hub") and not out.exists()


def test_huggingface_hub_is_imported_lazily():
    program = "import sys, study.running.hub, study.data.hub_tasks; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_paper_config_has_seven_models_from_the_hub(paper):
    assert len(paper["models"]) == 7
    assert {entry["source"] for kind in ("models", "tasks") for entry in paper[kind].values()} == {"hub"}
