// How far a bench's product is from that of its dequantised operands in double precision, on a sample.
#pragma once
#include <cstdint>

#include "bench.hpp"

namespace fathom {

struct Accuracy {
  std::int64_t rows = 0;     // sampled
  std::int64_t columns = 0;  // sampled
  double calc_diff = 0;      // 1 - 2 sum(x y) / sum(x^2 + y^2); NaN if a result is not finite
  /// The least c with |error| <= c * sum |a b scales|, plus 2^-8 |y| if the output is bf16, everywhere.
  double bound = 0;
};

/// Of the result that is in product.out on the device of `context` now. Sampled are the first, the last, and
/// rows and blocks of columns between them.
Accuracy check_product(const BenchProduct& product, const Context& context);

}  // namespace fathom
