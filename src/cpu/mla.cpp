#include "cpu/mla.hpp"

#include <cmath>
#include <limits>

#include "core/cpu_target.hpp"

namespace fathom::cpu {

void mla_heads(const MlaHeads& task) {
  const bool bf16 = task.cache_dtype != DType::f32 && task.lora % 64 == 0 && task.rope_dim % 32 == 0;
  if (bf16 && has_avx512_bf16()) return mla_heads_avx512_bf16(task);
  mla_heads_simd(task);
}

float mla_share(const MlaHeads& task, std::int64_t h, float highest, float total) {
  const bool empty = task.count == 0;
  if (task.lse != nullptr)
    task.lse[h] = empty ? -std::numeric_limits<float>::infinity() : highest + std::log(total);
  if (empty) return 0;
  if (task.sink != nullptr) total += std::exp(task.sink[h] - highest);
  return 1 / total;
}

}  // namespace fathom::cpu
