#include <cmath>

#include "ops/cache_layout.hpp"
#include "ops/elements.hpp"
#include "ops/mla_cache_store/mla_cache_store_impl.hpp"

namespace fathom {
namespace {

// f32 arithmetic, not double: the bytes are the contract.
void store_quantised(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args, std::int64_t t,
                     std::uint8_t* entry) {
  for (std::int64_t group = 0; group < problem.lora / 128; ++group) {
    float amax = 0;
    for (std::int64_t i = group * 128; i < (group + 1) * 128; ++i)
      amax = std::max(amax, std::abs(at(args.latent, t, i)));
    float scale = amax / 448.0f;
    float inverse = 1.0f / scale;
    if (!std::isfinite(inverse)) scale = inverse = 0;
    for (std::int64_t i = group * 128; i < (group + 1) * 128; ++i)
      entry[i] = scale == 0 ? 0 : float_to_f8e4m3(at(args.latent, t, i) * inverse);
    store_f32(entry + problem.lora + group * 4, scale);
  }
  std::uint8_t* rope = entry + problem.lora + problem.lora / 128 * 4;
  for (std::int64_t i = 0; i < problem.rope_dim; ++i) {
    const std::uint16_t bits = float_to_bf16(at(args.rope, t, i));
    std::memcpy(rope + 2 * i, &bits, sizeof bits);
  }
}

}  // namespace

void mla_cache_store_ref(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args, const Context&) {
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const std::int64_t slot = integer_at(args.slots, t);
    if (slot < 0) continue;
    if (problem.cache == DType::u8) {
      store_quantised(problem, args, t, args.cache.as<std::uint8_t>() + slot * args.cache.step(0));
      continue;
    }
    for (std::int64_t i = 0; i < problem.lora; ++i) put(args.cache, slot, i, at(args.latent, t, i));
    for (std::int64_t i = 0; i < problem.rope_dim; ++i)
      put(args.cache, slot, problem.lora + i, at(args.rope, t, i));
  }
}

}  // namespace fathom
