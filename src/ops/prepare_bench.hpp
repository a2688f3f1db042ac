// What the benches of the ops that rotate and store have in common.
#pragma once
#include <numeric>

#include "bench.hpp"
#include "fathom/ops/rope.hpp"

namespace fathom {

/// 0, 1, 2, ... as i32.
inline std::shared_ptr<BenchBuffer> bench_ascending(std::int64_t count) {
  const auto buffer = bench_buffer(count * size_of(DType::i32));
  auto* values = reinterpret_cast<std::int32_t*>(buffer->data());
  std::iota(values, values + count, 0);
  return buffer;
}

/// Rows of a rope table for as many positions.
inline std::shared_ptr<BenchBuffer> bench_rope_table(std::int64_t rope_dim, std::int64_t positions) {
  const Buffer made = make_rope_table({.dim = rope_dim}, positions);
  const auto table = bench_buffer(made.size());
  table->repeat({made.data(), static_cast<std::size_t>(made.size())});
  return table;
}

}  // namespace fathom
