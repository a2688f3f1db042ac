// Control: NVIDIA's cuBLASLt on the sizes of a bench's product, timed beside it in the same process.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "bench.hpp"
#include "cuda/cublaslt.hpp"

namespace fathom {

/// The operands: bf16, or e4m3 with f32 scales of 1x128 (activations) and 128x128 (weights).
enum class ControlKind { bf16, fp8 };

/// One product, ready to be run. Its operands are its own, random.
class Control {
 public:
  /// m, n and k from `product`, and its out's dtype. Throws NoImplementation if cuBLASLt has no kernel,
  /// CudaError.
  Control(std::shared_ptr<const cuda::CublasLt> library, ControlKind kind, const BenchProduct& product,
          const Context& context);
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  void run() const;

 private:
  struct Made;
  const Context& context_;
  std::unique_ptr<Made> made_;
};

}  // namespace fathom
