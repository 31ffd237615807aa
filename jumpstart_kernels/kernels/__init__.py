"""One module or folder a backend, each with the same two functions.

``jumpstart_relu_forward`` and ``jumpstart_relu_backward`` of :mod:`reference` define them. A backend's
module also has ``unavailable() -> str | None``: why it cannot be used here, and how to get it.
"""
