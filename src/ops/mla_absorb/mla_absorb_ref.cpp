#include "ops/elements.hpp"
#include "ops/mla_absorb/mla_absorb_impl.hpp"

namespace fathom {

void mla_absorb_ref(const MlaAbsorbProblem& problem, const MlaAbsorbArgs& args, const Context& context) {
  const auto [heads, nope, value, lora, stored, out] = problem;
  context.parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin * (nope + value); r < end * (nope + value); ++r) {
      const std::int64_t h = r / (nope + value);
      const std::int64_t i = r % (nope + value);
      for (std::int64_t l = 0; l < lora; ++l) {
        float w = at(args.kv_b, r, l);
        if (stored == DType::f8e4m3) w *= at(args.kv_b_scale, r / 128, l / 128);
        if (i < nope) {
          store_element(args.w_uk.data, out, (h * lora + l) * nope + i, w);
        } else {
          store_element(args.w_uv.data, out, (h * value + i - nope) * lora + l, w);
        }
      }
    }
  });
}

}  // namespace fathom
