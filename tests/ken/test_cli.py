"""The command `ken`: every sub-command on a real small model, its JSON, its errors and its exit codes."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ken import cli, hub
from ken.subnetwork import Subnetwork


@pytest.fixture(scope="module")
def stored(tmp_path_factory, checkpoints, finetuned_cells):
    """Paths of the base, the fine-tuned model and a sub-network that the command has written."""
    base, tuned = str(checkpoints["bert"]), str(finetuned_cells["bert"])
    out = tmp_path_factory.mktemp("cli") / "sub.ken.safetensors"
    pair = ["--pretrained", base, "--finetuned", tuned]
    cli.main(["prune", *pair, "--k", "0.25", "--rule", "reset", "--quiet", "--out", str(out)])
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
    printed(capsys, "merge", "--pretrained", base, "--subnetwork", out, "--quiet", "--out", str(tmp_path / "merged"))
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "merged")]
    assert files[0] == files[1], "merge is inject"
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
    frame = pd.concat([pd.read_parquet(task_folder / f"{split}.parquet") for split in ("validation", "test")])
    frame.to_csv(tmp_path / "validation.csv", index=False)
    arguments = ["suggest", "--pretrained", base, "--finetuned", tuned]
    arguments += [
        "--validation",
        str(tmp_path / "validation.csv"),
        "--margin",
        "0.2",
        "--resolution",
        "0.1",
        "--quiet",
    ]
    suggestion = json.loads(printed(capsys, *arguments, "--json"))
    assert 0 < suggestion["share"] <= 1 and suggestion["smallest"] in suggestion["curve"]
    out = tmp_path / "smallest.ken.safetensors"
    assert f"{suggestion['smallest']['file_bytes']:,} bytes" in printed(capsys, *arguments, "--out", str(out))
    assert json.loads(printed(capsys, "info", str(out), "--json"))["k"] == suggestion["share"]
    of_ken = json.loads(printed(capsys, *arguments, "--json", "--method", "ken"))
    assert 0 < of_ken["share"] <= 1 and of_ken["curve"]
    assert "of each row" in printed(capsys, *arguments, "--method", "ken")
    with pytest.raises(SystemExit, match="--method finds a share and writes no file"):
        cli.main([*arguments, "--method", "ken", "--minutes", "1"])
    with pytest.raises(SystemExit, match="no column 'sentence': found text, label"):
        cli.main([*arguments, "--text", "sentence"])
    (tmp_path / "validation.csv").write_text("\ufefftext,label\napple,fruit\nsaw\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks a text or a label in row 2"):
        cli.main(arguments)
    (tmp_path / "validation.csv").write_text('text,label\n"an apple,fruit\na saw",tool\n', encoding="utf-8")
    with pytest.raises(SystemExit, match="several lines in row 1 that contains another row"):
        cli.main(arguments)
    (tmp_path / "validation.csv").write_text("text,label\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no rows below its header"):
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


def test_a_picture_depends_neither_on_a_notebook_nor_on_a_matplotlibrc(stored, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 22\naxes.facecolor: red\n")
    settings = {"plain": {}, "notebook": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}}
    settings["own"] = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    for name, changes in settings.items():
        command = [sys.executable, "-m", "ken", "viz", stored[2], "--out", str(tmp_path / f"{name}.svg")]
        subprocess.run(command, env=os.environ | changes, check=True, capture_output=True, timeout=60)
    assert len({(tmp_path / f"{name}.svg").read_bytes() for name in settings}) == 1


OUTPUTS = {
    "prune onto the base": ["prune", "PAIR", "--out", "BASE/model.safetensors"],
    "prune onto the fine-tuned model": ["prune", "PAIR", "--out", "TUNED/model.safetensors"],
    "prune onto its tokenizer": ["prune", "PAIR", "--out", "TUNED/tokenizer.json"],
    "prune onto a link": ["prune", "PAIR", "--out", "link.safetensors"],
    "inject onto the base": ["inject", "STORED", "--out", "BASE/model.safetensors"],
    "inject onto a link": ["inject", "STORED", "--out", "link.safetensors"],
    "inject onto the sub-network": ["inject", "STORED", "--out", "sub.ken.safetensors"],
    "inject onto another sub-network": ["inject", "STORED", "--out", "other.ken.safetensors"],
    "viz onto the sub-network": ["viz", "sub.ken.safetensors", "--out", "sub.ken.safetensors"],
    "viz onto a text": ["viz", "sub.ken.safetensors", "--out", "notes.svg"],
    "explorer onto the sub-network": ["viz", "sub.ken.safetensors", "--explorer", "sub.ken.safetensors"],
    "explorer onto a page": ["viz", "sub.ken.safetensors", "--explorer", "index.html"],
    "explorer onto the base": ["viz", "sub.ken.safetensors", "--pretrained", "BASE", "--explorer", "link.safetensors"],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_inputs_and_files_of_another_kind_are_never_written_over(name, stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for made, given in (("BASE", stored[0]), ("TUNED", stored[1])):
        shutil.copytree(given, made)
    for made in ("sub.ken.safetensors", "other.ken.safetensors"):
        shutil.copyfile(stored[2], made)
    Path("link.safetensors").symlink_to("BASE/model.safetensors")
    Path("notes.svg").write_text("my notes")
    Path("index.html").write_text("<!DOCTYPE html><title>mine</title>")
    words = {"PAIR": ["--pretrained", "BASE", "--finetuned", "TUNED", "--quiet"],
             "STORED": ["--pretrained", "BASE", "--subnetwork", "sub.ken.safetensors", "--quiet"]}  # fmt: skip
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match=r"error: .* (is an input of this command|exists and is not)"):
        cli.main([word for given in OUTPUTS[name] for word in words.get(given, [given])])
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_outputs_of_the_same_kind_are_replaced(stored, tmp_path, capsys):
    base, tuned, out = stored
    for _ in range(2):
        printed(capsys, "prune", "--pretrained", base, "--finetuned", tuned, "--quiet", "--out", str(tmp_path / "sub"))
        printed(capsys, "inject", "--pretrained", base, "--subnetwork", out, "--quiet", "--out",
                str(tmp_path / "a.safetensors"))  # fmt: skip
        for suffix in ("svg", "pdf", "png"):
            printed(capsys, "viz", out, "--out", str(tmp_path / f"a.{suffix}"), "--explorer", str(tmp_path / "a.html"))


def test_the_default_is_what_the_studies_found_best(stored, tmp_path, capsys):
    base, tuned, _ = stored
    printed(capsys, "prune", "--pretrained", base, "--finetuned", tuned, "--quiet", "--out", str(tmp_path / "default"))
    Subnetwork.extract(base, tuned, 0.05, rule="rescale").save(tmp_path / "library")
    assert (tmp_path / "default").read_bytes() == (tmp_path / "library").read_bytes()
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "--preset small" in " ".join(capsys.readouterr().out.split())


def test_one_entry_of_a_row_is_not_taken_for_all(stored, tmp_path, capsys):
    base, tuned, _ = stored
    arguments = ["prune", "--pretrained", base, "--finetuned", tuned, "--quiet", "--out", str(tmp_path / "sub"), "--k"]
    cli.main([*arguments, "1"])
    assert "--k 1 keeps one entry of each row; to keep all of them, write --k 1.0" in capsys.readouterr().err
    cli.main([*arguments, "1.0"])
    assert capsys.readouterr().err == "" and Subnetwork.load(tmp_path / "sub").kept_share == 1


def test_the_head_is_named_with_its_share(stored, capsys):
    assert "% of the model, stored whole (" in printed(capsys, "info", stored[2])
    assert "classifier.weight" in json.loads(printed(capsys, "info", stored[2], "--json"))["head_tensors"]


def test_a_large_head_needs_its_flag(stored, tmp_path, capsys):
    base, tuned, _ = stored
    tensors = load_file(Path(tuned, "model.safetensors"))
    save_file(tensors | {"classifier.more.weight": torch.ones(100, 16)}, tmp_path / "large.safetensors")
    arguments = ["prune", "--pretrained", base, "--finetuned", str(tmp_path / "large.safetensors"), "--quiet"]
    arguments += ["--out", str(tmp_path / "sub")]
    with pytest.raises(SystemExit, match=r"classifier.more.weight.*--allow-head"):
        cli.main(arguments)
    assert "classifier.more.weight" in printed(capsys, *arguments, "--allow-head")


def test_a_folder_in_place_of_a_sub_network(stored, tmp_path):
    with pytest.raises(SystemExit, match=r"is a folder, expected a file that `ken prune` has written: name the file"):
        cli.main(["info", stored[0]])
    shutil.copyfile(stored[2], tmp_path / "my.ken.safetensors")
    with pytest.raises(SystemExit, match=r"such as .*my.ken.safetensors: name the file"):
        cli.main(["info", str(tmp_path)])


@pytest.mark.parametrize("arguments", [["info", "SUB", "--tensors"], ["--help"], ["info", "SUB", "--json"]])
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(stored, arguments):
    command = [sys.executable, "-m", "ken", *(stored[2] if word == "SUB" else word for word in arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running.stdout.close()  # before anything is written
    said = running.stderr.read()
    running.stderr.close()
    assert said == "" and running.wait(60) in ((0, 141) if "--help" in arguments else (141,))


def test_version_and_module():
    for module in ("ken", "ken.cli"):
        command = [sys.executable, "-m", module, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and re.fullmatch(r"ken (\d+\.\d+.*|\(from a checkout .*\))\n", done.stdout)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_home_that_may_not_be_written(number):
    sentence = r"cannot be stored in the cache .*: set HF_HOME to a folder that may"
    with pytest.raises(hub.HubError, match=sentence), hub.client("lab/base", "model", "main", "download"):
        raise OSError(number, os.strerror(number), "/home/x/.cache")


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
    extras = {"transformers", "peft", "datasets", "pandas", "scipy", "sklearn", "matplotlib", "snakemake"}
    extras |= {"huggingface_hub"}
    program = f"import sys, ken, ken.cli; sys.exit(' '.join({extras} & set(sys.modules)) or 0)"
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert completed.returncode == 0, completed.stderr
