"""One module per `mode=`; `train`, `demo` and `doctor` have packages of their own.

Each mode is a function, called in every process of the run. Where it takes them, `device` is `cuda`
or `cpu`, `model` is `PanopticDeepLab` or `DeepLabV3Plus`, `dataset` in Detectron2's catalogs,
`weights` a file or run folder that covers the model, `classes` names and colors, `image_format` the
channel order of images (RGB or BGR), `loggers` those of `Loggers` by their names in the config, and
`name` that of the run; `run_dir` gets its files. How to add one: docs/explanation/architecture.md.
"""
