#include "bench.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "ops/elements.hpp"

namespace fathom {

std::shared_ptr<Buffer> bench_normal(DType dtype, std::initializer_list<std::int64_t> shape,
                                     double deviation) {
  const std::int64_t count = TensorView::contiguous(nullptr, dtype, shape).count();
  auto buffer = std::make_shared<Buffer>(count * size_of(dtype));
  // Fresh values for the first part only, then copies of it: a gigabyte of random numbers takes half a
  // minute. The part's length is odd, so that rows do not repeat one another.
  const std::int64_t fresh = std::min<std::int64_t>(count, (1 << 18) + 1);
  std::mt19937_64 engine(static_cast<std::uint64_t>(count));
  std::normal_distribution<float> normal(0, static_cast<float>(deviation));
  for (std::int64_t i = 0; i < fresh; ++i) store_element(buffer->data(), dtype, i, normal(engine));
  const std::int64_t part = fresh * size_of(dtype);
  for (std::int64_t done = part; done < buffer->size(); done += part) {
    std::memcpy(buffer->data() + done, buffer->data(),
                static_cast<std::size_t>(std::min(part, buffer->size() - done)));
  }
  return buffer;
}

namespace {
bool g_hot_weights = false;  // set once by the program, before the first bench is made
}

void use_hot_weights() { g_hot_weights = true; }

std::int64_t cold_copies(std::int64_t bytes) {
  if (g_hot_weights) return 1;
  const std::int64_t cache = std::max<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), 32 << 20);
  return std::max<std::int64_t>(1, (4 * cache + bytes - 1) / std::max<std::int64_t>(bytes, 1));
}

}  // namespace fathom
