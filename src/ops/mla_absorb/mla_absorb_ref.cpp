#include "ops/elements.hpp"
#include "ops/mla_absorb/mla_absorb_impl.hpp"

namespace fathom {
namespace {

// The keys' half of kv_b with its codes as they are, and the scale of every block.
void transpose_codes(const MlaAbsorbProblem& problem, const MlaAbsorbArgs& args, std::int64_t begin,
                     std::int64_t end) {
  const auto [heads, nope, value, lora, stored, out] = problem;
  const std::int64_t blocks = (lora + 127) / 128;
  for (std::int64_t h = begin; h < end; ++h) {
    const std::int64_t row = h * (nope + value);
    const auto* codes = args.kv_b.as<std::uint8_t>() + row * args.kv_b.step(0);
    auto* w_uk = args.w_uk.as<std::uint8_t>() + h * lora * nope;
    auto* scale = args.w_uk_scale.as<float>() + h * blocks * (nope / 128);
    for (std::int64_t l = 0; l < lora; ++l) {
      for (std::int64_t i = 0; i < nope; ++i) w_uk[l * nope + i] = codes[i * args.kv_b.step(0) + l];
    }
    for (std::int64_t l = 0; l < blocks; ++l) {
      for (std::int64_t i = 0; i < nope / 128; ++i)
        scale[l * (nope / 128) + i] = at(args.kv_b_scale, row / 128 + i, l);
    }
  }
}

}  // namespace

void mla_absorb_ref(const MlaAbsorbProblem& problem, const MlaAbsorbArgs& args, const Context& context) {
  const auto [heads, nope, value, lora, stored, out] = problem;
  context.parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    if (out == DType::f8e4m3) return transpose_codes(problem, args, begin, end);
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
