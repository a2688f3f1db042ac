// The implementations of rope.
#pragma once
#include "fathom/ops/rope.hpp"
#include "ops/validate.hpp"

namespace fathom {
void rope_ref(const RopeProblem& problem, const RopeArgs& args, const Context& context);
void rope_cpu(const RopeProblem& problem, const RopeArgs& args, const Context& context);
void rope_simt(const RopeProblem& problem, const RopeArgs& args, const Context& context);

/// Checks positions and cos_sin of every op that rotates elements [offset, offset + rope_dim) of `dim` ones.
void expect_rotation(const Expect& expect, const TensorView& positions, const TensorView& cos_sin,
                     std::int64_t tokens, std::int64_t dim, std::int64_t offset);

/// Element t of positions, which is i32 or i64.
inline std::int64_t rope_position(const TensorView& positions, std::int64_t t) {
  const std::int64_t index = t * positions.step(0);
  return positions.dtype == DType::i32 ? positions.as<std::int32_t>()[index]
                                       : positions.as<std::int64_t>()[index];
}
}  // namespace fathom
