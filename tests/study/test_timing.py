"""Timing of pruning: every size at one k, and every k at one size."""

from study.timing import timing_table


def test_the_timing_table_varies_one_quantity_at_a_time():
    table = timing_table([4, 8], 32, [2, 8, 16], repeats=1)
    for method in ("ken", "ken-grid"):
        rows = table[table["method"] == method]
        assert rows[["size", "k"]].values.tolist() == [[128, 8], [256, 8], [256, 2], [256, 16]]
    assert (table["seconds"] > 0).all()
