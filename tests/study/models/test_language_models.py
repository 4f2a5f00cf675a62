"""Language models: documents and chunks, document losses, and pruned and adapted models restored from files."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from baselines import METHODS
from ken.errors import UserError
from study import adapt_language_model, prune_language_model, text
from study.adapt_language_model import adapt
from study.cells import perplexity_rows
from study.cells.perplexity_rows import Row, load_or_run, write_results
from study.compress_language_model import Adapted, compress_all
from study.definition.paths import Paths
from study.definition.study import Study
from study.models import language_models
from study.models.classifiers import load_tokenizer
from study.models.language_models import load_language_model
from study.perplexity import collect
from study.prune_language_model import Pruning, prune_all, runs_of, schedule
from study.running import files
from study.training.chunks import Chunks, read_chunks
from study.training.language_modelling import document_losses, perplexity
from tests.steps import run_step

PRUNING = {
    "methods": ["magnitude", "llm-surgeon", "sparsegpt", "wanda"], "structures": ["element", "2:4", "row-column"],
    "sparsities": [0.25, 0.5], "shots": [1, 2], "calibration": 3, "low_rank": 0, "max_length": 12, "batch_size": 4,
}  # fmt: skip
AXES = {"model": "bloom-560m", "seed": 0}


def words(count: int) -> str:
    return " ".join(["word"] * count)


def test_source_files_become_documents_and_held_out_ones_are_cut(tmp_path):
    rows = [("a.py", "train", words(300)), ("a.py", "train", "End."), ("b.py", "test", words(150)),
            ("b.py", "test", words(150)), ("c.py", "validation", "One two.")]  # fmt: skip
    corpus = pd.DataFrame(rows, columns=["file", "split", "sentence"]).assign(docstring=0, paragraph=0)
    corpus.to_parquet(tmp_path / "p.parquet")
    files.write_json(tmp_path / "p.json", {"sha256": files.sha256(tmp_path / "p.parquet")})
    spec = {"source": "docstrings", "packages": ["p"], "train_words": 1000, "test_words": 1000}
    documents, origin = text.build(spec, [tmp_path / "p.parquet"])
    assert origin is None and {split: len(frame) for split, frame in documents.items()} == dict.fromkeys(text.SPLITS, 1)
    assert documents["train"]["text"][0] == f"{words(300)} End." and documents["train"]["document"][0] == "a.py"
    assert documents["test"]["text"][0] == words(text.HELD_OUT_WORDS)


def test_text_files_are_cut_into_documents_with_a_validation_split(tmp_path):
    lines = [words(100)] * 120
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "test.txt").write_text("\n".join(lines[:7]))
    spec = {"source": "files", "train": str(tmp_path / "train.txt"), "test": str(tmp_path / "test.txt")}
    documents, _ = text.build(spec | {"train_words": 5000, "test_words": 5000}, [])
    assert [len(one.split()) for one in documents["test"]["text"]] == [500, 200]
    assert len(documents["validation"]) == 2, "every tenth of 24 documents"
    assert len(documents["train"]) == 10, "5,000 words"
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        text.build(spec | {"train_words": 5000, "test_words": 5000}, [])
    (tmp_path / "train.txt").write_text("")
    with pytest.raises(UserError, match="no documents in its part train"):
        text.build(spec | {"train_words": 5000, "test_words": 5000}, [])


def test_chunks_stay_within_documents(checkpoint, text_folder):
    tokenizer = load_tokenizer(checkpoint, 7)
    chunks = read_chunks(text_folder, "test", tokenizer, 7)
    documents = pd.read_parquet(text_folder / "test.parquet")
    for index, name in enumerate(chunks.names):
        own = [ids for ids, owner in zip(chunks.ids, chunks.documents, strict=True) if owner == index]
        tokens = tokenizer(documents["text"][index], add_special_tokens=False)["input_ids"]
        whole = [token for ids in own for token in ids]
        assert whole == tokens[: len(whole)] and len(tokens) - len(whole) < 2 and name == documents["document"][index]
        assert all(len(ids) == 7 for ids in own[:-1]) and all(len(ids) >= 2 for ids in own)
    batches = list(chunks.batches(list(range(len(chunks))), 4))
    assert sorted(index for batch in batches for index in batch) == list(range(len(chunks)))
    assert all(len({len(chunks.ids[index]) for index in batch}) == 1 and len(batch) <= 4 for batch in batches)


def test_losses_of_documents_against_a_loop_over_tokens(checkpoint, text_folder):
    model = load_language_model(checkpoint).double()
    chunks = read_chunks(text_folder, "test", load_tokenizer(checkpoint, 7), 7)
    losses, tokens = document_losses(model.float(), chunks, 4)
    expected, counts = np.zeros(len(losses)), np.zeros(len(losses), dtype=int)
    with torch.no_grad():
        for ids, owner in zip(chunks.ids, chunks.documents, strict=True):
            for end in range(1, len(ids)):
                scores = model(input_ids=torch.tensor([ids[:end]])).logits[0, -1].double()
                expected[owner] += float(torch.logsumexp(scores, 0) - scores[ids[end]])
                counts[owner] += 1
    assert (tokens == counts).all() and np.allclose(losses, expected, rtol=1e-5)
    assert perplexity(losses, tokens) == pytest.approx(math.exp(expected.sum() / counts.sum()), rel=1e-5)


def test_a_checkpoint_that_is_no_language_model_is_refused(checkpoints, tmp_path):
    with pytest.raises(UserError, match="causal"):
        load_language_model(checkpoints["distilbert"])
    with pytest.raises(UserError, match="not a causal language model"):
        load_language_model(tmp_path)


def test_tied_parameters_need_one_name(checkpoint):
    model = load_language_model(checkpoint)
    body = language_models.body_of(model)
    assert "lm_head.weight" in model.state_dict() and "lm_head.weight" not in body
    other = language_models.empty_language_model(checkpoint)
    language_models.load_body(other, body)
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    body.pop(next(iter(body)))
    with pytest.raises(ValueError, match="lacks the parameter"):
        language_models.load_body(other, body)


def test_the_schedule_passes_through_all_sparsities():
    assert schedule([0.1, 0.2, 0.5], 5) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert schedule([0.25, 0.5], 3) == [pytest.approx(1 / 6), 0.25, pytest.approx(1 / 3), 0.5]
    assert schedule([0.3], 1) == [0.3]


@pytest.fixture(scope="module")
def pruned(checkpoint, text_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned")
    pruning = Pruning(checkpoint, text_folder, AXES, PRUNING, out)
    return pruning, prune_all(pruning)


def test_a_model_without_linear_layers_is_refused(checkpoint, text_folder, tmp_path):
    folder = tmp_path / "gpt2"
    shutil.copytree(checkpoint, folder)
    size = {"vocab_size": len(load_tokenizer(checkpoint, 12)), "n_embd": 8, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**size)).save_pretrained(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"mine has no torch.nn.Linear layers to prune \(those of GPT-2 are Conv1D\)"):
        Pruning(folder, text_folder, AXES | {"model": "mine"}, PRUNING, tmp_path / "out")


def test_the_file_of_every_sparsity_matches_its_row(pruned, checkpoint):
    pruning, rows = pruned
    assert all(row.status == "ok" for row, _ in rows) and len(rows) == 1 + 2 * 2 * (2 * 2 + 1) + 2 * (2 + 1)
    for row, losses in rows:
        assert (pruning.out / row.file).stat().st_size == row.stored_bytes
        assert row.loss == pytest.approx(sum(losses) / row.tokens) and row.perplexity == pytest.approx(
            math.exp(row.loss)
        )
        assert row.stored_share == pytest.approx(row.kept_share), "no entry that is kept is zero here"
        if row.structure in ("element", "2:4"):
            assert row.kept_share == pytest.approx(1 - row.budget, abs=1e-4) and row.smaller_layers == 0
        if row.structure == "row-column":
            assert row.kept_share <= 1 - row.budget + 1e-9
    dense = rows[0][0]
    losses, tokens = document_losses(load_language_model(checkpoint), pruning.test, 4)
    assert dense.method == "dense" and dense.loss == pytest.approx(losses.sum() / tokens.sum(), rel=1e-6)
    smaller = [row for row, _ in rows if row.structure == "row-column" and row.smaller_layers]
    assert smaller and all(row.parameters < dense.parameters for row in smaller)
    assert all(row.stored_bytes < dense.stored_bytes for row, _ in rows if row.budget == 0.5)


def test_methods_that_prune_layer_by_layer_have_one_shot(pruned):
    rows = [row for row, _ in pruned[1] if row.method in ("sparsegpt", "wanda")]
    assert {(row.structure, row.shots, row.budget) for row in rows} == {
        *(("element", 1, sparsity) for sparsity in PRUNING["sparsities"]),
        ("2:4", 1, 0.5),
    }
    settings = PRUNING | {"methods": ["magnitude", "wanda"], "structured_shots": [3]}
    assert list(runs_of(settings)) == [
        *(("magnitude", structure, shots) for structure in ("element", "2:4") for shots in (1, 2)),
        ("magnitude", "row-column", 3),
        ("wanda", "element", 1),
        ("wanda", "2:4", 1),
    ]


def test_a_second_run_reuses_the_records(pruned, checkpoint, text_folder, monkeypatch):
    pruning, rows = pruned
    for name in ("shots_of", "prune_layers"):
        monkeypatch.setattr(prune_language_model, name, None)
    again = prune_all(Pruning(checkpoint, text_folder, AXES, PRUNING, pruning.out))
    assert again == rows


def test_records_with_another_key_or_a_changed_file_are_recomputed(tmp_path):
    (tmp_path / "f").write_text("abc")
    row = Row("pruning", "m", 0, 0, "x", "element", 1, 0.5, loss=1.0, file="f", sha256=files.sha256(tmp_path / "f"))
    assert load_or_run(tmp_path / "r.json", "key", lambda: [(row, [1.0])]) == [(row, [1.0])]
    assert load_or_run(tmp_path / "r.json", "key", None) == [(row, [1.0])]
    (tmp_path / "f").write_text("abd")
    assert load_or_run(tmp_path / "r.json", "key", lambda: []) == []
    assert load_or_run(tmp_path / "r.json", "other", lambda: []) == []
    failed = Row("pruning", "m", 0, 0, "x", "element", 1, 0.5, status="failed")
    assert load_or_run(tmp_path / "s.json", "key", lambda: [(failed, [])]) == [(failed, [])]
    assert not (tmp_path / "s.json").exists(), "failures are not recorded"


def test_adapting_lowers_perplexity_and_its_update_is_compressed(checkpoint, text_folder, tmp_path):
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "max_length": 12}
    manifest = adapt(checkpoint, text_folder, AXES, settings, tmp_path / "adapted")
    history = [entry["validation_perplexity"] for entry in manifest["history"]]
    assert manifest["best_epoch"] == int(np.argmin(history)) > 0
    again = adapt(checkpoint, text_folder, AXES, settings, tmp_path / "again")
    assert again["sha256"] == manifest["sha256"], "adaptation is deterministic"
    own = {"kept_shares": [0.25, 0.5], "draws": 2, "max_length": 12, "batch_size": 4, "methods": {}}
    names = ["full", "none", "ken", "random", "delta-magnitude-rescaled", "surgeon-delta", "bitdelta", "lora"]
    folders = (checkpoint, tmp_path / "adapted", text_folder)
    rows = [row for row, _ in compress_all(Adapted(*folders, AXES, own, tmp_path / "out"), names)]
    row_of = {(row.method, row.budget, row.draw): row for row in rows}
    assert row_of["full", 1.0, 0].perplexity < row_of["none", 0.0, 0].perplexity
    assert len(rows) == 2 + 2 + 4 + 2 + 2 + 1 + len(METHODS["lora"].budgets)
    unfit = [row for row in rows if row.status != "ok"]
    assert {row.method for row in unfit} == {"lora"} and {row.status for row in unfit} == {"declined"}
    for row in rows:
        if row.method in ("ken", "random", "surgeon-delta"):
            assert row.kept_share == pytest.approx(row.budget, abs=0.03)
    restored = language_models.empty_language_model(checkpoint)
    file = tmp_path / "out" / row_of["ken", 0.25, 0].file
    state = METHODS["ken"].restore(language_models.body_of(load_language_model(checkpoint)), file)
    language_models.load_body(restored, state)
    chunks = read_chunks(text_folder, "test", load_tokenizer(checkpoint, 12), 12)
    losses, tokens = document_losses(restored, chunks, 4)
    assert losses.sum() / tokens.sum() == pytest.approx(row_of["ken", 0.25, 0].loss)


def test_tables_are_collected_and_checked(tmp_path):
    chunks = Chunks([[1, 2, 3], [1, 2]], np.array([0, 1]), ["a", "b"])
    for seed in (0, 1):
        row = Row("pruning", "m", seed, 0, "x", "element", 1, 0.5, tokens=3, loss=2.0, perplexity=math.exp(2), file="f")
        folder = Paths(tmp_path).experiment("pruning", "m", seed)
        folder.mkdir(parents=True)
        write_results(folder, [(row, [4.0, 2.0])], chunks, {})
    table = collect(Paths(tmp_path), ["pruning"], ["m"], [0, 1])
    assert table["seed"].tolist() == [0, 1]
    wrong = pd.read_parquet(folder / "losses.parquet").assign(f=[4.0, 2.5])
    wrong.to_parquet(folder / "losses.parquet")
    with pytest.raises(UserError, match="changed or damaged"):
        collect(Paths(tmp_path), ["pruning"], ["m"], [0, 1])
    tables = {name: files.sha256(folder / name) for name in perplexity_rows.TABLES}
    files.write_json(folder / "manifest.json", {"sha256": tables})
    with pytest.raises(UserError, match="its documents give"):
        collect(Paths(tmp_path), ["pruning"], ["m"], [0, 1])


def test_changed_texts_and_checkpoints_are_refused(checkpoint, text_folder, tmp_path):
    settings = {"epochs": 1, "batch_size": 4, "learning_rate": 0.01, "max_length": 12}
    shutil.copytree(text_folder, tmp_path / "text")
    pd.read_parquet(text_folder / "train.parquet").head(9).to_parquet(tmp_path / "text" / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet was changed or damaged"):
        adapt(checkpoint, tmp_path / "text", AXES, settings, tmp_path / "adapted")
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    with open(tmp_path / "checkpoint" / "model.safetensors", "ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match=r"model\.safetensors was changed or damaged"):
        adapt(tmp_path / "checkpoint", text_folder, AXES, settings, tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()


def test_steps_can_be_run_by_hand(checkpoint, text_folder, tmp_path):
    few = PRUNING | {"methods": ["magnitude"], "structures": ["element"], "sparsities": [0.5], "shots": [1]}
    adaptation = {"epochs": 1, "batch_size": 4, "learning_rate": 0.01, "text": {}}
    section = {"models": {"bloom-560m": {}}, "pruning": few | {"text": {}}, "adaptation": adaptation}
    section |= {"max_length": 12, "batch_size": 4}
    study, paths = Study({"study": "mine", "seeds": [0], "models": {}, "language_modelling": section}), Paths(tmp_path)
    study.write(tmp_path)
    shutil.copytree(checkpoint, paths.pretrained("bloom-560m"))
    for experiment in ("pruning", "adaptation"):
        shutil.copytree(text_folder, paths.text(experiment))
    axes = ["--model", "bloom-560m", "--seed", "0"]
    for step in (prune_language_model, adapt_language_model):
        run_step(step, tmp_path, *axes)
    assert (paths.adapted("bloom-560m", 0) / "manifest.json").is_file()
    table = collect(paths, ["pruning"], ["bloom-560m"], [0])
    assert table["method"].tolist() == ["dense", "magnitude"]
