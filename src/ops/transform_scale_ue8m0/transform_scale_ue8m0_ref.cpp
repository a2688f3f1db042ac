#include <algorithm>

#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/transform_scale_ue8m0/transform_scale_ue8m0_impl.hpp"

namespace fathom {

void transform_scale_ue8m0_ref(const TransformScaleUe8m0Problem& problem, const TransformScaleUe8m0Args& args,
                               const Context&) {
  for (std::int64_t b = 0; b < (args.sf.rank == 3 ? problem.batch : 1); ++b) {
    const TensorView sf = matrix_of(args.sf, b);
    const TensorView out = matrix_of(args.out, b);
    for (std::int64_t i = 0; i < out.size(1); ++i) {
      auto* column = out.as<std::uint32_t>() + i * out.step(1);
      for (std::int64_t row = 0; row < sf.size(0); ++row) {
        std::uint32_t word = 0;
        for (std::int64_t j = 0; j < 4 && 4 * i + j < problem.groups; ++j) {  // exact for powers of two
          word |= static_cast<std::uint32_t>(round_up_to_e8m0(at(sf, row, 4 * i + j))) << (8 * j);
        }
        const std::int64_t begin = row * problem.rows_per_scale;
        std::fill(column + begin, column + std::min(begin + problem.rows_per_scale, problem.mn), word);
      }
      std::fill(column + problem.mn, column + aligned_scale_rows(problem.mn), 0u);
    }
  }
}

}  // namespace fathom
