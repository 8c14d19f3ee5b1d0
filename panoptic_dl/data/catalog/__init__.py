"""Where the datasets lie: each function checks a folder, registers it with Detectron2 and returns its name."""
