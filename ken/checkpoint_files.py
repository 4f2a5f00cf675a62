"""Patterns for the files of a checkpoint in the Hugging Face layout, without pickle files and code."""

INDEX = "model.safetensors.index.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
CONFIG = ("config.json",)
TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
GENERATION = ("generation_config.json",)
MODEL = (*WEIGHTS, *CONFIG, *TOKENIZER)  # what transformers needs to load a model and its tokenizer
