"""Convolutions whose gradient oneDNN gets wrong in bfloat16: told before a training, and no fault of ours."""

import pytest
import torch
from torch import nn
from trainings import make_options

from benchmarks.imagenet.convolutions import check_convolutions
from benchmarks.imagenet.training import Training
from benchmarks.models import build_resnet50
from jumpstart_kernels.cli_inputs import CommandError

CPU = torch.device("cpu")


@pytest.fixture
def avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


def make_network():
    return build_resnet50(batch_norm=False, skips=False, classes=4, width=4, blocks=(1, 1, 1, 1))


def test_images_that_are_too_small_are_told(avx512):
    message = "--image-size must be larger than 16 .* stride 2 gets 1×1 pixels, .* Or take --precision fp32"
    with pytest.raises(CommandError, match=message):
        check_convolutions(make_network(), 16, "bf16", CPU)
    check_convolutions(make_network(), 17, "bf16", CPU)


def test_where_the_fault_is_not_nothing_is_said(avx512, monkeypatch):
    check_convolutions(make_network(), 16, "fp32", CPU)
    check_convolutions(make_network(), 16, "bf16", torch.device("cuda"))
    with monkeypatch.context() as lowered:
        lowered.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
        check_convolutions(make_network(), 16, "bf16", CPU)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    check_convolutions(make_network(), 16, "bf16", CPU)


def test_a_training_says_it_at_its_start(avx512, process, data, tmp_path):
    with pytest.raises(CommandError, match="--image-size must be larger than 16"):
        Training(make_options(data, tmp_path, "--precision=bf16"), process)


@pytest.mark.parametrize("stride,size", [(1, 1), (2, 2), (2, 3), (2, 7), (3, 3), (4, 4)])
def test_convolutions_that_are_let_through_are_finite(stride, size):
    torch.manual_seed(0)
    for _ in range(20):
        convolution = nn.Conv2d(32, 32, 3, stride=stride, padding=1, bias=False)
        convolution.to(memory_format=torch.channels_last)
        torch.full((1 << 16,), torch.nan)  # what freed memory may hold
        with torch.autocast("cpu", torch.bfloat16):
            output = convolution(torch.randn(2, 32, size, size))
        output.float().sum().backward()
        assert convolution.weight.grad.isfinite().all()
