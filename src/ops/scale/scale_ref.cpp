#include "ops/elements.hpp"
#include "ops/scale/scale_impl.hpp"

namespace fathom {

// [doc:begin ref]
void scale_ref(const ScaleProblem& problem, const ScaleArgs& args, const Context&) {
  for (std::int64_t r = 0; r < problem.rows; ++r) {
    for (std::int64_t d = 0; d < problem.dim; ++d) {
      const double product = static_cast<double>(at(args.x, r, d)) * static_cast<double>(args.factor);
      put(args.out, r, d, static_cast<float>(product));
    }
  }
}
// [doc:end ref]

}  // namespace fathom
