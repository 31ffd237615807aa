// Of cuBLAS, what PyTorch calls and expects a result of; all other functions succeed and do nothing.

#include <cstddef>

namespace {

int give_handle(void** handle) {
  *handle = new char[4096]();  // PyTorch keeps descriptors in memory of its own, or asks for them
  return 0;
}
int give_number(int* number, int value) {
  *number = value;
  return 0;
}

}  // namespace

extern "C" {

int cublasCreate_v2(void** handle) { return give_handle(handle); }
int cublasGetMathMode(void*, int* mode) { return give_number(mode, 0); }
int cublasGetPointerMode_v2(void*, int* mode) { return give_number(mode, 0); }
int cublasLtCreate(void** handle) { return give_handle(handle); }
int cublasLtMatmulDescCreate(void** handle, int, int) { return give_handle(handle); }
int cublasLtMatmulPreferenceCreate(void** handle) { return give_handle(handle); }
int cublasLtMatrixLayoutCreate(void** handle, int, size_t, size_t, ptrdiff_t) { return give_handle(handle); }
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int* found) {
  return give_number(found, 1);
}

}  // extern "C"
