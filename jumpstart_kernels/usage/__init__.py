"""Which units and points are dead, linear or nonlinear: the metric, its report and watching a model.

:mod:`~jumpstart_kernels.usage.metric` and what imports it need torchmetrics; the other modules do not.
"""
