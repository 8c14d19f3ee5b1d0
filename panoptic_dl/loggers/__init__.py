"""Where a run's figures go besides metrics.json: TensorBoard, a CSV file, Weights & Biases."""
