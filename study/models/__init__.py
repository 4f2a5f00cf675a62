"""Models: architectures, tokenizers, loading of classifiers and language models."""
