"""``python -m jumpstart_kernels``."""

import sys

from jumpstart_kernels.cli import main

if __name__ == "__main__":
    sys.exit(main())
