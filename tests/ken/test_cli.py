"""The command `ken`: every sub-command on a real small model, its JSON, its errors and its exit codes."""

import json
import subprocess
import sys

import pytest

from ken import cli
from ken.subnetwork import Subnetwork


@pytest.fixture(scope="module")
def stored(tmp_path_factory, checkpoints, finetuned_cells):
    """Paths of the base, the fine-tuned model and a sub-network that the command has written."""
    base, tuned = str(checkpoints["bert"]), str(finetuned_cells["bert"])
    out = tmp_path_factory.mktemp("cli") / "sub.ken.safetensors"
    cli.main(["prune", "--pretrained", base, "--finetuned", tuned, "--k", "0.25", "--quiet", "--out", str(out)])
    return base, tuned, str(out)


def printed(capsys, *arguments: str) -> str:
    cli.main(list(arguments))
    return capsys.readouterr().out


def test_prune_writes_the_same_file_as_the_library(stored, tmp_path, capsys):
    base, tuned, out = stored
    Subnetwork.extract(base, tuned, 0.25).save(tmp_path / "library")
    with open(out, "rb") as file:
        assert file.read() == (tmp_path / "library").read_bytes()
    arguments = ["prune", "--pretrained", base, "--finetuned", tuned, "--k", "7", "--method", "ken-grid"]
    arguments += ["--rule", "rescale", "--scope", "layers", "--json", "--out", str(tmp_path / "b")]
    facts = json.loads(printed(capsys, *arguments))
    assert (facts["method"], facts["k"], facts["rule"], facts["scope"]) == ("ken-grid", 7, "rescale", "layers")
    assert facts["kept"] == Subnetwork.load(tmp_path / "b").kept_body


def test_info_as_text_and_as_json(stored, capsys):
    out = stored[2]
    facts, subnetwork = json.loads(printed(capsys, "info", out, "--json")), Subnetwork.load(out)
    assert facts["kept"] == subnetwork.kept_body and facts["body"] == subnetwork.total_body
    assert facts["head"] == subnetwork.head_size and facts["base"] == subnetwork.base
    assert {name: tuple(sizes) for name, sizes in facts["tensors"].items()} == subnetwork.counts
    text = printed(capsys, "info", out, "--tensors")
    assert "method ken, k 0.25, rule reset, scope all" in text and "embeddings.word_embeddings.weight" in text


def test_inject_and_check(stored, tmp_path, capsys):
    base, _, out = stored
    assert "written" in printed(capsys, "inject", "--pretrained", base, "--subnetwork", out, "--quiet", "--out",
                                str(tmp_path / "model"))  # fmt: skip
    from transformers import AutoModelForSequenceClassification

    restored = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").state_dict()
    expected = Subnetwork.load(out).apply(base)
    assert all((restored[name] == tensor).all() for name, tensor in expected.items())
    assert "bit for bit" in printed(capsys, "check", "--pretrained", base, "--subnetwork", out)
    checks = json.loads(printed(capsys, "check", "--pretrained", base, "--subnetwork", out, "--json"))
    assert checks == {"injected": True, "ejected": True}


@pytest.mark.parametrize("matrix", [None, "key.weight", "bert.encoder.layer.0.output.dense.weight"])
def test_viz_draws(stored, tmp_path, capsys, matrix):
    chosen = ["--matrix", matrix] if matrix else []
    printed(capsys, "viz", stored[2], *chosen, "--out", str(tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_suggest_on_a_csv_file(stored, tmp_path, capsys, task_folder):
    import pandas as pd

    base, tuned, _ = stored
    frame = pd.read_parquet(task_folder / "validation.parquet")
    frame.to_csv(tmp_path / "validation.csv", index=False)
    arguments = ["suggest", "--pretrained", base, "--finetuned", tuned]
    arguments += [
        "--validation",
        str(tmp_path / "validation.csv"),
        "--margin",
        "0.05",
        "--resolution",
        "0.1",
        "--quiet",
    ]
    suggestion = json.loads(printed(capsys, *arguments, "--json"))
    assert 0 < suggestion["share"] <= 1 and suggestion["curve"]
    assert "of each row" in printed(capsys, *arguments)
    with pytest.raises(SystemExit, match="no column 'sentence': found text, label"):
        cli.main([*arguments, "--text", "sentence"])
    (tmp_path / "validation.csv").write_text("\ufefftext,label\napple,fruit\nsaw\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks a text or a label in row 2"):
        cli.main(arguments)
    frame.assign(label="vegetable").to_csv(tmp_path / "validation.csv", index=False)
    with pytest.raises(SystemExit, match="label 'vegetable', which is not a class of the model: fruit, tool"):
        cli.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["info", "/nowhere/x"], "No such file"),
        (["inject", "--pretrained", "BASE", "--subnetwork", "BASE/config.json", "--out", "OUT"], "no safetensors file"),
        (["inject", "--pretrained", "TUNED", "--subnetwork", "SUB", "--out", "OUT"], "the base has fingerprint"),
        (["prune", "--pretrained", "/nowhere/x", "--finetuned", "TUNED", "--k", "3", "--out", "OUT"], "does not exist"),
        (["prune", "--pretrained", "BASE", "--finetuned", "TUNED", "--k", "3", "--method", "kenn", "--out", "OUT"],
         "did you mean 'ken'"),
        (["prune", "--pretrained", "BASE", "--finetuned", "TUNED", "--k", "3", "--device", "gpu", "--out", "OUT"],
         "device 'gpu' cannot be used here"),
        (["viz", "SUB", "--matrix", "nothing", "--out", "OUT.png"], "'nothing' fits 0 kinds of matrices"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_leave_no_files(stored, tmp_path, arguments, sentence):
    names = {"BASE": stored[0], "TUNED": stored[1], "SUB": stored[2], "OUT": str(tmp_path / "out")}
    for name, value in names.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    message = str(ended.value)
    assert message.startswith("error: ") and "\n" not in message and sentence in message
    assert not list(tmp_path.iterdir())


def test_errors_end_with_status_1_and_no_traceback():
    command = [sys.executable, "-m", "ken.cli", "info", "/nowhere/x"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert completed.returncode == 1 and completed.stderr.startswith("error: ") and "Traceback" not in completed.stderr


@pytest.mark.parametrize("k", ["0", "-3", "1.5", "many"])
def test_a_budget_out_of_range_is_a_usage_error(k, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["prune", "--pretrained", "a", "--finetuned", "b", "--out", "c", "--k", k])
    assert f"{k!r} is neither a whole number" in capsys.readouterr().err


def test_importing_the_library_loads_no_optional_packages():
    """The library itself needs only torch, numpy, safetensors and tqdm; other packages are optional extras."""
    extras = {"transformers", "datasets", "pandas", "scipy", "sklearn", "matplotlib", "snakemake", "huggingface_hub"}
    program = f"import sys, ken, ken.cli; sys.exit(' '.join({extras} & set(sys.modules)) or 0)"
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert completed.returncode == 0, completed.stderr
