#include "cuda/cublaslt.hpp"

#include "cuda/library.hpp"

namespace fathom::cuda {

void CublasLt::check(Result status, std::string_view call, std::string_view doing) {
  if (status == kSuccess) return;
  throw CudaError(
      std::string(call) + ": cuBLAS status " + std::to_string(status) + " while " + std::string(doing),
      status);
}

CublasLtProbe find_cublaslt() {
  Library library(
      {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so", "/usr/local/cuda/lib64/libcublasLt.so"});
  if (!library.found()) return {nullptr, library.detail()};
  auto table = std::make_shared<CublasLt>();
#define FATHOM_CUDA_FIND(name, ...) library.find(#name, table->name);
  FATHOM_CUDA_CUBLASLT(FATHOM_CUDA_FIND)
#undef FATHOM_CUDA_FIND
  library.find("cublasLtGetVersion", table->cublasLtGetVersion);
  if (!library.missing().empty()) return {nullptr, library.detail() + " lacks " + library.missing()};
  const std::string version = std::to_string(table->cublasLtGetVersion());
  return {std::move(table), library.detail() + ", version " + version};
}

}  // namespace fathom::cuda
