"""Training and evaluation: batches, gradients, the loop, its resumption, and the scores of predictions."""
