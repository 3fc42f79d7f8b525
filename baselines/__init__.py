"""What the model is compared with, ranked by the same evaluator on the same next clicks."""
