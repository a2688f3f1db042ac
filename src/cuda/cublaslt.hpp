// CublasLt: the functions of libcublasLt, NVIDIA's matrix products, as a table.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "cuda/driver_types.hpp"
#include "fathom/cuda/error.hpp"

// Every function but cublasLtGetVersion. Each gives a Result.
#define FATHOM_CUDA_CUBLASLT(X)                                                                            \
  X(cublasLtCreate, CublasLtHandle*)                                                                       \
  X(cublasLtDestroy, CublasLtHandle)                                                                       \
  X(cublasLtMatmulDescCreate, CublasLtDesc*, int, int)                                                     \
  X(cublasLtMatmulDescDestroy, CublasLtDesc)                                                               \
  X(cublasLtMatmulDescSetAttribute, CublasLtDesc, CublasLtDescAttribute, const void*, std::size_t)         \
  X(cublasLtMatrixLayoutCreate, CublasLtLayout*, CudaDataType, std::uint64_t, std::uint64_t, std::int64_t) \
  X(cublasLtMatrixLayoutDestroy, CublasLtLayout)                                                           \
  X(cublasLtMatmulPreferenceCreate, CublasLtPreference*)                                                   \
  X(cublasLtMatmulPreferenceDestroy, CublasLtPreference)                                                   \
  X(cublasLtMatmulPreferenceSetAttribute, CublasLtPreference, CublasLtPreferenceAttribute, const void*,    \
    std::size_t)                                                                                           \
  X(cublasLtMatmulAlgoGetHeuristic, CublasLtHandle, CublasLtDesc, CublasLtLayout, CublasLtLayout,          \
    CublasLtLayout, CublasLtLayout, CublasLtPreference, int, CublasLtHeuristic*, int*)                     \
  X(cublasLtMatmul, CublasLtHandle, CublasLtDesc, const void*, const void*, CublasLtLayout, const void*,   \
    CublasLtLayout, const void*, const void*, CublasLtLayout, void*, CublasLtLayout, const CublasLtAlgo*,  \
    void*, std::size_t, StreamHandle)

namespace fathom::cuda {

struct CublasLt {
#define FATHOM_CUDA_MEMBER(name, ...) Result (*name)(__VA_ARGS__) = nullptr;
  FATHOM_CUDA_CUBLASLT(FATHOM_CUDA_MEMBER)
#undef FATHOM_CUDA_MEMBER
  std::size_t (*cublasLtGetVersion)() = nullptr;

  /// Throws CudaError unless `status` is success.
  static void check(Result status, std::string_view call, std::string_view doing);
};

/// The machine's cuBLASLt; without one, nothing and the reason.
struct CublasLtProbe {
  std::shared_ptr<const CublasLt> library;
  std::string detail;  // one line: which library and version, or why there is none
};
CublasLtProbe find_cublaslt();

}  // namespace fathom::cuda
