#include <cmath>

#include "ops/cache_layout.hpp"
#include "ops/elements.hpp"
#include "ops/index_key_store/index_key_store_impl.hpp"

namespace fathom {
namespace {

float round_up_to_power_of_two(float x) {
  int exponent = 0;
  const float mantissa = std::frexp(x, &exponent);  // x = mantissa * 2^exponent, mantissa in [1/2, 1)
  return mantissa == 0.5f ? x : std::ldexp(1.0f, exponent);
}

}  // namespace

// f32 arithmetic, not double: the bytes are the contract.
void index_key_store_ref(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args, const Context&) {
  const IndexCache cache{args.cache};
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const std::int64_t slot = integer_at(args.slots, t);
    if (slot < 0) continue;
    const std::int64_t page = slot / kIndexKeyPageTokens;
    const std::int64_t entry = slot % kIndexKeyPageTokens;
    if (problem.cache == DType::f32) {
      for (std::int64_t i = 0; i < problem.dim; ++i) cache.key_f32(page, entry)[i] = at(args.k, t, i);
      continue;
    }
    float amax = 1e-4f;
    for (std::int64_t i = 0; i < problem.dim; ++i) amax = std::max(amax, std::abs(at(args.k, t, i)));
    const float scale = problem.ue8m0 ? round_up_to_power_of_two(amax / 448.0f) : amax / 448.0f;
    for (std::int64_t i = 0; i < problem.dim; ++i)
      cache.key_f8(page, entry)[i] = float_to_f8e4m3(at(args.k, t, i) / scale);
    store_f32(cache.scale(page, entry), scale);
  }
}

}  // namespace fathom
