"""Scores of predictions: weighted F1 (the paper's measure), macro F1, accuracy, and F1 of the worst class."""

from collections.abc import Hashable, Sequence


def scores(
    references: Sequence[Hashable],
    predictions: Sequence[Hashable],
    labels: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """Weighted F1, macro F1 and accuracy, each from 0 to 1.

    Args:
        references: true labels, (n,).
        predictions: predicted labels, (n,), of the same type.
        labels: classes over which macro F1 is the mean; by default those that occur in either. A class that
            is never predicted or never true has F1 0. Weighted F1 weighs a class by its number of references.

    Returns:
        weighted_f1, macro_f1, accuracy.

    Raises:
        ValueError: there are no references, or another number of predictions.

    Example:
        >>> scores(["a", "a", "b", "b"], ["a", "a", "b", "a"])["accuracy"]
        0.75
    """
    if len(references) == 0 or len(references) != len(predictions):
        raise ValueError(f"got {len(references)} references and {len(predictions)} predictions: need equally many.")
    from numpy import asarray, average
    from sklearn.metrics import precision_recall_fscore_support

    # One call for both means: a study does this thousands of times.
    *_, f1, support = precision_recall_fscore_support(references, predictions, labels=labels, zero_division=0)
    return {
        "weighted_f1": float(average(f1, weights=support)),
        "macro_f1": float(average(f1)),
        "accuracy": float((asarray(references) == asarray(predictions)).mean()),
    }


def worst_class_f1(references: Sequence[Hashable], predictions: Sequence[Hashable]) -> float:
    """The smallest F1 of the classes that occur in the references, from 0 to 1.

    Example:
        >>> worst_class_f1(["a", "a", "b"], ["a", "a", "a"])
        0.0
    """
    from sklearn.metrics import f1_score

    classes = sorted(set(references))
    return float(f1_score(references, predictions, labels=classes, average=None, zero_division=0).min())
