"""Timing of pruning: every height, width and k, with the others fixed."""

from study.timing import timing_table


def test_the_timing_table_varies_one_quantity_at_a_time():
    table = timing_table([4, 8], 32, [16, 64], [2, 8, 16], repeats=1)
    for method in ("ken", "ken-grid"):
        rows = table[table["method"] == method]
        wanted = [[128, 32, 8], [256, 32, 8], [256, 32, 2], [256, 32, 16], [128, 16, 8], [512, 64, 8]]
        assert rows[["size", "width", "k"]].values.tolist() == wanted
    assert (table["seconds"] > 0).all()
