// The implementations of top_k.
#pragma once
#include <vector>

#include "cuda/driver.hpp"
#include "fathom/ops/top_k.hpp"
#include "jit/jit.hpp"
#include "layout/top_k.cuh"
#include "ops/dispatch.hpp"

namespace fathom {
/// Throws as the op does; the problem otherwise.
TopKProblem top_k_validate(const TopKArgs& args, Device device);
void top_k_ref(const TopKProblem& problem, const TopKArgs& args, const Context& context);
void top_k_cpu(const TopKProblem& problem, const TopKArgs& args, const Context& context);
Verdict top_k_sm90_can_run(const TopKProblem& problem, const Context& context);
void top_k_sm90(const TopKProblem& problem, const TopKArgs& args, const Context& context);
/// None if it declines the problem.
std::vector<jit::Source> top_k_sm90_kernels(const TopKProblem& problem, const cuda::DeviceInfo& device);
void top_k_simt(const TopKProblem& problem, const TopKArgs& args, const Context& context);

/// Writes what the transform makes of selected positions: one row at a time.
class TopKWriter {
 public:
  TopKWriter(const TopKProblem& problem, const TopKArgs& args, std::int64_t row);
  std::int32_t operator()(std::int32_t position) const {
    // 64 bits: whatever a block table holds, nothing overflows.
    if (table_ == nullptr) return static_cast<std::int32_t>(position + offset_);
    const std::int64_t page = table_[position / page_];
    return static_cast<std::int32_t>(page < 0 ? -1 : page * page_ + position % page_);
  }

 private:
  const std::int32_t* table_ = nullptr;
  std::int64_t page_ = 64;
  std::int64_t offset_ = 0;
};

/// A call as the kernels take it.
TopKKernel top_k_kernel(const TopKProblem& problem, const TopKArgs& args);

/// Scores as unsigned integers in the order of the contract: -0 equals 0, NaN is lowest.
inline std::uint32_t top_k_key(float score) {
  if (!(score == score)) return 0;
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, score + 0.0f);  // -0 + 0 = 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
}  // namespace fathom
