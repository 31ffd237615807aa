"""What the kernels' host interface takes, as ``csrc/cuda/kernels.h`` and ``plan.h`` have it."""

import ctypes
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class LayoutOfCall(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("samples", "rows", "units", "inner")]
    _fields_ += [("channels_last", ctypes.c_bool)]


class PlanParameters(ctypes.Structure):
    """What plans are made from, as ``csrc/cuda/plan.h`` has it."""

    _header = (ROOT / "csrc/cuda/plan.h").read_text()
    _text = re.search(r"struct PlanParameters \{(.*?)\n\};", _header, re.DOTALL)[1]
    _fields_ = [(name, ctypes.c_int64) for name in re.findall(r"int64_t (\w+) =", _text)]


class OptionsOfCall(ctypes.Structure):
    _fields_ = [
        ("activation", ctypes.c_int),
        ("parameter", ctypes.c_double),
        ("unit_dim", ctypes.c_int64),
        ("position_points", ctypes.c_bool),
        ("margin", ctypes.c_double),
        ("extrema_kind", ctypes.c_int),
    ]


class ForwardCall(ctypes.Structure):
    _fields_ = [
        ("scalar", ctypes.c_int),
        *[
            (name, ctypes.c_void_p)
            for name in ("x", "bias", "output", "mask", "slack_sums", "extrema", "indices")
        ],
        ("layout", LayoutOfCall),
        ("options", OptionsOfCall),
        ("multiprocessors", ctypes.c_int),
        ("cluster_blocks", ctypes.c_int),
    ]


class PenaltyGradientCall(ctypes.Structure):
    _fields_ = [
        ("grad", ctypes.c_void_p),
        ("root", ctypes.c_void_p),
        ("weights", ctypes.POINTER(ctypes.c_double)),
    ]


class BackwardCall(ctypes.Structure):
    _fields_ = [
        ("scalar", ctypes.c_int),
        *[
            (name, ctypes.c_void_p)
            for name in (
                "grad_output", "mask", "grad_x", "grad_slack_sums", "grad_extrema", "extrema", "indices",
                "bias_sums",
            )
        ],
        ("layout", LayoutOfCall),
        ("options", OptionsOfCall),
        ("multiprocessors", ctypes.c_int),
        ("penalty", PenaltyGradientCall),
    ]  # fmt: skip


class PenaltyCall(ctypes.Structure):
    _fields_ = [
        ("float64", ctypes.c_bool),
        ("slack_sums", ctypes.POINTER(ctypes.c_void_p)),
        ("layers", ctypes.c_int64),
        ("weights", ctypes.POINTER(ctypes.c_double)),
        ("square_root", ctypes.c_bool),
        ("value", ctypes.c_void_p),
        ("total", ctypes.c_void_p),
    ]
