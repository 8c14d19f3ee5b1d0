"""Predictions as files that the servers of COCO and Cityscapes take: writers and readers.

    panoptic/   COCO's panoptic format, for both: a JSON file, and PNGs in the folder of its name
    instances/  COCO: detections as JSON, boxes apart; Cityscapes: a text file and masks per image
    semantic/   COCO: its stuff format; Cityscapes: a PNG of label ids per image

Categories in the files are those of the dataset: Cityscapes' label ids (7 road, 26 car), COCO's ids
with their gaps. `folder.prediction_writers` makes the writers, `folder.PredictionFolder` reads.
"""
