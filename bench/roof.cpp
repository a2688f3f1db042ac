#include "roof.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "fathom/core/buffer.hpp"

namespace fathom {
namespace {

double seconds_of(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double read_bandwidth(const Context& context) {
  const std::int64_t cache = std::max<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), 32 << 20);
  const std::int64_t bytes = std::max<std::int64_t>(4 * cache, 256 << 20);
  const Buffer buffer(bytes);
  std::memset(buffer.data(), 1, static_cast<std::size_t>(bytes));
  const auto* words = reinterpret_cast<const std::uint64_t*>(buffer.data());
  std::atomic<std::uint64_t> sum = 0;
  double best = 0;
  for (int repetition = 0; repetition < 5; ++repetition) {
    const double seconds = seconds_of([&] {
      context.parallel_for(bytes / 8, 1 << 17, [&](std::int64_t begin, std::int64_t end) {
        sum += roof_detail::read_words(words + begin, end - begin);
      });
    });
    best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

double arithmetic(const Context& context, double (*run)(std::int64_t, float*)) {
  constexpr std::int64_t kRounds = 100'000;
  const std::int64_t tasks = std::int64_t{16} * context.threads();
  double best = 0;
  for (int repetition = 0; repetition < 5; ++repetition) {
    std::atomic<double> flops = 0;
    const double seconds = seconds_of([&] {
      context.parallel_for(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        float sink[16];
        for (std::int64_t task = begin; task < end; ++task) flops += run(kRounds, sink);
      });
    });
    best = std::max(best, flops / seconds);
  }
  return best;
}

}  // namespace

Roof measure_roof(const Context& context) {
  Roof roof;
  roof.read_bytes_per_second = read_bandwidth(context);
  const bool bf16 = roof_detail::has_bf16_dot();
  roof.flops_per_second = arithmetic(context, bf16 ? roof_detail::run_bf16_dot : roof_detail::run_fma);
  roof.flops_unit = bf16 ? "bf16 dot" : "f32 fma";
  return roof;
}

}  // namespace fathom
