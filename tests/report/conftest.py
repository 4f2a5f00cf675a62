"""What the tests of the report share."""

from pathlib import Path

import pytest

from tests.report.synthetic import arm, study_rows, write_results


@pytest.fixture
def study(tmp_path: Path) -> Path:
    finetuning = [
        arm(model, "t1", seed, name, f1 - 0.01 * seed)
        for model in ("bert", "bloom")
        for seed in (0, 1)
        for name, f1 in (("pretrained", 0.9), ("random-init", 0.8))
    ]
    return write_results(tmp_path / "study", study_rows(), finetuning)
