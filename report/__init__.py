"""From the result files of a study to tables, figures and one page: `tables` computes, `figures`, `kenviz` and `page` draw."""
