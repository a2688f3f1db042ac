#include "ops/cache_layout.hpp"
#include "ops/index_key_gather/index_key_gather_impl.hpp"

namespace fathom {

void index_key_gather_ref(const IndexKeyGatherProblem& problem, const IndexKeyGatherArgs& args,
                          const Context& context) {
  const IndexCache cache{args.cache, problem.page, problem.dim};
  const bool quantised = problem.cache == DType::u8;
  const auto key_bytes = static_cast<std::size_t>(problem.dim * size_of(args.keys.dtype));
  std::int64_t base = 0;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const std::int64_t len = integer_at(args.lens, b);
    const std::int64_t pages = (len + problem.page - 1) / problem.page;
    context.parallel_for(pages, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin * problem.page; i < std::min(len, end * problem.page); ++i) {
        const std::int64_t page = int_at(args.block_table, b, i / problem.page);
        const std::int64_t entry = i % problem.page;
        const std::int64_t row = base + i;
        auto* to = args.keys.as<std::byte>() + row * args.keys.step(0) * size_of(args.keys.dtype);
        if (page < 0) {
          std::memset(to, 0, key_bytes);
          if (quantised) args.scales.as<float>()[row] = 0;
          continue;
        }
        const void* key = quantised ? static_cast<const void*>(cache.key_f8(page, entry))
                                    : static_cast<const void*>(cache.key_f32(page, entry));
        std::memcpy(to, key, key_bytes);
        if (quantised) args.scales.as<float>()[row] = load_f32(cache.scale(page, entry));
      }
    });
    base += len;
  }
}

}  // namespace fathom
