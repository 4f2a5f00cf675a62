"""Training of a classifier; the best epoch is chosen by weighted F1 on validation."""

import json
from typing import TYPE_CHECKING

from torch import nn

from study.running.code import code_hash
from study.training import metrics
from study.training.batches import ShuffledBatches
from study.training.examples import Examples, Predictor, shuffled_batches
from study.training.loop import Objective, OptimizerSettings, Workload, train
from study.training.precision import evaluation_precision
from study.training.resumption import Checkpoint

if TYPE_CHECKING:
    from baselines.training import TrainingHooks


def train_classifier(
    model: nn.Module,
    train_set: Examples,
    validation_set: Examples,
    settings: dict,
    seed: int,
    hooks: "TrainingHooks | None" = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, dict]:
    """Train a classifier; see `loop.train`.

    Args:
        settings: epochs, batch_size, learning_rate, warmup_share, weight_decay, precision; evaluation_batch_size and
            evaluation_precision on validation.
        seed: of the data order, the same for every method that trains on this cell.

    Returns:
        The model of the best epoch and a record: best_epoch (from 1), validation_weighted_f1, precision, history.
    """

    wanted = settings.get("evaluation_precision", "float32")
    precision = evaluation_precision(wanted, model.config.model_type)
    predictor = Predictor(validation_set, settings["evaluation_batch_size"], precision)

    def weighted_f1(candidate: nn.Module) -> float:
        predictions = predictor(candidate)
        return metrics.scores(validation_set.labels, predictions)["weighted_f1"]

    batch_size = settings["batch_size"]
    facts = json.dumps([code_hash(__name__), settings, seed], sort_keys=True)
    workload = Workload(
        batches=ShuffledBatches(lambda generator: shuffled_batches(train_set, batch_size, generator), seed),
        epochs=settings["epochs"],
        steps=-(-len(train_set) // batch_size),
        identity=[facts, *train_set.content(), *validation_set.content()],
        objective=Objective("validation_weighted_f1", weighted_f1),
    )
    optimizer = {key: settings[key] for key in ("learning_rate", "warmup_share", "weight_decay")}
    optimizer["precision"] = settings.get("precision", "auto")
    return train(model, workload, OptimizerSettings(**optimizer), hooks, checkpoint)
