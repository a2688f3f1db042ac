#include "ops/cache_layout.hpp"
#include "ops/index_key_gather/index_key_gather_impl.hpp"

namespace fathom {

void index_key_gather_ref(const IndexKeyGatherProblem& problem, const IndexKeyGatherArgs& args,
                          const Context& context) {
  const IndexCache cache{args.cache};
  const bool quantised = problem.cache == DType::u8;
  const auto key_bytes = static_cast<std::size_t>(problem.dim * size_of(args.keys.dtype));
  std::int64_t base = 0;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const std::int64_t len = integer_at(args.lens, b);
    const std::int64_t pages = (len + kIndexKeyPageTokens - 1) / kIndexKeyPageTokens;
    context.parallel_for(pages, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin * kIndexKeyPageTokens; i < std::min(len, end * kIndexKeyPageTokens); ++i) {
        const std::int64_t page = int_at(args.block_table, b, i / kIndexKeyPageTokens);
        const std::int64_t entry = i % kIndexKeyPageTokens;
        const std::int64_t row = base + i;
        const void* key = quantised ? static_cast<const void*>(cache.key_f8(page, entry))
                                    : static_cast<const void*>(cache.key_f32(page, entry));
        std::memcpy(args.keys.as<std::byte>() + row * args.keys.step(0) * size_of(args.keys.dtype), key,
                    key_bytes);
        if (quantised) args.scales.as<float>()[row] = load_f32(cache.scale(page, entry));
      }
    });
    base += len;
  }
}

}  // namespace fathom
