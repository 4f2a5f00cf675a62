"""Building tasks: the order of classes."""

import pandas as pd
import pytest

from study.tasks import class_order


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1", "10"], ["-1", "9", "10"]),
        (["b", "10", "9"], ["10", "9", "b"]),
        (["²", "3", "1"], ["1", "3", "²"]),
        (["--1", "2", "1"], ["--1", "1", "2"]),
        (["٣", "1"], ["1", "٣"]),
        (["1.5", "1"], ["1", "1.5"]),
        (["-", "1"], ["-", "1"]),
    ],
)
def test_labels_are_ordered_as_numbers_only_if_all_are_whole_numbers(labels, order):
    assert class_order(pd.Series(labels)) == order
