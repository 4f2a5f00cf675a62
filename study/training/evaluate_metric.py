"""The study's scores as a metric of the `evaluate` library; it needs no network.

Importing that library takes five seconds, so only the step that collects the tables uses this module. The library
expects `datasets` and `evaluate` to be imported on separate lines.
"""

import datasets
import evaluate

from study.training import metrics

CITATION = """\
@inproceedings{mastromattei-zanzotto-2024-less,
  title = {Less is {KEN}: a Universal and Simple Non-Parametric Pruning Algorithm for Large Language Models},
  author = {Mastromattei, Michele and Zanzotto, Fabio Massimo},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2024},
  year = {2024},
}
"""


class WeightedF1(evaluate.Metric):
    """Weighted F1, macro F1 and accuracy; see `study.training.metrics.scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Weighted F1, macro F1 and accuracy, each from 0 to 1.",
            citation=CITATION,
            inputs_description="predictions, references: predicted and true labels, text or numbers.",
            features=[
                datasets.Features({"predictions": datasets.Value(kind), "references": datasets.Value(kind)})
                for kind in ("string", "int64")
            ],
        )

    def _compute(
        self, predictions: list[str], references: list[str], labels: list[str] | None = None
    ) -> dict[str, float]:
        return metrics.scores(references, predictions, labels)
