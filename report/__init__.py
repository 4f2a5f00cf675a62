"""From result files to tables, figures and the page. Reads files and `ken` only; trains and evaluates nothing."""
