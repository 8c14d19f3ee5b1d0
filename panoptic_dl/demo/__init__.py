"""The demo: anybody's pictures and videos in, drawings and panoptic files out; and `Predictor`."""
