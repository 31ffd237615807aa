"""The experiments of "Unit-Centric Regularization for Efficient Deep Neural Networks", reproduced."""
