#include "ops/cache_layout.hpp"
#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/mla_cache_store/mla_cache_store_impl.hpp"

namespace fathom {
namespace {

// f32 arithmetic, not double: the bytes are the contract.
void store_quantised(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args, std::int64_t t,
                     std::uint8_t* entry) {
  std::uint8_t* scales = entry + problem.lora;
  std::uint8_t* rope = scales + problem.lora / 128 * 4;
  for (std::int64_t begin = 0; begin < problem.lora; begin += 128) {
    const auto load = [&](std::int64_t i) { return at(args.latent, t, begin + i); };
    store_f32(scales + begin / 128 * 4,
              quantize_group(QuantRule::kv_cache, ScaleFormat::f32, 128, load, entry + begin));
  }
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
