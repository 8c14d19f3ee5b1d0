"""One module per `mode=`; `train`, `demo` and `doctor` have packages of their own.

How to add a mode:

1. Write a module here with a function that `run.py` calls in every process of the run. Its keyword
   parameters are `device` ("cuda" or "cpu") and the keys of its config. It returns {"metrics":
   {name: value}}, and more if it likes, on the main process, {} elsewhere.
2. Write `conf/mode/NAME.yaml`: `_target_: panoptic_dl.modes.MODULE.FUNCTION`, and a line for each
   parameter, such as `model: ${task.model}`, `weights: ${weights}` and `run_dir: ${run_dir}`.

Then `python run.py mode=NAME` runs it, and `mode.KEY=VALUE` changes a parameter.
"""
