#include "bench.hpp"

#include <unistd.h>

#include <algorithm>
#include <random>

#include "ops/elements.hpp"

namespace fathom {

std::shared_ptr<Buffer> bench_normal(DType dtype, std::initializer_list<std::int64_t> shape,
                                     double deviation) {
  const std::int64_t count = TensorView::contiguous(nullptr, dtype, shape).count();
  auto buffer = std::make_shared<Buffer>(count * size_of(dtype));
  std::mt19937_64 engine(static_cast<std::uint64_t>(count));
  std::normal_distribution<float> normal(0, static_cast<float>(deviation));
  for (std::int64_t i = 0; i < count; ++i) store_element(buffer->data(), dtype, i, normal(engine));
  return buffer;
}

std::int64_t cold_copies(std::int64_t bytes) {
  const std::int64_t cache = std::max<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), 32 << 20);
  return std::max<std::int64_t>(1, (4 * cache + bytes - 1) / std::max<std::int64_t>(bytes, 1));
}

}  // namespace fathom
