"""From the result files of a study to one page: `tables` computes, `figures`, `kenviz` and `page` draw."""
