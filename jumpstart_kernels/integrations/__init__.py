"""Jumpstart in other libraries' training loops. Each module needs its library and is imported separately.

- ``integrations.lightning``: a callback (``lightning`` or ``pytorch_lightning``);
- ``integrations.transformers``: a callback, and a ``Trainer`` with the penalty in its loss;
- ``integrations.tensorboard``: a writer of usage, extrema and penalty.
"""
