"""Predictions as files that the servers of COCO and Cityscapes take: writers and readers.

Categories in the files are those of the dataset: Cityscapes' label ids (7 road, 26 car), COCO's ids
with their gaps. `folder.prediction_writers` makes the writers, `folder.PredictionFolder` reads.
"""
