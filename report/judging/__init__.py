"""How claims are judged: the evidence of a study, and the rules on scores, on measurements and on language models."""
