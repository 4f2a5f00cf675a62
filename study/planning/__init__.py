"""Planning of a study: inputs of its rules, sizes of models and tasks, and the cost of every job."""
