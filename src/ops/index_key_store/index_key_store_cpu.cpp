// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/index_key_store/index_key_store_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include "cpu/group_quant.hpp"
#include "cpu/simd.hpp"
#include "ops/cache_layout.hpp"
#include "ops/index_key_store/index_key_store_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A key of up to a group's values; zeros after a shorter one do not change its scale.
template <class D, class T>
float QuantizeKey(D d, ScaleFormat format, const T* x, std::int64_t dim, std::uint8_t* key) {
  if (dim == kQuantGroup) return QuantizeGroup(d, QuantRule::indexer, format, x, key);
  HWY_ALIGN T padded[kQuantGroup] = {};
  HWY_ALIGN std::uint8_t codes[kQuantGroup];
  std::copy(x, x + dim, padded);
  const float scale = QuantizeGroup(d, QuantRule::indexer, format, padded, codes);
  std::copy(codes, codes + dim, key);
  return scale;
}

void IndexKeyStoreRows(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args, std::int64_t begin,
                       std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const IndexCache cache{args.cache, problem.page, problem.dim};
  const ScaleFormat format = problem.ue8m0 ? ScaleFormat::ue8m0 : ScaleFormat::f32;
  for (std::int64_t t = begin; t < end; ++t) {
    const std::int64_t slot = integer_at(args.slots, t);
    if (slot < 0) continue;
    const std::int64_t page = slot / problem.page;
    const std::int64_t entry = slot % problem.page;
    const std::int64_t row = t * args.k.step(0);
    if (problem.cache == DType::f32) {
      float* to = cache.key_f32(page, entry);
      for (std::int64_t i = 0; i < problem.dim; i += lanes) {
        StoreFloats(d, LoadFloats(d, args.k.data, problem.k, row + i, problem.dim - i), to, DType::f32, i,
                    problem.dim - i);
      }
      continue;
    }
    std::uint8_t* key = cache.key_f8(page, entry);
    const float scale = problem.k == DType::f32
                            ? QuantizeKey(d, format, args.k.as<float>() + row, problem.dim, key)
                            : QuantizeKey(d, format, args.k.as<std::uint16_t>() + row, problem.dim, key);
    store_f32(cache.scale(page, entry), scale);
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(IndexKeyStoreRows);

void index_key_store_cpu(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args,
                         const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(IndexKeyStoreRows);
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  context.parallel_for(problem.tokens, kElementsPerTask / problem.dim,
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
