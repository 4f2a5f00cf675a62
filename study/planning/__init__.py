"""What a study costs: sizes of models and tasks, work, memory and disk of every job."""
