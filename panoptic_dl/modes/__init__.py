"""One module per `mode=`; `train`, `demo` and `doctor` have packages of their own.

How to add one: docs/architecture.md.
"""
