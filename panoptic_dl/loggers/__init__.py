"""Loggers: CSV, TensorBoard and Weights & Biases behind one interface.

To add a logger:

1. Write `loggers/NAME.py` with a subclass of `panoptic_dl.loggers.base.Logger`; `csv.py` is a short
   example. Its constructor takes the options, its methods are called in the main process.
2. Write `conf/logger/NAME.yaml`: one key, the logger's name, which holds
   `_target_: panoptic_dl.loggers.NAME.CLASS` and the options with their defaults.

Nothing else is needed: `logger=NAME` or `logger=[tensorboard,NAME]` chooses it, and
`logger.NAME.OPTION=VALUE` sets an option, in mode=train, eval and benchmark. A class outside this
package works too, once `panoptic_dl.config.builder.allow` names its module.
"""
