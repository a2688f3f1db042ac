// What the benches of the plain matrix products share: operands whose rows are aligned or not.
#pragma once
#include <memory>

#include "bench.hpp"

namespace fathom {

/// A normal [rows, k] matrix. Unaligned, a row is one element longer than k.
class BenchMatrix {
 public:
  BenchMatrix(DType dtype, std::int64_t rows, std::int64_t k, bool aligned, double deviation = 1)
      : dtype_(dtype),
        rows_(rows),
        k_(k),
        row_(aligned ? k : k + 1),
        buffer_(bench_normal(dtype, {rows, row_}, deviation)) {}
  TensorView view() const {
    TensorView all = buffer_->view(dtype_, {rows_, row_});
    all.shape[1] = k_;
    return all;
  }

 private:
  DType dtype_;
  std::int64_t rows_, k_, row_;
  std::shared_ptr<BenchBuffer> buffer_;
};

/// `aligned` as ops see it: on the host it makes no difference and is always true.
inline bool bench_aligned(bool aligned, const Context& context) {
  return aligned || context.device().kind == DeviceKind::host;
}

}  // namespace fathom
