"""The input pipeline: reading, augmentation, targets, batches."""
