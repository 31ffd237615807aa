"""``link_relu``: ReLUs linked, and the layers behind them widened.

``link.py`` does it: ``trace.py`` traces the whole model, ``plan.py`` follows its units (``units.py``) by the
rules of ``rules.py`` and ``calls.py`` and decides what is linked, ``edits.py`` and ``forward.py`` change
forwards, ``weights.py`` and ``widths.py`` layers, ``report.py`` tells.
"""

from jumpstart_kernels.surgery.linking.link import link_relu

__all__ = ["link_relu"]
