// FakeCublasLt: a cuBLASLt without a GPU.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "cuda/cublaslt.hpp"

namespace fathom::cuda {

// Counts calls by name, fails those of one name, and finds `kernels` kernels for any shape.
struct FakeCublasLt {
  FakeCublasLt() { current = this; }
  ~FakeCublasLt() { current = nullptr; }

  std::shared_ptr<const CublasLt> table() {
    auto library = std::make_shared<CublasLt>();
#define FATHOM_CUDA_FAKE(name, ...) \
  library->name = make(library->name, [](FakeCublasLt& f) { return f.call(#name); });
    FATHOM_CUDA_CUBLASLT(FATHOM_CUDA_FAKE)
#undef FATHOM_CUDA_FAKE
    library->cublasLtMatmulAlgoGetHeuristic = [](auto, auto, auto, auto, auto, auto, auto, int,
                                                 CublasLtHeuristic* best, int* count) -> Result {
      best->workspace_bytes = 100;
      *count = current->kernels;
      return current->call("cublasLtMatmulAlgoGetHeuristic");
    };
    return library;
  }
  // A first parameter that is the address of a handle is given one.
  template <class First, class... A, class Call>
  static auto make(Result (*)(First, A...), Call) -> Result (*)(First, A...) {
    return [](First first, A...) -> Result {
      const Result result = Call{}(*current);
      if constexpr (std::is_pointer_v<std::remove_pointer_t<First>>) {
        if (result == kSuccess) *first = reinterpret_cast<std::remove_pointer_t<First>>(std::uintptr_t{16});
      }
      return result;
    };
  }
  Result call(const std::string& name) {
    ++calls[name];
    return name == failing ? status : kSuccess;
  }

  static inline FakeCublasLt* current = nullptr;
  std::map<std::string, int> calls;
  std::string failing;
  Result status = 14;
  int kernels = 1;
};

}  // namespace fathom::cuda
