"""Predictions as files that the servers of COCO and Cityscapes take: writers, and readers of any.

    panoptic/   COCO's panoptic format, for both: a JSON file, and PNGs in the folder of its name
    instances/  COCO: detections as JSON, boxes apart; Cityscapes: a text file and masks an image
    semantic/   COCO: its stuff format; Cityscapes: a PNG of label ids an image

Categories in the files are those of the dataset: Cityscapes' label ids (7 road, 26 car), COCO's ids
with their gaps. `saving.saving` makes the writers, `folder.PredictionFolder` reads.
"""
