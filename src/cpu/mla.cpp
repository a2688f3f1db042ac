#include "cpu/mla.hpp"

#include "core/cpu_target.hpp"

namespace fathom::cpu {

void mla_heads(const MlaHeads& task) {
  const bool bf16 = task.cache_dtype != DType::f32 && task.lora % 64 == 0 && task.rope_dim % 32 == 0;
  if (bf16 && has_avx512_bf16()) return mla_heads_avx512_bf16(task);
  mla_heads_simd(task);
}

}  // namespace fathom::cpu
