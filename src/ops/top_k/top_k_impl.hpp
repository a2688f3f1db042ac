// The implementations of top_k.
#pragma once
#include "fathom/ops/top_k.hpp"

namespace fathom {
void top_k_ref(const TopKProblem& problem, const TopKArgs& args, const Context& context);
void top_k_cpu(const TopKProblem& problem, const TopKArgs& args, const Context& context);
void top_k_simt(const TopKProblem& problem, const TopKArgs& args, const Context& context);

/// Writes what the transform makes of selected positions: one row at a time.
class TopKWriter {
 public:
  TopKWriter(const TopKProblem& problem, const TopKArgs& args, std::int64_t row);
  std::int32_t operator()(std::int32_t position) const {
    // 64 bits: whatever a block table holds, nothing overflows.
    const std::int64_t slot =
        table_ != nullptr ? std::int64_t{table_[position / 64]} * 64 + position % 64 : position + offset_;
    return static_cast<std::int32_t>(slot);
  }

 private:
  const std::int32_t* table_ = nullptr;
  std::int64_t offset_ = 0;
};

/// Scores as unsigned integers in the order of the contract: -0 equals 0, NaN is lowest.
inline std::uint32_t top_k_key(float score) {
  if (!(score == score)) return 0;
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, score + 0.0f);  // -0 + 0 = 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
}  // namespace fathom
