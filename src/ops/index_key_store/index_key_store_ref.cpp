#include "ops/cache_layout.hpp"
#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/index_key_store/index_key_store_impl.hpp"

namespace fathom {

// f32 arithmetic, not double: the bytes are the contract.
void index_key_store_ref(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args, const Context&) {
  const IndexCache cache{args.cache, problem.page, problem.dim};
  const ScaleFormat format = problem.ue8m0 ? ScaleFormat::ue8m0 : ScaleFormat::f32;
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const std::int64_t slot = integer_at(args.slots, t);
    if (slot < 0) continue;
    const std::int64_t page = slot / problem.page;
    const std::int64_t entry = slot % problem.page;
    const auto load = [&](std::int64_t i) { return at(args.k, t, i); };
    if (problem.cache == DType::f32) {
      for (std::int64_t i = 0; i < problem.dim; ++i) cache.key_f32(page, entry)[i] = load(i);
    } else {
      store_f32(cache.scale(page, entry),
                quantize_group(QuantRule::indexer, format, problem.dim, load, cache.key_f8(page, entry)));
    }
  }
}

}  // namespace fathom
