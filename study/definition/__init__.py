"""What a study is: its config, its cells and their settings, the paths of its results."""
