"""An experiment: the CPU kernels on the stable ABI of libtorch. See docs/stable_abi.md."""
