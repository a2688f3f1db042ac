// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/mla_cache_store/mla_cache_store_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include "cpu/group_quant.hpp"
#include "cpu/simd.hpp"
#include "ops/cache_layout.hpp"
#include "ops/mla_cache_store/mla_cache_store_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Row t of x as the cache's float dtype, at any alignment.
HWY_INLINE void CopyRow(const TensorView& x, std::int64_t t, std::int64_t n, DType dtype, std::uint8_t* to) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t row = t * x.step(0);
  if (x.dtype == dtype) {
    std::memcpy(to, x.as<std::uint8_t>() + row * size_of(dtype),
                static_cast<std::size_t>(n * size_of(dtype)));
    return;
  }
  HWY_ALIGN float values[HWY_MAX_BYTES / sizeof(float)];
  for (std::int64_t i = 0; i < n; i += lanes) {
    const std::int64_t count = std::min(lanes, n - i);
    hn::Store(LoadFloats(d, x.data, x.dtype, row + i, n - i), d, values);
    if (dtype == DType::f32) {
      std::memcpy(to + 4 * i, values, static_cast<std::size_t>(4 * count));
      continue;
    }
    std::uint16_t bits[HWY_MAX_BYTES / sizeof(float)];
    for (std::int64_t j = 0; j < count; ++j) bits[j] = float_to_bf16(values[j]);
    std::memcpy(to + 2 * i, bits, static_cast<std::size_t>(2 * count));
  }
}

template <class T>
HWY_INLINE void StoreQuantised(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args,
                               std::int64_t t, std::uint8_t* entry) {
  const hn::ScalableTag<float> d;
  const T* x = args.latent.as<T>() + t * args.latent.step(0);
  std::uint8_t* scales = entry + problem.lora;
  for (std::int64_t begin = 0; begin < problem.lora; begin += 128) {
    store_f32(scales, QuantizeGroup(d, QuantRule::kv_cache, ScaleFormat::f32, x + begin, entry + begin));
    scales += 4;
  }
  CopyRow(args.rope, t, problem.rope_dim, DType::bf16, scales);
}

void MlaCacheStoreRows(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args, std::int64_t begin,
                       std::int64_t end) {
  const std::int64_t size = size_of(problem.cache);
  for (std::int64_t t = begin; t < end; ++t) {
    const std::int64_t slot = integer_at(args.slots, t);
    if (slot < 0) continue;
    std::uint8_t* entry = args.cache.as<std::uint8_t>() + slot * args.cache.step(0) * size;
    if (problem.cache != DType::u8) {
      CopyRow(args.latent, t, problem.lora, problem.cache, entry);
      CopyRow(args.rope, t, problem.rope_dim, problem.cache, entry + problem.lora * size);
    } else if (problem.latent == DType::f32) {
      StoreQuantised<float>(problem, args, t, entry);
    } else {
      StoreQuantised<std::uint16_t>(problem, args, t, entry);
    }
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(MlaCacheStoreRows);

void mla_cache_store_cpu(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args,
                         const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(MlaCacheStoreRows);
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  context.parallel_for(problem.tokens, kElementsPerTask / (problem.lora + problem.rope_dim),
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
