"""Training, evaluation and what surrounds them; receives built objects, never a config."""
