"""What a prediction is worth: the official evaluators, and the figures that tables print."""
